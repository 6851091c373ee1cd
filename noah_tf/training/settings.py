"""The `train` and `data` sections of a recipe as frozen objects that check their values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from noah_tf.datasets.corrupt import ON_CORRUPT


def range_problems(section: str, settings: Any, smallest: Mapping[str, float]) -> list[str]:
    """Returns a message for each value that is below its smallest value or not finite.

    Args:
        section: name of the recipe's section, for the messages.
        settings: object with the values as attributes; None is allowed.
        smallest: the smallest value of each attribute.
    """
    values = {name: getattr(settings, name) for name in smallest}
    return [
        f"{section}.{name} must be at least {smallest[name]}, got {value}"
        for name, value in values.items()
        if value is not None and not smallest[name] <= value < math.inf
    ]


def raise_joined(problems: list[str]) -> None:
    """Raises one ValueError that has all messages, if there are any."""
    if problems:
        raise ValueError("; ".join(problems) + ".")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The length of a run, its batches and its checkpoints, from the `train` section.

    Attributes:
        epochs: epochs of the run.
        batch_size: examples in a batch, over all replicas.
        accumulate: parts in which each replica computes its share of a batch.
        frozen_epochs: first epochs, in which only the head is trained.
        checkpoint_every: steps between checkpoints; 0 for one per epoch.
        checkpoint_minutes: minutes between checkpoints; 0 for no checkpoints by time.
        keep_checkpoints: number of newest checkpoints to keep.
        log_every: steps between two logs of the loss.

    Raises:
        ValueError: values are out of range; the message names all of them.
    """

    epochs: int
    batch_size: int
    accumulate: int = 1
    frozen_epochs: int = 0
    checkpoint_every: int = 0
    checkpoint_minutes: float = 0.0
    keep_checkpoints: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        smallest = {
            "epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
            "frozen_epochs": 0,
            "checkpoint_every": 0,
            "checkpoint_minutes": 0,
            "keep_checkpoints": 1,
            "log_every": 1,
        }
        raise_joined(range_problems("train", self, smallest))


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """How training examples are read, and the expected size of the data, from the `data` section.

    Attributes:
        num_classes: number of classes M that the data must have; None for any.
        num_examples: number of examples that the training split must have; None for any.
        cache: whether to keep the encoded photos in memory.
        shuffle_buffer: examples that are shuffled together if the photos are not in memory.
        on_corrupt: "error" or "skip", see `train_batches`.
        prefetch: batches made ahead; None leaves the number to tf.data.
        threads: threads of the input pipeline; None for TensorFlow's own.

    Raises:
        ValueError: values are out of range; the message names all of them.
    """

    num_classes: int | None = None
    num_examples: int | None = None
    cache: bool = False
    shuffle_buffer: int = 10_000
    on_corrupt: str = "error"
    prefetch: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        names = ("num_classes", "num_examples", "shuffle_buffer", "prefetch", "threads")
        problems = range_problems("data", self, dict.fromkeys(names, 1))
        if self.on_corrupt not in ON_CORRUPT:
            problems.append(
                f"data.on_corrupt must be one of {', '.join(ON_CORRUPT)}, got {self.on_corrupt!r}"
            )
        raise_joined(problems)
