"""The demo page: its command line, and its behavior in a browser."""

import argparse
import html
import os
import re
import signal
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
import requests
from chromium import DemoPage, browser, console_errors, missing_software, requested_urls
from head_helpers import child_environment
from photos import encoded, noise, smooth
from PIL import Image
from ports import reserved_ports
from stacks import slow_on_one_stack
from tiny_model import write_tiny_model

from noah_tf.export.model_card import CardFacts, model_card
from noah_tf.serving import demo
from noah_tf.serving.__main__ import main
from noah_tf.serving.demo_model import DemoModel, explain_photo, load_model

pytestmark = pytest.mark.one_stack


@pytest.fixture
def free_port():
    with reserved_ports(1) as (port,):
        yield port


def run(capsys, *arguments):
    """Returns the exit code and the lines of stderr."""
    code = main(["demo", *map(str, arguments)])
    return code, capsys.readouterr().err.splitlines()


def test_a_missing_model_is_one_sentence(tiny_models, tmp_path, capsys):
    missing = tmp_path / "no"
    assert run(capsys, "--model-dir", missing) == (1, [f"There is no folder {missing}."])
    code, lines = run(capsys, "--model-dir", tmp_path)
    assert (code, len(lines)) == (1, 1)
    assert f"{tmp_path} has no version of a model" in lines[0]
    sentence = f"{tiny_models} has no version 7; its newest is 2."
    assert run(capsys, "--model-dir", tiny_models, "--version", 7) == (1, [sentence])
    sentence = f"{tiny_models}/2 is a version itself: give --model-dir {tiny_models} --version 2."
    assert run(capsys, "--model-dir", tiny_models / "2") == (1, [sentence])


def test_a_port_in_use_is_one_sentence(tiny_models, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, lines = run(capsys, "--model-dir", tiny_models, "--port", port)
    sentence = f"Port {port} of 127.0.0.1 is in use: give another one, --port."
    assert (code, lines) == (1, [sentence])


def test_a_host_of_another_machine_is_one_sentence(tiny_models, free_port, capsys):
    options = ["--model-dir", tiny_models, "--host", "192.0.2.1", "--port", free_port]
    code, lines = run(capsys, *options)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"The page cannot listen at 192.0.2.1, port {free_port}: ")


