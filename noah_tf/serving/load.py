"""The subcommand that measures how fast a served model answers."""

import collections
import contextlib
import dataclasses
import pathlib
import signal
import threading
import time

import numpy as np

from noah_tf.serving.errors import ServingError
from noah_tf.serving.options import (
    add_server_options,
    batches_of,
    check_photos,
    client_of,
    duration,
    pause,
    positive,
)

_PERCENTILES = (50, 90, 95, 99)
_LOOK = 0.05  # seconds between two looks at whether to stop


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a load test has measured.

    Attributes:
        concurrency: how many requests were under way at any time.
        batch_size: photos in a request, on average.
        seconds: from the first request to the last answer.
        latencies: seconds of each request that succeeded, sorted.
        failures: dict kind → sorted seconds of the requests that failed so.
        messages: dict kind → the first message of that kind.
        client_cores: how many cores this process kept busy meanwhile; near or above 1, the numbers
            may be the client's.
    """

    concurrency: int
    batch_size: float
    seconds: float
    latencies: np.ndarray
    failures: dict
    messages: dict
    client_cores: float

    @property
    def requests_per_second(self):
        """Requests that succeeded in a second."""
        return len(self.latencies) / self.seconds

    @property
    def images_per_second(self):
        """Photos of requests that succeeded in a second."""
        return self.requests_per_second * self.batch_size

    @property
    def images_each(self):
        """The batch size in words."""
        return f"{self.batch_size:g} image{'' if self.batch_size == 1 else 's'} each"

    def percentile(self, percent):
        """The latency, in seconds, that this percentage of the successful requests had at most."""
        return float(np.percentile(self.latencies, percent))

    def lines(self):
        """The report as lines of text."""
        failed = sum(map(len, self.failures.values()))
        lines = [
            f"requests    {len(self.latencies)} succeeded, {failed} failed, in {self.seconds:.1f} "
            f"s, {self.concurrency} at a time, {self.images_each}"
        ]
        if len(self.latencies):
            figures = [("mean", self.latencies.mean())]
            figures += [(f"p{percent}", self.percentile(percent)) for percent in _PERCENTILES]
            figures.append(("max", self.latencies[-1]))
            lines += [
                f"throughput  {self.requests_per_second:.1f} requests/s, "
                f"{self.images_per_second:.1f} images/s",
                "latency     " + "  ".join(f"{n} {1000 * s:.1f}" for n, s in figures) + "  ms",
            ]
        for kind, spent in sorted(self.failures.items()):
            lines.append(
                f"failed      {len(spent)} x {kind}, mean {1000 * spent.mean():.1f} ms; the first: "
                f"{self.messages[kind]}"
            )
        if self.client_cores > 0.8:
            lines.append(
                f"note        this client kept {self.client_cores:.1f} cores busy itself: the "
                "server may be faster than shown"
            )
        return lines


def add_parser(subparsers):
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "load",
        help="throughput and latencies under load",
        description="Measures a served model. Threads with a connection each send one request "
        "after another, as fast as the answers come. A latency is the time from sending a request, "
        "which is encoded before, to the last byte of its answer; failed requests are counted "
        "apart and not tried again.",
    )
    add_server_options(parser, batch_size=1, retries=False)
    parser.add_argument(
        "--concurrency", type=positive, default=8, metavar="N", help="threads (%(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=duration,
        default=20.0,
        help="new requests begin for so long; all that began are waited for (%(default)g)",
    )
    parser.add_argument(
        "--warmup-seconds",
        type=pause,
        default=2.0,
        help="the same before, not counted (%(default)g)",
    )
    parser.add_argument("--histogram", metavar="FILE", help="draw the latencies to this PNG")
    parser.set_defaults(run=run)


def run(options):
    """Measures, prints the report and draws the histogram.

    Returns:
        The exit code: 1 if no request succeeded, else 0.
    """
    check_photos(options.photos)
    if options.histogram:
        _check_writable(options.histogram)
    with client_of(options, retries=0) as client:
        client.wait_until_ready(options.wait)
    batches = [
        [pathlib.Path(path).read_bytes() for path in paths]
        for paths in batches_of(_filled(options.photos, options.batch_size), options.batch_size)
    ]
    report = measure(
        lambda: client_of(options, retries=0),
        batches,
        options.signature,
        options.concurrency,
        options.seconds,
        options.warmup_seconds,
    )
    print("\n".join(report.lines()))
    if not len(report.latencies):
        return 1
    from noah_tf.serving import histogram

    print("\n".join(histogram.bars(report.latencies)))
    if options.histogram:
        title = f"{options.model} at {options.url}"
        print(f"Histogram: {histogram.draw(report, options.histogram, title)}")
    return 0


def measure(make_client, batches, signature, concurrency, seconds, warmup=0.0):
    """Sends requests from several threads for some time.

    Args:
        make_client: function without arguments that makes a `client.Client`, called once a thread.
        batches: lists of encoded photos; a thread sends them in turns, each from another one on.
        signature: name of the signature.
        concurrency: number of threads.
        seconds: how long new requests begin; those under way at the end are waited for.
        warmup: seconds of the same before, which do not count.

    Returns:
        A `LoadReport`. SIGINT ends the measurement early, with a report of what there is.
    """
    stop = _Stop()
    threads = [
        _Sender(make_client(), batches, signature, index, stop) for index in range(concurrency)
    ]
    try:
        _phase(threads, stop, warmup)
        for thread in threads:
            thread.reset()
        busy, begin = time.process_time(), time.monotonic()
        with stop.at_sigint():
            _phase(threads, stop, seconds)
        end = max((t.last for t in threads if t.last is not None), default=time.monotonic())
        busy = time.process_time() - busy
    finally:
        for thread in threads:
            thread.client.close()
    failures, messages = collections.defaultdict(list), {}
    for thread in threads:
        for kind, spent in thread.failures.items():
            failures[kind] += spent
        for kind, message in thread.messages.items():
            messages.setdefault(kind, message)
    sent = sum(thread.images for thread in threads)
    succeeded = np.sort(np.concatenate([np.array(t.latencies, float) for t in threads]))
    return LoadReport(
        concurrency,
        sent / len(succeeded) if len(succeeded) else float(np.mean([*map(len, batches)])),
        end - begin,
        succeeded,
        {kind: np.sort(spent) for kind, spent in failures.items()},
        messages,
        busy / (end - begin),
    )


class _Stop:
    """Whether to stop: a plain flag, for a signal can come while a lock of an event is held."""

    def __init__(self):
        self.asked = False

    @contextlib.contextmanager
    def at_sigint(self):
        """Within it SIGINT asks to stop; a second one works as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(*_):
            self.asked = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _Sender:
    """Sends one request after another while `run` is under way in a thread of its own."""

    def __init__(self, client, batches, signature, index, stop):
        self.client, self._stop = client, stop
        first = index % len(batches)
        # Encoded before the clock runs.
        self._requests = [
            (client.prepare(images, signature), len(images))
            for images in batches[first:] + batches[:first]
        ]
        self._next = 0
        self.error = None
        self.reset()

    def reset(self):
        """Forgets what was measured."""
        self.latencies, self.failures = [], collections.defaultdict(list)
        self.messages, self.images, self.last = {}, 0, None

    def run(self):
        """Sends until it is asked to stop."""
        try:
            while not self._stop.asked:
                self._send()
        except BaseException as error:  # shown by the main thread
            self.error = error
            self._stop.asked = True

    def _send(self):
        request, images = self._requests[self._next % len(self._requests)]
        self._next += 1
        begin = time.monotonic()
        try:
            request()
        except ServingError as error:
            self.last = time.monotonic()
            self.failures[error.kind].append(self.last - begin)
            self.messages.setdefault(error.kind, str(error))
        else:
            self.last = time.monotonic()
            self.latencies.append(self.last - begin)
            self.images += images


def _phase(senders, stop, seconds):
    if seconds <= 0:
        return
    stop.asked = False
    threads = [threading.Thread(target=sender.run, daemon=True) for sender in senders]
    end = time.monotonic() + seconds
    try:
        for thread in threads:
            thread.start()
        while not stop.asked and time.monotonic() < end:
            time.sleep(min(_LOOK, max(end - time.monotonic(), 0)))
    finally:
        stop.asked = True
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join()
    for sender in senders:
        if sender.error is not None:
            raise sender.error


def _filled(paths, size):
    """The paths, from the start again until they fill whole batches."""
    missing = -len(paths) % size
    return [*paths, *(paths[i % len(paths)] for i in range(missing))]


def _check_writable(path):
    """Raises OSError now if the histogram could not be written in the end."""
    if pathlib.Path(path).is_dir():
        raise OSError(f"The histogram cannot be written: {path} is a folder, give a file.")
    folder = pathlib.Path(path).resolve().parent
    if not folder.is_dir():
        raise OSError(f"The histogram cannot be written: there is no folder {folder}.")
