"""The output and the exit codes of python -m noah_tf.serving."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from head_helpers import child_environment
from photos import encoded, noise
from PIL import Image
from ports import reserved_ports
from scripted import available, scripted_server

from noah_tf.serving.__main__ import main

pytestmark = pytest.mark.one_stack


@pytest.fixture
def photos(tmp_path):
    """The paths of three photos and of a text file."""
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(encoded(noise(10 + index, 8, seed=index), "PNG"))
    (tmp_path / "text.jpg").write_text("this is no photo")
    return [str(path) for path in [*paths, tmp_path / "text.jpg"]]


def run(capsys, *arguments):
    """Returns the exit code, and the lines of stdout and of stderr."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_predict_prints_a_table(server, photos, capsys):
    code, out, err = run(
        capsys, "predict", "--url", server.rest, "--model", "tiny", "--version", 1, *photos[:3]
    )
    assert (code, err) == (0, [])
    assert out[0].split() == ["file", "classes"]
    assert [line.split()[0] for line in out[1:]] == photos[:3]
    assert all(line.count("%") == 2 for line in out[1:])


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
def test_predict_prints_one_json_object_per_file(server, photos, capsys, scheme):
    options = ["--url", getattr(server, scheme), "--model", "tiny", "--label", "canary"]
    code, out, err = run(
        capsys, "predict", *options, "--batch-size", 2, "--format", "json", "--top-k", 1, *photos
    )
    assert (code, err) == (0, [])
    answers = [json.loads(line) for line in out]
    assert [answer["file"] for answer in answers] == photos
    assert [len(answer["classes"]) for answer in answers] == [1, 1, 1, 0]
    assert [answer["status"] for answer in answers] == ["OK"] * 3 + ["neither PNG nor JPEG"]
    assert all(len(answer["logits"]) == 3 for answer in answers)


def test_explain_prints_where_the_model_looked(server, photos, capsys):
    options = ["--url", server.rest, "--model", "tiny", "--signature", "explain"]
    code, out, _ = run(capsys, "predict", *options, photos[0])
    assert code == 0
    # The right cell of the lower row; the map covers the left half of the photo.
    assert "75% down, 42% across" in out[1]


def test_a_refused_photo_is_named_and_the_others_are_shown(server, photos, capsys):
    options = ["--url", server.rest, "--model", "tiny", "--label", "stable", "--batch-size", 2]
    order = [photos[0], photos[1], photos[2], photos[3], photos[0]]
    code, out, err = run(capsys, "predict", *options, *order)
    assert code == 1
    assert [line.split()[0] for line in out[1:]] == [*photos[:3], photos[0]]
    assert len(err) == 1
    assert err[0].startswith(f"The server refused {photos[3]}: ")
    assert "row 0 is neither PNG nor JPEG" in err[0]


def test_photos_that_are_too_large_together_are_asked_about_one_by_one(photos, capsys):
    row = {"classes": [1], "labels": ["green"], "probabilities": [0.5]}
    too_large, answer = (413, {"error": "the request is too large"}), (200, {"predictions": [row]})
    with scripted_server((200, available()), too_large, answer, too_large, answer) as (url, _):
        code, out, err = run(capsys, "predict", "--url", url, "--model", "tiny", *photos[:3])
    assert code == 1
    assert [line.split()[0] for line in out[1:]] == [photos[0], photos[2]]
    assert err == [f"The server refused {photos[1]}: the request is too large (HTTP 413)."]


def test_the_answers_before_an_error_are_printed(photos, capsys):
    row = {"classes": [1], "labels": ["green"], "probabilities": [0.5]}
    answers = [(200, available()), (200, {"predictions": [row]}), (503, {"error": "going down"})]
    with scripted_server(*answers) as (url, script):
        code, out, err = run(
            capsys,
            *["predict", "--url", url, "--model", "tiny", "--batch-size", 1, "--retries", 1],
            *photos,
        )
    assert code == 1
    assert len(out) == 2
    assert "green 50.0%" in out[1]
    assert len(err) == 1
    assert "was not available" in err[0]
    assert "going down (HTTP 503)" in err[0]
    assert len(script.requests) == 4


@pytest.mark.parametrize("command", ["predict", "load"])
def test_files_are_checked_before_the_server_is_asked(command, tmp_path, photos, capsys):
    options = [command, "--url", "http://127.0.0.1:1", "--model", "tiny", photos[0]]
    for path, sentence in (
        (tmp_path / "no.jpg", f"There is no file {tmp_path / 'no.jpg'}."),
        (tmp_path, f"{tmp_path} is a folder: name the photos in it, such as {tmp_path}/*.jpg."),
    ):
        assert run(capsys, *options, path) == (1, [], [sentence])


def test_an_unreadable_file_is_one_sentence(photos, capsys, monkeypatch):
    def raise_permission_error(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), photos[0])

    # CI runs as root, which may read a file of any mode.
    monkeypatch.setattr(pathlib.Path, "open", raise_permission_error)
    code, _, err = run(
        capsys, "predict", "--url", "http://127.0.0.1:1", "--model", "tiny", photos[0]
    )
    assert (code, err) == (1, [f"{photos[0]} cannot be read: permission denied."])


