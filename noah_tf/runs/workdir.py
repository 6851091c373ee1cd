"""The folder of a run: its config, the size of its data, the rows of its epochs, its results."""

import contextlib
import csv
import io
import json
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import tensorflow as tf

from noah_tf.runs import recipe
from noah_tf.runs.model_config import SavedBackbone
from noah_tf.utils.files import remove_folder, save_atomically, write_text_atomically
from noah_tf.utils.paths import Path, PathLike, as_path


class Workdir:
    """The folder of one run.

    Args:
        path: the folder, on this machine or elsewhere, such as gs://bucket/run; it is created when
            the run begins.
        writer: whether this process writes into the folder. One of several workers does. The other
            workers write into a temporary folder, because all workers have to call the functions
            that save.

    Files:
        config.json has the config of the run; data.json the class names and the number of
        examples; backbone.json the config of a backbone that was read from a `.keras` file, and the
        file's SHA-256; epochs.csv one row per epoch; checkpoints/ the state of the run; events/ the
        metrics for TensorBoard; best.weights.h5 the weights of the best evaluation, and best.json
        its metrics. A complete run also has model.keras, the trained model for this version of
        Keras; model.weights.h5, its weights for Keras 2 and 3; ema.weights.h5, their moving average
        if there is one; and result.json.
    """

    def __init__(self, path: PathLike, writer: bool = True) -> None:
        if re.search(r"[\[\]*?]", str(path)):
            raise ValueError(
                f"The workdir must be a folder without [, ], * or ? in its name, got {path}."
            )
        self.path = as_path(path)
        self.writer = writer
        self.output: Path = self.path
        if not writer:
            self._scratch = tempfile.TemporaryDirectory(prefix="noah_tf_worker_")
            self.output = pathlib.Path(self._scratch.name)
        self.checkpoints = self.path / "checkpoints"

    def weights(self, name: str = "model") -> Path:
        """Returns the path of the weights "model", "ema" or "best"."""
        return self.path / f"{name}.weights.h5"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within it, no other process can train in the folder.

        The lock of a killed process is released. A folder elsewhere has no lock.

        Raises:
            ValueError: another process trains there.
        """
        if not self.writer or not isinstance(self.path, pathlib.Path):
            yield
            return
        import filelock

        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise ValueError(
                f"Another process is training in {self.path}: wait for it, or give another "
                "--workdir."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def begin(
        self,
        config: ml_collections.ConfigDict,
        data: Mapping[str, Any],
        resumable: Sequence[str] = (),
    ) -> None:
        """Records config and data, or checks that the run in the folder has the same ones.

        A folder with neither checkpoint nor result begins anew, because nothing is lost.

        Args:
            config: the recipe.
            data: data for JSON: `class_names` in the order of the logits; `multi_label`, whether an
                example can have several classes; `train_examples`, the number of training
                examples; and `stack`, the version of Keras, which may differ in a resumed run.
            resumable: keys of the config, such as "data.threads", that may differ as well.

        Raises:
            ValueError: the folder holds a run with another config or other data. Its files do not
                change.
        """
        resumed = self.has_progress()
        if resumed:
            differences = [
                *_differences(
                    _with_defaults(self.config()), _as_saved(config.to_dict()), ignored=resumable
                ),
                *_differences(
                    self.data(), _as_saved({**data, "stack": self.data().stack}), "data: "
                ),
            ]
            if differences:
                raise ValueError(
                    f"{self.path} holds another run ({'; '.join(differences)}): give the same "
                    "config and data to resume it, or another --workdir."
                )
        if not self.writer:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        # A run that was killed while it saved leaves these folders.
        for leftover in self.checkpoints.glob("ckpt-*_temp"):
            remove_folder(leftover)
        if not resumed:
            (self.path / "epochs.csv").unlink(missing_ok=True)
            write_text_atomically(self.path / "data.json", json.dumps(data, indent=2) + "\n")
        # The config is written last, because its file marks that the run was begun.
        text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
        write_text_atomically(self.path / "config.json", text)

    def save_backbone(self, backbone: SavedBackbone) -> None:
        """Writes what the run keeps of its backbone's file."""
        if self.writer:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_result(backbone._asdict(), "backbone.json")

    def backbone(self) -> SavedBackbone | None:
        """Returns what the run kept of its backbone's file, or None if there was no file."""
        path = self.path / "backbone.json"
        return SavedBackbone(**_read_json(path)) if path.exists() else None

    def has_progress(self) -> bool:
        """Returns whether the folder has a checkpoint or the result of a run."""
        return self.result() is not None or any(self.checkpoints.glob("ckpt-*.index"))

    def config(self) -> ml_collections.ConfigDict:
        """Returns the config of the run.

        Raises:
            FileNotFoundError: no run was begun in the folder.
        """
        path = self.path / "config.json"
        if not path.exists():
            raise FileNotFoundError(
                f"{self.path} holds no run (no config.json): give the --workdir of a training run."
            )
        return ml_collections.ConfigDict(_read_json(path))

    def data(self) -> ml_collections.ConfigDict:
        """Returns the `data` that the run was begun with."""
        return ml_collections.ConfigDict(_read_json(self.path / "data.json"))

    def keep_epochs(self, count: int) -> None:
        """Keeps the first `count` rows of epochs.csv. A resumed run repeats the other epochs."""
        path = self.path / "epochs.csv"
        if self.writer and path.exists():
            lines = path.read_text().splitlines(keepends=True)
            write_text_atomically(path, "".join(lines[: count + 1]))

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Appends a dict of metrics to epochs.csv."""
        path = self.output / "epochs.csv"
        text = path.read_text() if path.exists() else ""
        added = io.StringIO()
        writer = csv.DictWriter(added, fieldnames=list(row), lineterminator="\n")
        if not text:
            writer.writeheader()
        writer.writerow(row)
        write_text_atomically(path, text + added.getvalue())

    def save_weights(self, model: tf.keras.Model, name: str) -> None:
        """Writes the weights "model", "ema" or "best", which both Keras 2 and 3 read."""
        save_atomically(model.save_weights, self.output / self.weights(name).name)

    def best(self) -> dict[str, Any]:
        """Returns metrics and step of the best evaluation; an empty dict before the first."""
        path = self.path / "best.json"
        return _read_json(path) if path.exists() else {}

    def save_best(self, model: tf.keras.Model, metrics: Mapping[str, Any]) -> None:
        """Writes the model's weights as the best ones, with their metrics."""
        self.save_weights(model, "best")
        self.write_result(metrics, "best.json")

    def finish(self, model: tf.keras.Model, result: Mapping[str, Any]) -> None:
        """Writes the trained model and the result of the run, which marks it as complete."""
        save_atomically(model.save, self.output / "model.keras")
        self.save_weights(model, "model")
        self.write_result(result)

    def result(self) -> dict[str, Any] | None:
        """Returns the result of the run, or None before it is complete."""
        path = self.path / "result.json"
        return _read_json(path) if path.exists() else None

    def reopen(self) -> None:
        """Marks a complete run as incomplete, so that it is trained further.

        Raises:
            ValueError: its checkpoints are gone.
        """
        if not any(self.checkpoints.glob("ckpt-*.index")):
            raise ValueError(
                f"{self.path} has no checkpoint left to go on from: start another run with another "
                f"--workdir and --config.model.weights={self.path}."
            )
        if self.writer:
            (self.path / "result.json").unlink()

    def write_result(self, result: Mapping[str, Any], name: str = "result.json") -> Path:
        """Writes a dict of results and returns its path."""
        path = self.output / name
        write_text_atomically(path, json.dumps(result, indent=2) + "\n")
        return path


