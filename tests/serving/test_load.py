"""The load test measures what its report says."""

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from fake_clock import FakeClock
from head_helpers import child_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scripted import available, scripted_server

from noah_tf.serving import Client, ServingError, histogram
from noah_tf.serving.clock import Clock
from noah_tf.serving.load import measure, repeat_to_full_batches
from noah_tf.serving.load_report import LoadReport

pytestmark = pytest.mark.one_stack

PREDICTION = {"predictions": [{"classes": [1]}]}


class FakeClient:
    """Spends `duration(number)` seconds of its thread on each request; negative ones fail."""

    def __init__(self, duration, clock):
        self.duration, self.clock = duration, clock
        self.sent, self.is_closed = [], False

    def prepare(self, images, signature):
        def send():
            number = len(self.sent)
            self.sent.append((tuple(images), signature))
            seconds = self.duration(number)
            self.clock.sleep(abs(seconds))
            if seconds < 0:
                raise ServingError("scripted", "HTTP 503" if number % 2 else "timeout")

        return send

    def close(self):
        self.is_closed = True


def measured(duration, batches=((b"a",),), concurrency=2, seconds=2.0, warmup=0.0):
    """Returns the report of a load test with a `FakeClock`, and its clients."""
    clients, clock = [], FakeClock()

    def make_client():
        clients.append(FakeClient(duration, clock))
        return clients[-1]

    batches = [list(batch) for batch in batches]
    report = measure(make_client, batches, "explain", concurrency, seconds, warmup, clock)
    return report, clients


def test_latencies_and_throughput_are_those_of_the_server():
    report, clients = measured(lambda _: 0.125, [(b"a", b"b", b"c")], concurrency=4)
    assert [len(client.sent) for client in clients] == [16] * 4
    assert all(client.is_closed for client in clients)
    assert report.latencies.tolist() == [0.125] * 64
    assert report.seconds == 2
    assert report.requests_per_second == 32
    assert report.images_per_second == 96
    assert report.failures == {}


def test_requests_under_way_at_the_end_are_awaited_and_counted():
    report, _ = measured(lambda _: 0.75, concurrency=3, seconds=1.0)
    # Each thread begins its second request before the end.
    assert len(report.latencies) == 6
    assert report.seconds == 1.5
    assert report.requests_per_second == 4


def test_a_slow_request_is_part_of_the_report():
    report, _ = measured(lambda n: 1.0 if n == 3 else 0.125, concurrency=1)
    assert report.latencies[-1] == 1.0
    assert report.percentile(50) == 0.125
    assert report.requests_per_second == 4.5  # 9 requests in 2 s


def test_the_warmup_does_not_count():
    report, clients = measured(lambda n: 1.0 if n == 0 else 0.25, warmup=1.5, seconds=1.0)
    assert [len(client.sent) for client in clients] == [3 + 4] * 2
    assert report.latencies.tolist() == [0.25] * 8
    assert report.seconds == 1.0


def test_failed_requests_are_counted_separately():
    report, _ = measured(lambda n: -0.25 if n in (2, 3, 4) else 0.125)
    assert {kind: durations.tolist() for kind, durations in report.failures.items()} == {
        "timeout": [0.25] * 4,
        "HTTP 503": [0.25] * 2,
    }
    assert report.num_failed == 6
    assert report.latencies.tolist() == [0.125] * 20
    text = "\n".join(report.lines())
    assert "20 succeeded, 6 failed" in text
    assert "failed      4 x timeout, mean 250.0 ms; the first: scripted" in text


def test_threads_send_all_batches_in_turn():
    batches = [(b"a",), (b"b",), (b"c",)]
    _, clients = measured(lambda _: 0.25, batches, concurrency=4, seconds=1.0)
    firsts = [client.sent[0][0] for client in clients]
    assert firsts == [(b"a",), (b"b",), (b"c",), (b"a",)]
    for client in clients:
        assert {signature for _, signature in client.sent} == {"explain"}
        first = batches.index(client.sent[0][0])
        assert [images for images, _ in client.sent[:3]] == batches[first:] + batches[:first]


def test_an_unexpected_error_in_a_thread_is_raised():
    def raise_error(_):
        raise ZeroDivisionError("scripted")

    with pytest.raises(ZeroDivisionError, match="scripted"):
        measured(raise_error)


def test_requests_to_a_server_are_under_way_at_the_same_time():
    barrier = threading.Barrier(4)  # the server answers four requests at a time
    time = threading.local()

    def now():  # a quarter of a second passes whenever the load test looks at the clock
        time.now = getattr(time, "now", 0.0) + 0.25
        return time.now

    with scripted_server((200, PREDICTION), barrier=barrier) as (url, script):
        report = measure(
            lambda: Client(url, "tiny", retries=0),
            [[b"x"]],
            "serving_default",
            concurrency=4,
            seconds=3.0,
            clock=Clock(now=now),
        )
    assert report.failures == {}
    assert len(script.requests) == len(report.latencies) == 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=200))
def test_bars_count_every_latency(latencies):
    lines = histogram.text_bars(np.sort(latencies), count=7, width=20)
    assert len(lines) == 7
    assert sum(int(line.split()[4]) for line in lines) == len(latencies)
    assert max(line.count("#") for line in lines) == 20


@given(st.lists(st.text("abc"), min_size=1, max_size=9), st.integers(1, 12))
def test_batches_are_filled_with_the_first_photos(paths, batch_size):
    filled = repeat_to_full_batches(paths, batch_size)
    assert len(filled) % batch_size == 0
    assert 0 <= len(filled) - len(paths) < batch_size
    assert filled == [paths[index % len(paths)] for index in range(len(filled))]


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


def test_the_report_as_text():
    report = report_of(np.arange(1, 101) / 1000, batch_size=8)
    lines = report.lines()
    assert lines == [
        "requests    100 succeeded, 0 failed, in 2.0 s, 8 at a time, 8 images each",
        "throughput  50.0 requests/s, 400.0 images/s",
        "latency     mean 50.5  p50 50.5  p90 90.1  p95 95.0  p99 99.0  max 100.0  ms",
    ]


def test_the_report_warns_of_a_busy_client():
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


@pytest.mark.slow
def test_ctrl_c_ends_the_measurement_with_a_report(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"photo")
    with scripted_server((200, available()), (200, PREDICTION)) as (url, script):
        command = [sys.executable, "-m", "noah_tf.serving", "load", "--url", url, "--model", "tiny"]
        command += ["--seconds", "600", "--warmup-seconds", "0", str(tmp_path / "photo.png")]
        process = subprocess.Popen(
            command,
            env=child_environment(CUDA_VISIBLE_DEVICES="-1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        script.wait_for_requests(50)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    num_succeeded = int(output.split()[1])
    assert num_succeeded == len(script.requests) - 1  # the first request asks for the state
    assert "0 failed" in output
