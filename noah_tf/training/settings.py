"""The `train` section of a recipe as a frozen object that checks its values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def range_problems(section: str, settings: Any, smallest: Mapping[str, float]) -> list[str]:
    """Returns a message for each value that is below its smallest value or not finite.

    Args:
        section: name of the recipe's section, for the messages.
        settings: object with the values as attributes.
        smallest: the smallest value of each attribute.
    """
    values = {name: getattr(settings, name) for name in smallest}
    return [
        f"{section}.{name} must be at least {smallest[name]}, got {value}"
        for name, value in values.items()
        if not smallest[name] <= value < math.inf
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
        frozen_epochs: first epochs, in which only the head is trained. If all epochs are, the run
            is a linear probe.
        frozen_layers: patterns of the names of layers that are never trained, see
            `param_groups.layer_starts`.
        patience: the run ends after so many epochs without a better evaluation; 0 for never.
        recompute_batch_statistics: whether an evaluation computes BatchNorm's statistics anew, see
            `BatchStatistics`. None for runs of fewer than 1,000 steps.
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
    frozen_layers: tuple = ()
    patience: int = 0
    recompute_batch_statistics: bool | None = None
    checkpoint_every: int = 0
    checkpoint_minutes: float = 0.0
    keep_checkpoints: int = 2
    log_every: int = 10

    def is_out_of_patience(self, epochs_since_best: int) -> bool:
        """Returns whether a run ends after so many epochs without a better evaluation."""
        return 0 < self.patience <= epochs_since_best

    def __post_init__(self) -> None:
        smallest = {
            "epochs": 1,
            "batch_size": 1,
            "accumulate": 1,
            "frozen_epochs": 0,
            "patience": 0,
            "checkpoint_every": 0,
            "checkpoint_minutes": 0,
            "keep_checkpoints": 1,
            "log_every": 1,
        }
        problems = range_problems("train", self, smallest)
        if isinstance(self.frozen_layers, str):
            problems.append(
                f"train.frozen_layers must be a tuple of patterns, got {self.frozen_layers!r}"
            )
        raise_joined(problems)
