"""The subcommand that opens a page in the browser, where a model is tried on one's own photos."""

import argparse
import errno
import html
import os
import pathlib
import signal
import socket
import tempfile
import threading

from noah_tf.serving.demo_model import BadPhoto, answer, load_model, version_folder
from noah_tf.serving.options import positive

_LARGEST_FILE = "64mb"
_KEPT = (300, 3600)  # seconds: every five minutes, what is older than an hour is deleted
_CSS = """
.gradio-container main { width: 100%; max-width: 1100px; margin: auto }
.noah-head h1 { font-size: 1.7rem; margin: 0 }
.noah-head p, .noah-said { color: var(--body-text-color-subdued); margin: .2rem 0 0 }
.noah-said b { color: var(--body-text-color) }
.noah-bad { color: var(--body-text-color); background: #dc262618; border-left: 4px solid #dc2626;
    padding: .5rem .8rem }
#pictures .grid-wrap { max-height: none; overflow: visible }
#pictures .caption-label { white-space: normal; max-width: 100%; text-overflow: clip }
"""
_HINT = "Your file goes to the model byte for byte."


def build_page(model):
    """The page, not yet served.

    Args:
        model: a `DemoModel`.

    Returns:
        A `gradio.Blocks`.
    """
    import gradio as gr

    def show(path):
        file = pathlib.Path(path)
        try:
            probabilities, pictures = answer(model, file.read_bytes())
        except BadPhoto as error:
            return None, _said(error, file.name, "noah-said noah-bad"), {}, []
        none = "" if probabilities else "No class is as probable as the model asks for."
        return None, _said(none, file.name), probabilities, pictures

    with gr.Blocks(title=_title(model), analytics_enabled=False, delete_cache=_KEPT) as page:
        gr.HTML(heading(model), elem_classes="noah-head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                dropped = gr.File(label="Photo", height=170, elem_id="photo")
                said = gr.HTML(_said(_HINT), elem_id="said")
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
        # The place to drop a photo is empty again after each one, ready for the next.
        dropped.upload(show, dropped, [dropped, said, classes, pictures], api_visibility="private")
    return page


def heading(model):
    """The page's first lines: the model's name, and what its card says; HTML."""
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
            "This model has no signature explain, so there are classes only and no attention: "
            "models with a NOAH head have it."
        )
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f"<h1>{html.escape(_title(model))}</h1>{paragraphs}"


def add_parser(subparsers):
    """Adds the subcommand."""
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
        help="folder of its versions, saved_models/NAME",
    )
    parser.add_argument("--version", type=positive, help="which one (the newest)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=_port, default=7860, help="its port (%(default)s)")
    parser.set_defaults(run=run)


def run(options):
    """Shows the page until it is interrupted.

    Returns:
        The exit code.

    Raises:
        OSError: there is no such model, or the port is in use.
        ImportError: Gradio is not installed.
    """
    version_folder(options.model_dir, options.version)
    _check_port(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="noah-tf-demo-") as folder:
        # It looks at them while it is imported and while a page is built.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder)
        gr = _gradio()
        page = build_page(load_model(options.model_dir, options.version))
        # Also a SIGTERM is to take the photos away.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Fonts of the machine: Gradio's own themes ask for some that are not.
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
                max_file_size=_LARGEST_FILE,
                prevent_thread_lock=True,
            )
            print(f"The page is at {page.local_url} until Ctrl+C.", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0
        finally:
            page.close(verbose=False)


def _title(model):
    return f"{model.name}, version {model.version}"


def _said(text, file_name="", kind="noah-said"):
    """A sentence for the page, behind the name of the file that it is about."""
    name = f"<b>{html.escape(file_name)}</b> " if file_name else ""
    return f'<p class="{kind}">{name}{html.escape(str(text))}</p>'


def _gradio():
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            f"The page needs Gradio ({error}): pip install 'noah-tf[demo]'."
        ) from error
    return gradio


def _port(text):
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, got {text!r}")
    return int(text)


def _check_port(host, port):
    """Looks whether the page can be there, before anything slow is done."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} of {host} is in use: give another one, --port.") from None
        reason = (error.strerror or str(error)).lower()
        raise OSError(f"The page cannot listen at {host}, port {port}: {reason}.") from None
