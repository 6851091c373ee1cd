"""The load test: that it measures what it says."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from head_helpers import child_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scripted import available, scripted_server

from noah_tf.serving import Client, ServingError, histogram
from noah_tf.serving.load import LoadReport, _filled, measure

PREDICTION = {"predictions": [{"classes": [1]}]}


class FakeClient:
    """Takes `spend(number)` seconds for its request of that number; an error is raised."""

    def __init__(self, spend):
        self.spend, self.count, self.sent, self.closed = spend, 0, [], False
        self.under_way, self.most = 0, 0

    def prepare(self, images, signature):
        def send():
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            number, self.count = self.count, self.count + 1
            self.sent.append((tuple(images), signature))
            seconds = self.spend(number)
            time.sleep(abs(seconds))
            self.under_way -= 1
            if seconds < 0:
                raise ServingError("scripted", "HTTP 503" if number % 2 else "timeout")

        return send

    def close(self):
        self.closed = True


def measured(spend, batches=((b"a",),), concurrency=2, seconds=0.5, warmup=0.0):
    clients = []

    def make():
        clients.append(FakeClient(spend))
        return clients[-1]

    begin = time.monotonic()
    report = measure(make, [list(b) for b in batches], "explain", concurrency, seconds, warmup)
    return report, clients, time.monotonic() - begin


def test_latencies_and_throughput_are_those_of_the_server():
    report, clients, _ = measured(lambda _: 0.02, [(b"a", b"b", b"c")], concurrency=4)
    assert len(clients) == 4
    assert all(client.closed and client.most == 1 for client in clients)
    assert len(report.latencies) == sum(client.count for client in clients)
    # Four threads, 20 ms each: 200 a second; a loaded machine is slower, never faster.
    assert 40 < report.requests_per_second <= 200
    assert report.images_per_second == pytest.approx(3 * report.requests_per_second)
    assert 0.02 <= report.latencies[0] <= report.percentile(50) < 0.1
    assert report.failures == {}


def test_requests_under_way_at_the_end_are_waited_for_and_count():
    report, _, took = measured(lambda _: 0.3, concurrency=3, seconds=0.4)
    # Each thread begins its second request before the end.
    assert len(report.latencies) == 6
    assert 0.6 <= report.seconds <= took < 2
    assert report.requests_per_second == pytest.approx(6 / report.seconds)
    assert (report.latencies >= 0.3).all()


def test_one_slow_request_is_seen():
    report, _, _ = measured(lambda n: 0.4 if n == 3 else 0.01, concurrency=1, seconds=0.6)
    assert report.latencies[-1] >= 0.4
    assert report.percentile(50) < 0.1
    assert report.requests_per_second < 40  # the pause is part of the time


def test_the_warm_up_does_not_count():
    report, clients, took = measured(lambda n: 0.3 if n == 0 else 0.01, warmup=0.2, seconds=0.3)
    assert report.latencies[-1] < 0.25
    assert sum(client.count for client in clients) > len(report.latencies)
    assert report.seconds + 0.3 <= took


def test_failed_requests_are_counted_apart():
    report, clients, _ = measured(lambda n: -0.05 if n in (2, 3, 4) else 0.01)
    assert {kind: len(spent) for kind, spent in report.failures.items()} == {
        "timeout": 4,
        "HTTP 503": 2,
    }
    assert np.median(report.latencies) < 0.05 <= report.failures["timeout"][0]
    assert len(report.latencies) == sum(client.count for client in clients) - 6
    text = "\n".join(report.lines())
    assert f"{len(report.latencies)} succeeded, 6 failed" in text
    assert "failed      4 x timeout, mean " in text
    assert "the first: scripted" in text


def test_threads_take_all_batches_in_turns():
    batches = [(b"a",), (b"b",), (b"c",)]
    _, clients, _ = measured(lambda _: 0.01, batches, concurrency=4, seconds=0.2)
    firsts = [client.sent[0][0] for client in clients]
    assert firsts == [(b"a",), (b"b",), (b"c",), (b"a",)]
    for client in clients:
        assert {signature for _, signature in client.sent} == {"explain"}
        first = batches.index(client.sent[0][0])
        assert [images for images, _ in client.sent[:3]] == batches[first:] + batches[:first]


def test_a_defect_in_a_thread_is_raised():
    def broken(_):
        raise ZeroDivisionError("scripted")

    with pytest.raises(ZeroDivisionError, match="scripted"):
        measured(broken, seconds=5)


def test_a_real_server_is_asked_at_the_concurrency_that_was_said():
    with scripted_server((200, PREDICTION, 0.05)) as (url, script):
        report = measure(lambda: Client(url, "tiny", retries=0), [[b"x"]], "s", 4, 0.5)
    assert len(script.requests) == len(report.latencies)
    assert 20 < report.requests_per_second <= 80
    assert 0.05 <= report.percentile(50) < 0.2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=200))
def test_bars_hold_every_latency(latencies):
    lines = histogram.bars(np.sort(latencies), count=7, width=20)
    assert len(lines) == 7
    assert sum(int(line.split()[4]) for line in lines) == len(latencies)
    assert max(line.count("#") for line in lines) == 20


@given(st.lists(st.text("abc"), min_size=1, max_size=9), st.integers(1, 12))
def test_batches_are_filled_with_the_photos_from_the_start(paths, size):
    filled = _filled(paths, size)
    assert len(filled) % size == 0
    assert 0 <= len(filled) - len(paths) < size
    assert filled == [paths[i % len(paths)] for i in range(len(filled))]


def report_of(latencies, **changes):
    latencies = np.sort(np.asarray(latencies, float))
    return LoadReport(
        **{
            "concurrency": 8,
            "batch_size": 1,
            "seconds": 2.0,
            "latencies": latencies,
            "failures": {},
            "messages": {},
            "client_cores": 0.1,
            **changes,
        }
    )


def test_the_figures_in_the_text():
    report = report_of(np.arange(1, 101) / 1000, batch_size=8)
    lines = report.lines()
    assert lines == [
        "requests    100 succeeded, 0 failed, in 2.0 s, 8 at a time, 8 images each",
        "throughput  50.0 requests/s, 400.0 images/s",
        "latency     mean 50.5  p50 50.5  p90 90.1  p95 95.0  p99 99.0  max 100.0  ms",
    ]


def test_a_client_that_is_the_limit_itself_says_so():
    assert "this client kept 1.2 cores busy" in report_of([0.1], client_cores=1.2).lines()[-1]


@pytest.mark.parametrize(
    "latencies", [[0.01], [0.02] * 50, np.linspace(0.01, 0.02, 500), [0.01] * 99 + [2.0]]
)
def test_the_histogram_is_a_picture(latencies, tmp_path):
    path = histogram.draw(report_of(latencies), tmp_path / "latency.png", "tiny at http://h:8501")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1200, 675)
        assert np.asarray(picture.convert("L")).std() > 10


def test_ctrl_c_reports_what_there_is(tmp_path):
    """In a process of its own, with the signal in the middle of the measurement."""
    (tmp_path / "photo.png").write_bytes(b"photo")
    answers = [(200, available()), (200, PREDICTION, 0.01)]
    with scripted_server(*answers) as (url, script):
        command = [sys.executable, "-m", "noah_tf.serving", "load", "--url", url, "--model", "tiny"]
        command += ["--seconds", "60", "--warmup-seconds", "0", str(tmp_path / "photo.png")]
        process = subprocess.Popen(
            command,
            env=child_environment(CUDA_VISIBLE_DEVICES="-1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while len(script.requests) < 50 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    succeeded = int(output.split()[1])
    assert succeeded == len(script.requests) - 1  # less the look whether it is ready
    assert "0 failed" in output
