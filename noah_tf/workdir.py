"""What a run leaves in its folder: the config as run, the classes, the epochs, the results."""

import csv
import json
import os
import pathlib

import ml_collections


class Workdir:
    """The folder of one run.

    Args:
        path: the folder; made by the first write.

    Files:
        config.json the config as run; classes.json; epochs.csv one row an epoch;
        checkpoints/; events/ for TensorBoard; and of a finished run model.keras, the trained model
        for this version of Keras, model.weights.h5, its weights for any, and result.json.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path).expanduser()
        self.checkpoints = self.path / "checkpoints"
        self.events = self.path / "events"
        self.weights = self.path / "model.weights.h5"

    def begin(self, config, classes):
        """Records config and classes, or checks that the run in the folder has the same config.

        Args:
            config: the recipe, a ConfigDict.
            classes: dict of `names`, in the order of the logits, and `multi_label`, whether an
                image can have several.

        Raises:
            ValueError: the folder holds a run with another config; its files are left alone.
        """
        path = self.path / "config.json"
        if path.exists():
            differences = list(_differences(self.config(), _as_saved(config)))
            if differences:
                raise ValueError(
                    f"{self.path} holds a run with another config ({'; '.join(differences)}): "
                    "give the same config to resume it, or another --workdir."
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "classes.json", json.dumps(classes, indent=2) + "\n")
        write_whole(path, json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n")

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
        return ml_collections.ConfigDict(json.loads(path.read_text()))

    def classes(self):
        """The dict of `names` and `multi_label` that the run was begun with."""
        return json.loads((self.path / "classes.json").read_text())

    def keep_epochs(self, count):
        """Forgets the epochs after the first `count`, which a resumed run does again."""
        path = self.path / "epochs.csv"
        if path.exists():
            header, *rows = path.read_text().splitlines(keepends=True)
            write_whole(path, header + "".join(rows[:count]))

    def add_epoch(self, row):
        """Appends a dict of figures to epochs.csv."""
        with (self.path / "epochs.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def finish(self, model, result):
        """Writes the trained model and the run's result, which says that it is complete."""
        for name, save in (("model.keras", model.save), (self.weights.name, model.save_weights)):
            # Keras reads the format off the end of the name.
            partial = self.path / f"partial-{name}"
            save(str(partial))
            os.replace(partial, self.path / name)
        self.write_result(result)

    def result(self):
        """The result of the run, or None before it is complete."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write_result(self, result, name="result.json"):
        """Writes a dict of results and returns the path."""
        path = self.path / name
        write_whole(path, json.dumps(result, indent=2) + "\n")
        return path


def write_whole(path, text):
    """Writes a text file so that a kill leaves the old one or the new one, never half of one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _as_saved(config):
    """A config as it comes back from JSON, where tuples are lists."""
    return ml_collections.ConfigDict(json.loads(json.dumps(config.to_dict())))


def _differences(old, new, prefix=""):
    for key in sorted({*old.keys(), *new.keys()}):
        before, after = old.get(key), new.get(key)
        if all(isinstance(side, ml_collections.ConfigDict) for side in (before, after)):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {before!r} there, {after!r} here"
