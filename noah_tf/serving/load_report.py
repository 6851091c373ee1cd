"""The results of a load test."""

import dataclasses

import numpy as np

from noah_tf.serving.errors import THREADS_EXHAUSTED

_PERCENTILES = (50, 90, 95, 99)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The results of a load test.

    Attributes:
        concurrency: number of requests under way at any time.
        batch_size: photos per request, on average.
        seconds: from the first request to the last answer.
        latencies: latency of each successful request in seconds, sorted.
        failures: dict from the kind of an error to the sorted seconds until it came.
        messages: dict from the kind of an error to its first message.
        client_cores: CPU cores that this process kept busy. If this is close to 1 or above, the
            client may be the bottleneck.
    """

    concurrency: int
    batch_size: float
    seconds: float
    latencies: np.ndarray
    failures: dict[str, np.ndarray]
    messages: dict[str, str]
    client_cores: float

    @property
    def requests_per_second(self) -> float:
        """Successful requests per second."""
        return len(self.latencies) / self.seconds

    @property
    def images_per_second(self) -> float:
        """Photos of successful requests per second."""
        return self.requests_per_second * self.batch_size

    @property
    def images_each(self) -> str:
        """The batch size in words."""
        return f"{self.batch_size:g} image{'' if self.batch_size == 1 else 's'} each"

    @property
    def num_failed(self) -> int:
        """Number of failed requests."""
        return sum(map(len, self.failures.values()))

    def percentile(self, percent: float) -> float:
        """Returns a percentile of the successful requests' latencies, in seconds."""
        return float(np.percentile(self.latencies, percent))

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        lines = [
            f"requests    {len(self.latencies)} succeeded, {self.num_failed} failed, in "
            f"{self.seconds:.1f} s, {self.concurrency} at a time, {self.images_each}"
        ]
        if len(self.latencies):
            statistics = [("mean", self.latencies.mean())]
            statistics += [(f"p{percent}", self.percentile(percent)) for percent in _PERCENTILES]
            statistics.append(("max", self.latencies[-1]))
            text = "  ".join(f"{name} {1000 * value:.1f}" for name, value in statistics)
            lines += [
                f"throughput  {self.requests_per_second:.1f} requests/s, "
                f"{self.images_per_second:.1f} images/s",
                f"latency     {text}  ms",
            ]
        for kind, durations in sorted(self.failures.items()):
            lines.append(
                f"failed      {len(durations)} x {kind}, mean {1000 * durations.mean():.1f} ms; "
                f"the first: {self.messages[kind]}"
            )
        if THREADS_EXHAUSTED in self.failures:
            lines.append(
                "note        the server answers 4 gRPC calls per CPU core at the same time by "
                f"default: start it with --grpc_max_threads={max(64, 2 * self.concurrency)}, or "
                "give a lower --concurrency"
            )
        if self.client_cores > 0.8:
            lines.append(
                f"note        this client kept {self.client_cores:.1f} cores busy itself: the "
                "server may be faster than shown"
            )
        return lines
