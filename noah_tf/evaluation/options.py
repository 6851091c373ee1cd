"""The options that reports and comparisons of runs share."""

import dataclasses
from collections.abc import Sequence

from noah_tf.runs import WEIGHTS
from noah_tf.utils.paths import PathLike
from noah_tf.utils.validation import check_choice, check_int, check_positive_int, is_number

STRATEGIES = ("auto", "single", "mirrored")


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How `report.report_run` and `paired.compare_runs` evaluate their runs.

    Args:
        set_names: "SPLIT" of the run's own data, or "DATA:SPLIT" of other data with the same
            classes; an empty split is the one the run was evaluated on during training.
        weights: "last", "ema" or "best", any number of them; None for the default of the function.
        output: the folder to write to; None for a folder of the run.
        data_dir: folder of the sets that are not the run's own; None for the run's `data_dir`.
        label_key: which label of these sets to use, if they have several.
        batch_size: images per batch, over all devices; it does not change the result.
        threshold: the lowest probability at which a multi-label model predicts a class.
        seed: seed of the noise of corrupted images and of the bootstrap, at least 0.
        strategy: name of the distribution strategy, one of `STRATEGIES`, see
            `distribute.make_strategy`.
        command: the command line, which is written into the results.

    Raises:
        ValueError: an argument is out of its range.
    """

    set_names: Sequence[str] = ("",)
    weights: Sequence[str] | None = None
    output: PathLike | None = None
    data_dir: PathLike | None = None
    label_key: str | None = None
    batch_size: int = 64
    threshold: float = 0.5
    seed: int = 0
    strategy: str = "auto"
    command: str = ""

    def __post_init__(self) -> None:
        """Checks the arguments."""
        for weights in self.weights or ():
            check_choice("weights", weights, WEIGHTS)
        check_positive_int("batch_size", self.batch_size)
        if not is_number(self.threshold) or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a number in [0, 1], got {self.threshold!r}.")
        check_int("seed", self.seed, 0)
        check_choice("strategy", self.strategy, STRATEGIES)
