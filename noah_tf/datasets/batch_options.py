"""How examples become batches: sizes, caching, and what happens to corrupt photos."""

import dataclasses

from noah_tf.utils.validation import check_choice, check_positive_int

ON_CORRUPT = ("error", "skip")


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """The options of an input pipeline that do not change what is learned from an example.

    Attributes:
        batch_size: examples per batch, over all hosts and replicas.
        shuffle_buffer: training only: a source that can only be read in order is shuffled in
            windows of this many encoded examples. Two windows are in memory at a time.
        cache: keep the encoded examples in memory. Training then shuffles all of them at once.
        on_corrupt: "error" raises for a photo that cannot be decoded. "skip" replaces it by another
            example of the batch with weight 0 (training), or masks it (evaluation); it costs time
            even if all photos are good.
        prefetch: number of batches to prepare ahead; None lets tf.data choose.
        threads: number of threads of the pipeline; None uses TensorFlow's shared thread pool.
        last_batch_multiple: training only: the examples of an epoch that do not fill a batch make a
            smaller one, and some of the epoch's examples are repeated until their number is a
            multiple of this. None drops these examples.

    Raises:
        ValueError: an option is out of its range.

    Example:
        batches = eval_batches(source, Preprocessing(224), BatchOptions(64, cache=True))
    """

    batch_size: int
    shuffle_buffer: int = 10_000
    cache: bool = False
    on_corrupt: str = "error"
    prefetch: int | None = None
    threads: int | None = None
    last_batch_multiple: int | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in (
            "batch_size",
            "shuffle_buffer",
            "prefetch",
            "threads",
            "last_batch_multiple",
        ):
            value = getattr(self, name)
            if value is not None or name in ("batch_size", "shuffle_buffer"):
                check_positive_int(name, value)
        check_choice("on_corrupt", self.on_corrupt, ON_CORRUPT)

    def host_batch_size(self, shard: tuple[int, int], replicas: int) -> int:
        """Returns how many examples of a batch one host makes.

        Args:
            shard: (index, count) of the host.
            replicas: number of replicas of each host.

        Raises:
            ValueError: the host does not exist, or the batch cannot be divided evenly.
        """
        check_positive_int("replicas", replicas)
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(f"shard must be (index, count), 0 <= index < count, got {shard!r}.")
        if self.batch_size % (count * replicas):
            raise ValueError(
                f"batch_size {self.batch_size} does not divide among {count} hosts with {replicas} "
                f"replicas each: use a multiple of {count * replicas}."
            )
        return self.batch_size // count

    def steps_per_epoch(self, num_examples: int) -> int:
        """Returns the number of training batches of an epoch of so many examples."""
        full, rest = divmod(num_examples, self.batch_size)
        return full + bool(rest and self.last_batch_multiple)

    def last_batch_size(self, num_examples: int) -> int:
        """Returns the size of the last training batch of an epoch, over all hosts and replicas."""
        rest = num_examples % self.batch_size
        if not rest or self.last_batch_multiple is None:
            return self.batch_size
        return -(-rest // self.last_batch_multiple) * self.last_batch_multiple