def test_without_gradio_the_error_has_a_command(tiny_models, free_port, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    code, lines = run(capsys, "--model-dir", tiny_models, "--port", free_port)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("The page needs Gradio (")
    assert lines[0].endswith("): pip install 'noah-tf[demo]'.")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: --model-dir"),
        (["--model-dir", "m", "--version", "0"], "must be a positive integer, got '0'"),
        (["--model-dir", "m", "--port", "70000"], "must be a port from 1 to 65535, got '70000'"),
        (["--model-dir", "m", "--port", "x"], "must be a port from 1 to 65535, got 'x'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["demo", *arguments])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_the_page_is_for_this_machine_alone_by_default():
    parser = argparse.ArgumentParser()
    demo.add_parser(parser.add_subparsers())
    options = parser.parse_args(["demo", "--model-dir", "m"])
    assert (options.host, options.port, options.version) == ("127.0.0.1", 7860, None)


def test_the_heading_has_the_facts_of_the_card():
    card = {
        "data": {"name": "digit_scenes", "eval_split": "test", "num_classes": 1000},
        "parameters": {"total": 316176},
        "metrics": {"top1": 0.9735},
    }
    assert text_of(DemoModel("m", "3", None, True, card)) == (
        "m, version 3 1,000 classes · 316,176 parameters · trained on digit_scenes · "
        "top-1 97.35% on test"
    )
    assert text_of(DemoModel("m", "3", None, True, {})) == "m, version 3"
    assert "no signature explain" in text_of(DemoModel("m", "3", None, False, card))


def test_names_are_escaped_in_html():
    card = {"data": {"name": "<script>alert(1)</script>"}}
    model = DemoModel("<b>", "1", None, True, card)
    assert "<script" not in demo.heading(model) and "<b>" not in demo.heading(model)
    assert "<script>alert(1)</script>" in html.unescape(demo.heading(model))


def text_of(model):
    return " ".join(re.sub("<[^>]*>", " ", demo.heading(model)).split())


@pytest.mark.slow
def test_the_page_still_answers_after_a_bad_photo(tiny_models, tmp_path):
    pytest.importorskip("gradio")
    page = demo.build_page(load_model(tiny_models))
    (show,) = (block.fn for block in page.fns.values() if block.fn.__name__ == "show")
    good, bad = tmp_path / "good.png", tmp_path / "<b>.jpg"
    good.write_bytes(encoded(noise(20, 30), "PNG"))
    bad.write_text("this is no photo")
    for _ in range(2):
        upload, status, classes, pictures = show(str(good))
        assert upload is None and "good.png" in status
        assert len(classes) == 2 and len(pictures) == 3
        upload, status, classes, pictures = show(str(bad))
        assert "&lt;b&gt;.jpg" in status
        assert "The model cannot read this photo: neither PNG nor JPEG." in status
        assert (upload, classes, pictures) == (None, {}, [])


@pytest.fixture
def running(tmp_path, free_port):
    """The demo of a model that has a card, in a process of its own."""
    pytest.importorskip("gradio")
    if missing_software():
        pytest.skip(missing_software())
    models, scratch = tmp_path / "colors", tmp_path / "scratch"
    write_tiny_model(models / "1")
    write_tiny_model(models / "2", tolerant=True)
    facts = CardFacts("colors", class_names=["red", "green", "blue"], data={"name": "paint"})
    (models / "1" / "MODEL_CARD.md").write_text(model_card(facts), encoding="utf-8")
    scratch.mkdir()
    command = [sys.executable, "-m", "noah_tf.serving", "demo", "--model-dir", str(models)]
    process = subprocess.Popen(
        [*command, "--version", "1", "--port", str(free_port)],
        env=child_environment(CUDA_VISIBLE_DEVICES="-1", TMPDIR=str(scratch)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    url = f"http://127.0.0.1:{free_port}/"
    try:
        assert process.stdout.readline() == f"The page is at {url} until Ctrl+C.\n"
        yield types.SimpleNamespace(url=url, models=models, process=process, scratch=scratch)
    finally:
        process.kill()
        process.wait()


@slow_on_one_stack
def test_in_a_browser(running, tmp_path):
    photo, broken = tmp_path / "photo.jpg", tmp_path / "broken.jpg"
    photo.write_bytes(encoded(smooth(40, 80), "JPEG", quality=30))
    broken.write_bytes(photo.read_bytes()[:200])
    model = load_model(running.models, 1)
    probabilities, pictures = explain_photo(model, photo.read_bytes())
    with browser() as driver:
        page = DemoPage(driver, running.url)
        assert driver.title == "colors, version 1"
        assert page.text(".noah-head").split("\n") == [
            "colors, version 1",
            "3 classes · trained on paint",
        ]
        for _ in range(2):
            page.upload(photo)
            assert page.text("#status") == "photo.jpg"
            shown = page.text("#classes").split("\n")
            best, value = next(iter(probabilities.items()))
            assert shown[1] == best and f"{value:.0%}" in shown
            assert all(name in shown for name in probabilities)
            addresses, captions = page.pictures()
            assert captions == [caption for _, caption in pictures]
            for address, (picture, _) in zip(addresses, pictures, strict=True):
                answered = requests.get(address, stream=True, timeout=10)
                np.testing.assert_array_equal(np.asarray(Image.open(answered.raw)), picture)
            page.upload(broken)
            status = page.text("#status")
            assert status.startswith("broken.jpg The model cannot read this photo: "), status
            assert page.pictures() == ([], [])
            assert not set(probabilities) & set(page.text("#classes").split("\n"))
        assert console_errors(driver) == []
        addresses = requested_urls(driver)
        assert len(addresses) > 10
        assert [address for address in addresses if not address.startswith(running.url)] == []
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=20) == 0
    assert list(running.scratch.iterdir()) == []
