"""What a run leaves in its folder: the config as run, the data it saw, the epochs, the results."""

import contextlib
import csv
import json
import pathlib
import re
import shutil
import tempfile

import ml_collections

from noah_tf.utils.files import save_atomically, write_text_atomically


class Workdir:
    """The folder of one run.

    Args:
        path: the folder; made when the run begins.
        writer: whether this process writes to it. Of several workers one does; the others take
            part in what has to be done together, and their files go to a folder that is thrown
            away.

    Files:
        config.json the config as run; data.json the classes and the number of examples;
        epochs.csv one row an epoch; checkpoints/; events/ for TensorBoard; best.weights.h5, the
        weights of the best evaluation so far, and best.json, that evaluation; and of a finished
        run model.keras, the trained model for this version of Keras, model.weights.h5, its weights
        for any, ema.weights.h5, their moving average where there is one, and result.json.
    """

    def __init__(self, path, writer=True):
        if re.search(r"://|[\[\]*?]", str(path)):
            raise ValueError(
                f"The workdir must be a folder of this machine, without [, ], * or ? in its name, "
                f"got {path}."
            )
        self.path = pathlib.Path(path).expanduser()
        self.writer = writer
        self._scratch = None if writer else tempfile.TemporaryDirectory(prefix="noah_tf_worker_")
        self.output = self.path if writer else pathlib.Path(self._scratch.name)
        self.checkpoints = self.path / "checkpoints"

    def weights(self, which="model"):
        """The file of the weights "model", "ema" or "best"."""
        return self.path / f"{which}.weights.h5"

    @contextlib.contextmanager
    def locked(self):
        """Keeps other processes from training in the folder; a killed process lets go of it.

        Raises:
            ValueError: another process trains there.
        """
        if not self.writer:
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

    def begin(self, config, data, resumable=()):
        """Records config and data, or checks that the run in the folder has the same.

        A run that has neither checkpoint nor result is begun anew: nothing of it can be lost.

        Args:
            config: the recipe, a ConfigDict.
            data: plain JSON data: `class_names` in the order of the logits, `multi_label`,
                whether an image can have several, `train_examples`, how many there are, and
                `stack`, the Keras that runs, which alone may be another later.
            resumable: keys of the config, as "data.threads", that may be others as well.

        Raises:
            ValueError: the folder holds a run with another config or other data; its files are
                left alone.
        """
        resumed = self.has_progress()
        if resumed:
            differences = [
                *_differences(self.config(), _as_saved(config.to_dict()), ignored=resumable),
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
        # What a killed checkpoint left.
        for leftover in self.checkpoints.glob("ckpt-*_temp"):
            shutil.rmtree(leftover)
        if not resumed:
            (self.path / "epochs.csv").unlink(missing_ok=True)
            write_text_atomically(self.path / "data.json", json.dumps(data, indent=2) + "\n")
        # Last, for it says that a run was begun.
        text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
        write_text_atomically(self.path / "config.json", text)

    def has_progress(self):
        """Whether the folder has a checkpoint or the result of a run."""
        return self.result() is not None or any(self.checkpoints.glob("ckpt-*.index"))

    def config(self):
        """The config as run, a ConfigDict.

        Raises:
            FileNotFoundError: no run was begun in the folder.
        """
        path = self.path / "config.json"
        if not path.exists():
            raise FileNotFoundError(
                f"{self.path} holds no run (no config.json): give the --workdir of a training run."
            )
        return ml_collections.ConfigDict(_read_json(path))

    def data(self):
        """The `data` that the run was begun with, a ConfigDict."""
        return ml_collections.ConfigDict(_read_json(self.path / "data.json"))

    def keep_epochs(self, count):
        """Forgets the epochs after the first `count`, which a resumed run does again."""
        path = self.path / "epochs.csv"
        if self.writer and path.exists():
            lines = path.read_text().splitlines(keepends=True)
            write_text_atomically(path, "".join(lines[: count + 1]))

    def add_epoch(self, row):
        """Appends a dict of figures to epochs.csv."""
        with (self.output / "epochs.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def save_weights(self, model, which):
        """Writes the model's weights, "model", "ema" or "best", for either Keras."""
        save_atomically(model.save_weights, self.output / self.weights(which).name)

    def best(self):
        """Metrics and step of the best evaluation so far; an empty dict before the first."""
        path = self.path / "best.json"
        return _read_json(path) if path.exists() else {}

    def save_best(self, model, metrics):
        """Keeps the model's weights as the best, with their metrics."""
        self.save_weights(model, "best")
        self.write_result(metrics, "best.json")

    def finish(self, model, result):
        """Writes the trained model and the run's result, which says that it is complete."""
        save_atomically(model.save, self.output / "model.keras")
        self.save_weights(model, "model")
        self.write_result(result)

    def result(self):
        """The result of the run, or None before it is complete."""
        path = self.path / "result.json"
        return _read_json(path) if path.exists() else None

    def write_result(self, result, name="result.json"):
        """Writes a dict of results and returns the path."""
        path = self.output / name
        write_text_atomically(path, json.dumps(result, indent=2) + "\n")
        return path


def short_names(paths):
    """The shortest endings of some paths that tell them apart.

    Args:
        paths: paths of folders.

    Returns:
        A list of text, one for each; the last parts, where paths are the same.

    Example:

    >>> short_names(["runs/noah/seed0", "runs/gap/seed0"])
    ['noah/seed0', 'gap/seed0']
    """
    parts = [pathlib.Path(path).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return []


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it from a copy, or give another --workdir."
        ) from error


def _as_saved(data):
    """Plain data as it comes back from JSON, where tuples are lists."""
    return ml_collections.ConfigDict(json.loads(json.dumps(data)))


def _differences(old, new, prefix="", ignored=()):
    for key in sorted({*old.keys(), *new.keys()}):
        before, after = old.get(key), new.get(key)
        if all(isinstance(side, ml_collections.ConfigDict) for side in (before, after)):
            yield from _differences(before, after, f"{prefix}{key}.", ignored)
        elif before != after and f"{prefix}{key}" not in ignored:
            yield f"{prefix}{key}: {_short(before)} there, {_short(after)} here"


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