def test_a_circular_link_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "circle.jpg"
    path.symlink_to(path)
    code, _, err = run(capsys, "predict", "--url", "http://127.0.0.1:1", "--model", "tiny", path)
    assert (code, err) == (1, [f"{path} cannot be read: too many levels of symbolic links."])


def test_a_server_that_does_not_exist_is_one_sentence(photos, capsys):
    with reserved_ports(1) as (port,):
        url = f"http://127.0.0.1:{port}"
        code, out, (sentence,) = run(
            capsys, "predict", "--url", url, "--model", "tiny", "--wait", 0, photos[0]
        )
    assert (code, out) == (1, [])
    assert re.fullmatch(f"tiny at {url} was not ready in .* s: connection refused.", sentence)


def test_a_bad_url_is_one_sentence(photos, capsys):
    code, _, err = run(capsys, "predict", "--url", "localhost:8501", "--model", "tiny", photos[0])
    assert code == 1
    assert err == [
        "url must be the address of a server, got 'localhost:8501': give http://HOST:8501, "
        "https://HOST, grpc://HOST:8500 or grpcs://HOST:8444."
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["serve"], "invalid choice: 'serve'"),
        (["predict", "--url", "http://h"], "required: --model, photo"),
        (["predict", "--version", "0"], "must be a positive integer, got '0'"),
        (["predict", "--version", "1", "--label", "x"], "not allowed with argument --version"),
        (["predict", "--batch-size", "x"], "must be a positive integer, got 'x'"),
        (["predict", "--retries", "-1"], "must be 0 or a positive integer, got '-1'"),
        (["predict", "--timeout", "nan"], "must be a positive number of seconds, got 'nan'"),
        (["predict", "--format", "xml"], "invalid choice: 'xml'"),
        (["load", "--seconds", "0"], "must be a positive number of seconds, got '0'"),
        (["load", "--wait", "-1"], "must be a number of seconds, got '-1'"),
        (["load", "--concurrency", "0"], "must be a positive integer, got '0'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
def test_load_measures_and_draws(server, photos, capsys, scheme, tmp_path):
    options = ["--url", getattr(server, scheme), "--model", "tiny", "--version", 1]
    options += ["--concurrency", 4, "--seconds", 0.5, "--warmup-seconds", 0.1, "--batch-size", 2]
    path = tmp_path / "latency.png"
    code, out, err = run(capsys, "load", *options, "--histogram", path, *photos[:3])
    assert (code, err) == (0, [])
    assert "0 failed" in out[0]
    assert "4 at a time, 2 images each" in out[0]
    requests, images = (float(out[1].split()[i]) for i in (1, 3))
    assert images == pytest.approx(2 * requests, abs=0.2)
    assert out[2].split()[1::2][:6] == ["mean", "p50", "p90", "p95", "p99", "max"]
    values = [float(value) for value in out[2].split()[4:13:2]]
    assert values == sorted(values)
    assert out[-1] == f"Histogram: {path}"
    bars = [line for line in out if " to " in line]
    assert sum(int(line.split()[4]) for line in bars) == int(out[0].split()[1])
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_load_counts_errors_and_exits_with_1_if_no_request_succeeded(photos, capsys):
    with scripted_server((200, available()), (503, {"error": "full"})) as (url, _):
        code, out, _ = run(
            capsys,
            *["load", "--url", url, "--model", "tiny", "--concurrency", 2, "--seconds", 0.2],
            *["--warmup-seconds", 0, "--histogram", "never.png", photos[0]],
        )
    assert code == 1
    assert out[0].startswith("requests    0 succeeded, ")
    assert "x HTTP 503, mean " in out[1]
    assert "full (HTTP 503)" in out[1]
    assert all(line.startswith("note ") for line in out[2:])  # on a busy machine
    assert not os.path.exists("never.png")


def test_the_folder_of_the_histogram_is_checked_first(photos, tmp_path, capsys):
    path = tmp_path / "no" / "latency.png"
    options = ["--url", "http://127.0.0.1:1", "--model", "tiny", "--histogram", path]
    code, _, err = run(capsys, "load", *options, photos[0])
    sentence = f"The histogram cannot be written: there is no folder {path.parent}."
    assert (code, err) == (1, [sentence])


@pytest.mark.slow
def test_a_closed_pipe_ends_the_program_without_a_traceback(server, photos):
    command = [sys.executable, "-m", "noah_tf.serving", "predict", "--url", server.rest]
    command += ["--model", "tiny", "--format", "json", *photos[:3] * 2000, "--batch-size", "300"]
    process = subprocess.Popen(
        command,
        env=child_environment(CUDA_VISIBLE_DEVICES="-1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    assert first["file"] == photos[0]
    assert process.wait(timeout=60) == 1
    assert b"Traceback" not in process.stderr.read()
