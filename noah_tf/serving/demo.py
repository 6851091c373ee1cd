"""The subcommand `demo`, which opens a web page to try a model on one's own photos."""

import argparse
import errno
import html
import os
import pathlib
import signal
import socket
import tempfile
import threading
from types import ModuleType
from typing import Any

from noah_tf.serving.demo_model import BadPhoto, DemoModel, explain_photo, find_version, load_model
from noah_tf.serving.options import positive_int

_MAX_FILE_SIZE = "64mb"
_DELETE_CACHE = (300, 3600)  # seconds: every five minutes, delete files older than an hour
_CSS = """
.gradio-container main { width: 100%; max-width: 1100px; margin: auto }
.noah-head h1 { font-size: 1.7rem; margin: 0 }
.noah-head p, .noah-status { color: var(--body-text-color-subdued); margin: .2rem 0 0 }
.noah-status b { color: var(--body-text-color) }
.noah-bad { color: var(--body-text-color); background: #dc262618; border-left: 4px solid #dc2626;
    padding: .5rem .8rem }
#pictures .grid-wrap { max-height: none; overflow: visible }
#pictures .caption-label { white-space: normal; max-width: 100%; text-overflow: clip }
"""
_HINT = "Your file goes to the model byte for byte."
_NO_CLASSES = "No class reaches the probability that the model asks for."


def build_page(model: DemoModel) -> Any:
    """Returns the page as a `gradio.Blocks` that is not served yet."""
    import gradio as gr

    def show(path: str) -> tuple[None, str, dict[str, float], list]:
        file = pathlib.Path(path)
        try:
            probabilities, pictures = explain_photo(model, file.read_bytes())
        except BadPhoto as error:
            return None, _status(str(error), file.name, is_error=True), {}, []
        text = "" if probabilities else _NO_CLASSES
        return None, _status(text, file.name), probabilities, pictures

    with gr.Blocks(
        title=_title(model), analytics_enabled=False, delete_cache=_DELETE_CACHE
    ) as page:
        gr.HTML(heading(model), elem_classes="noah-head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                upload = gr.File(label="Photo", height=170, elem_id="photo")
                status = gr.HTML(_status(_HINT), elem_id="status")
                classes = gr.Label(label="Classes", elem_id="classes")
            with gr.Column(scale=5):
                pictures = gr.Gallery(
                    label="Where each class was seen",
                    show_label=False,
                    columns=3,
                    height="auto",
                    object_fit="contain",
                    format="png",
                    buttons=["download", "fullscreen"],
                    interactive=False,
                    elem_id="pictures",
                )
        # `show` empties the upload field, so that it takes the next photo.
        upload.upload(show, upload, [upload, status, classes, pictures], api_visibility="private")
    return page


def heading(model: DemoModel) -> str:
    """Returns the page's heading as HTML: the model's name, and facts from its card."""
    card = model.card
    data, metrics = card.get("data", {}), card.get("metrics", {})
    facts = []
    if "num_classes" in data:
        facts.append(f"{data['num_classes']:,} classes")
    if "total" in card.get("parameters", {}):
        facts.append(f"{card['parameters']['total']:,} parameters")
    if "name" in data:
        facts.append(f"trained on {data['name']}")
    for key, name in (("top1", "top-1"), ("mAP", "mAP")):
        if key in metrics:
            split = f" on {data['eval_split']}" if "eval_split" in data else ""
            facts.append(f"{name} {metrics[key]:.2%}{split}")
    lines = [" · ".join(facts)] if facts else []
    if not model.explains:
        lines.append(
            "This model has no signature explain, so the page shows its classes without attention. "
            "Models with a NOAH head have that signature."
        )
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f"<h1>{html.escape(_title(model))}</h1>{paragraphs}"


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="a page to try a model",
        description="Opens a web page on this machine: drop a photo, see its classes and where "
        "the model looked. Needs no server.",
    )
    parser.add_argument(
        "--model-dir",
        required=True,
        metavar="DIR",
        help="folder with the versions of the model, saved_models/NAME",
    )
    parser.add_argument("--version", type=positive_int, help="version to load (the newest)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=_port, default=7860, help="port to listen at (%(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves the page until it is interrupted.

    Returns:
        The exit code.

    Raises:
        OSError: there is no such model, or the port is in use.
        ImportError: Gradio is not installed.
    """
    find_version(options.model_dir, options.version)
    _check_port(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="noah-tf-demo-") as folder:
        # Gradio reads these variables while it is imported and while a page is built.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder)
        gr = _import_gradio()
        page = build_page(load_model(options.model_dir, options.version))
        # SIGTERM, too, must delete the folder with the photos.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Gradio's own themes load fonts from the internet.
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        try:
            page.launch(
                server_name=f"[{options.host}]" if ":" in options.host else options.host,
                server_port=options.port,
                theme=gr.themes.Default(primary_hue="orange", neutral_hue="stone", **fonts),
                css=_CSS,
                share=False,
                ssr_mode=False,
                quiet=True,
                footer_links=[],
                max_file_size=_MAX_FILE_SIZE,
                prevent_thread_lock=True,
            )
            print(f"The page is at {page.local_url} until Ctrl+C.", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
        finally:
            page.close(verbose=False)
    return 0


def _title(model: DemoModel) -> str:
    return f"{model.name}, version {model.version}"


def _status(text: str, file_name: str = "", is_error: bool = False) -> str:
    """Returns a sentence as HTML, after the name of the file that it is about."""
    name = f"<b>{html.escape(file_name)}</b> " if file_name else ""
    css_class = "noah-status noah-bad" if is_error else "noah-status"
    return f'<p class="{css_class}">{name}{html.escape(text)}</p>'


def _import_gradio() -> ModuleType:
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            f"The page needs Gradio ({error}): pip install 'noah-tf[demo]'."
        ) from error
    return gradio


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, got {text!r}")
    return int(text)


def _check_port(host: str, port: int) -> None:
    """Raises OSError before the model is loaded if the page cannot listen at the address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} of {host} is in use: give another one, --port.") from None
        reason = (error.strerror or str(error)).lower()
        raise OSError(f"The page cannot listen at {host}, port {port}: {reason}.") from None
