"""The subcommand `load`, which measures how fast a served model answers."""

import argparse
import collections
import contextlib
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from noah_tf.serving import histogram
from noah_tf.serving.client import Client
from noah_tf.serving.clock import SYSTEM_CLOCK, Clock
from noah_tf.serving.errors import ServingError
from noah_tf.serving.load_report import LoadReport
from noah_tf.serving.options import (
    add_server_options,
    check_photos,
    client_from_options,
    nonnegative_seconds,
    positive_int,
    positive_seconds,
    split_into_batches,
)


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand to the command line."""
    parser = subparsers.add_parser(
        "load",
        help="throughput and latencies under load",
        description="Measures a served model. Several threads, with a connection each, send one "
        "request after another as fast as the answers come. A latency is the time from sending a "
        "request, which is encoded before, to the last byte of its answer. Failed requests are "
        "counted separately and not repeated.",
    )
    add_server_options(parser, batch_size=1, retries=False)
    parser.add_argument(
        "--concurrency", type=positive_int, default=8, metavar="N", help="threads (%(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_seconds,
        default=20.0,
        help="how long new requests are sent; those under way are then awaited (%(default)g)",
    )
    parser.add_argument(
        "--warmup-seconds",
        type=nonnegative_seconds,
        default=2.0,
        help="how long requests are sent before the measurement (%(default)g)",
    )
    parser.add_argument("--histogram", metavar="FILE", help="draw the latencies to this PNG")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, prints the report and draws the histogram.

    Returns:
        The exit code: 1 if no request succeeded, else 0.
    """
    check_photos(options.photos)
    if options.histogram:
        _check_writable(options.histogram)

    def make_client() -> Client:
        return client_from_options(options, 0, options.version, options.label)

    with make_client() as client:
        client.wait_until_ready(options.wait)
    paths = repeat_to_full_batches(options.photos, options.batch_size)
    report = measure(
        make_client,
        [
            [pathlib.Path(path).read_bytes() for path in batch]
            for batch in split_into_batches(paths, options.batch_size)
        ],
        options.signature,
        options.concurrency,
        options.seconds,
        options.warmup_seconds,
    )
    print("\n".join(report.lines()))
    if not len(report.latencies):
        return 1
    print("\n".join(histogram.text_bars(report.latencies)))
    if options.histogram:
        title = f"{options.model} at {options.url}"
        print(f"Histogram: {histogram.draw(report, options.histogram, title)}")
    return 0


def measure(
    make_client: Callable[[], Client],
    batches: Sequence[Sequence[bytes]],
    signature: str,
    concurrency: int,
    seconds: float,
    warmup: float = 0.0,
    clock: Clock = SYSTEM_CLOCK,
) -> LoadReport:
    """Returns the results of sending requests from several threads for some time.

    SIGINT ends the measurement early, and the report covers the requests up to then.

    Args:
        make_client: function without arguments that makes a client, called once per thread.
        batches: lists of encoded photos. The threads send them in turn, each starting with
            another one.
        signature: name of the signature.
        concurrency: number of threads.
        seconds: how long new requests are sent; those under way at the end are awaited.
        warmup: seconds of requests before the measurement.
        clock: the time to measure by; tests replace it.
    """
    stop = _StopFlag()
    senders = [
        _Sender(make_client(), batches, signature, index, stop, clock)
        for index in range(concurrency)
    ]
    try:
        if warmup > 0:
            _run_senders(senders, stop, clock.now() + warmup)
        for sender in senders:
            sender.reset()
        cpu_begin, begin = clock.cpu(), clock.now()
        with stop.set_at_sigint():
            _run_senders(senders, stop, begin + seconds)
        ends = [sender.last_end for sender in senders if sender.last_end is not None]
        duration = max(ends, default=clock.now()) - begin
        cpu_seconds = clock.cpu() - cpu_begin
    finally:
        for sender in senders:
            sender.client.close()
    failures: dict[str, list[float]] = collections.defaultdict(list)
    messages: dict[str, str] = {}
    for sender in senders:
        for kind, durations in sender.failures.items():
            failures[kind] += durations
        messages = {**sender.messages, **messages}
    latencies = np.sort(np.concatenate([np.array(s.latencies, float) for s in senders]))
    num_images = sum(sender.num_images for sender in senders)
    return LoadReport(
        concurrency=concurrency,
        batch_size=num_images / len(latencies)
        if len(latencies)
        else float(np.mean([*map(len, batches)])),
        seconds=duration,
        latencies=latencies,
        failures={kind: np.sort(durations) for kind, durations in failures.items()},
        messages=messages,
        client_cores=cpu_seconds / duration,
    )