def short_names(paths: Sequence[Any]) -> list[str]:
    """Returns the shortest endings of some paths that are different for different paths.

    Args:
        paths: paths of folders.

    Returns:
        One name per path. Equal paths have equal names.

    Example:

    >>> short_names(["runs/noah/seed0", "runs/gap/seed0"])
    ['noah/seed0', 'gap/seed0']
    """
    parts = [as_path(path).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return []


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it from a copy, or give another --workdir."
        ) from error


def _as_saved(data: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns data as JSON returns them: tuples become lists."""
    return ml_collections.ConfigDict(json.loads(json.dumps(data)))


def _with_defaults(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config of a run, with the defaults of options that are newer than the run."""

    def fill(values: dict, defaults: dict) -> dict:
        merged = {**defaults, **values}
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(defaults.get(key), dict):
                merged[key] = fill(value, defaults[key])
        return merged

    defaults = _as_saved(recipe.base().to_dict()).to_dict()
    return ml_collections.ConfigDict(fill(config.to_dict(), defaults))


def _differences(
    old: ml_collections.ConfigDict,
    new: ml_collections.ConfigDict,
    prefix: str = "",
    ignored: Sequence[str] = (),
) -> Iterator[str]:
    """Yields a message for each key whose values differ.

    A run of an earlier version lacks the keys of later options, which are off by default.
    """
    for key in sorted({*old.keys(), *new.keys()}):
        before, after = old.get(key), new.get(key)
        if key not in old and not after:
            continue
        if all(isinstance(side, ml_collections.ConfigDict) for side in (before, after)):
            yield from _differences(before, after, f"{prefix}{key}.", ignored)
        elif before != after and f"{prefix}{key}" not in ignored:
            yield f"{prefix}{key}: {_short(before)} there, {_short(after)} here"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
