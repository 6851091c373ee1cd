"""The options that pictures and measures of maps share."""

import dataclasses
from collections.abc import Sequence

from noah_tf.datasets import Source, find_files, photos_source, source_from_config
from noah_tf.runs import WEIGHTS, Run, load_runs
from noah_tf.utils.paths import PathLike
from noah_tf.utils.validation import check_choice, check_int


@dataclasses.dataclass(frozen=True)
class MapOptions:
    """Which maps of which runs `run.explain_run` and `measures.measure_run` compute.

    Args:
        compare_workdir: the folder of another run with the same classes, such as one with the
            other head, or None.
        weights: "last", "ema" or "best", see `checkpoint.load_run`.
        split: split of the data set; None for the split the run was evaluated on.
        methods: any of `explainer.METHODS`; None for the default of the function.
        photos: paths of photos, and of folders with photos, to draw instead of a split; their true
            classes are unknown.
        seed: seed that selects the examples, and of the noise that maps are compared with.

    Raises:
        ValueError: an argument is out of its range.
    """

    compare_workdir: PathLike | None = None
    weights: str = "last"
    split: str | None = None
    methods: Sequence[str] | None = None
    photos: Sequence[PathLike] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        check_choice("weights", self.weights, WEIGHTS)
        check_int("seed", self.seed, 0)
        if self.photos and self.split:
            raise ValueError(f"photos and split={self.split!r} exclude each other: give one.")

    def load(self, workdir: PathLike) -> tuple[list[Run], Source]:
        """Loads the run and the one to compare it with, and opens the split.

        Args:
            workdir: the folder of the first run.

        Returns:
            List of one or two `Run`, and the `Source` of the photos or of the first run's data.

        Raises:
            ValueError: the runs have different classes.
            FileNotFoundError: a folder holds no run, or a photo does not exist.
        """
        workdirs = [workdir, *([self.compare_workdir] if self.compare_workdir else [])]
        runs = load_runs([(path, self.weights) for path in workdirs])
        if self.photos:
            return runs, photos_source(find_files(self.photos), runs[0].class_names)
        config = runs[0].config.data
        return runs, source_from_config(config, self.split or config.eval_split)