class _StopFlag:
    """Tells the senders to stop.

    This is a plain flag and no `threading.Event`, because the signal handler that sets it may
    interrupt the main thread while that holds the lock of the event.
    """

    def __init__(self) -> None:
        self.is_set = False

    @contextlib.contextmanager
    def set_at_sigint(self) -> Iterator[None]:
        """Sets the flag at the first SIGINT inside the block; a second one acts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(*_: Any) -> None:
            self.is_set = True
            signal.signal(signal.SIGINT, previous)

        previous = signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class _Sender:
    """Sends one request after another in a thread of its own, and records the latencies."""

    def __init__(
        self,
        client: Client,
        batches: Sequence[Sequence[bytes]],
        signature: str,
        index: int,
        stop: _StopFlag,
        clock: Clock,
    ) -> None:
        self.client, self._stop, self._clock = client, stop, clock
        first = index % len(batches)
        # Encoding is not part of the latency.
        self._requests = [
            (client.prepare(images, signature), len(images))
            for images in [*batches[first:], *batches[:first]]
        ]
        self._num_sent = 0
        self.error: BaseException | None = None
        self.reset()

    def reset(self) -> None:
        """Discards the measurements."""
        self.latencies: list[float] = []
        self.failures: dict[str, list[float]] = collections.defaultdict(list)
        self.messages: dict[str, str] = {}
        self.num_images = 0
        self.last_end: float | None = None

    def run(self, deadline: float) -> None:
        """Sends requests, at least one, until the deadline or until the flag is set."""
        try:
            self._send()
            while not self._stop.is_set and self._clock.now() < deadline:
                self._send()
        except BaseException as error:  # `_run_senders` raises it in the main thread
            self.error = error
            self._stop.is_set = True

    def _send(self) -> None:
        request, num_images = self._requests[self._num_sent % len(self._requests)]
        self._num_sent += 1
        begin = self._clock.now()
        try:
            request()
        except ServingError as error:
            self.last_end = self._clock.now()
            self.failures[error.kind].append(self.last_end - begin)
            self.messages.setdefault(error.kind, str(error))
        else:
            self.last_end = self._clock.now()
            self.latencies.append(self.last_end - begin)
            self.num_images += num_images


def _run_senders(senders: Sequence[_Sender], stop: _StopFlag, deadline: float) -> None:
    """Lets all senders run until the deadline, and waits for their last answers."""
    stop.is_set = False
    threads = [
        threading.Thread(target=sender.run, args=(deadline,), daemon=True) for sender in senders
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:  # a second SIGINT raises KeyboardInterrupt in `join`
        stop.is_set = True
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join()
    for sender in senders:
        if sender.error is not None:
            raise sender.error


def repeat_to_full_batches(paths: Sequence[str], batch_size: int) -> list[str]:
    """Returns the paths, followed by the first of them again until the last batch is full."""
    num_missing = -len(paths) % batch_size
    return [*paths, *(paths[index % len(paths)] for index in range(num_missing))]


def _check_writable(path: str) -> None:
    """Raises OSError before the measurement if the histogram cannot be written after it."""
    if pathlib.Path(path).is_dir():
        raise OSError(f"The histogram cannot be written: {path} is a folder, give a file.")
    folder = pathlib.Path(path).resolve().parent
    if not folder.is_dir():
        raise OSError(f"The histogram cannot be written: there is no folder {folder}.")
