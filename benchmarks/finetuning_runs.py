"""Trains the runs of `finetuning.py`, next to other processes that do the same."""

import contextlib
import datetime
import functools
import json
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import filelock
import finetuning_data
import finetuning_full
import numpy as np
import tensorflow as tf
from finetuning_data import Examples
from finetuning_probe import Probe
from finetuning_settings import FULL_RATES, HEADS, PROBE_RATES, SETTINGS, TRIED, FinetuningRun

from noah_tf.utils.files import write_text_atomically

# The seed of the searches for the learning rate of all layers, which no run uses.
SEARCH_SEED = 1000
_SPLITS = ("train", "test")

Record = dict[str, Any]


def record_path(output: pathlib.Path, run: FinetuningRun) -> pathlib.Path:
    """Returns the path of a run's record."""
    head = "".join(c if c.isalnum() or c == "." else "_" for c in run.head)
    return output / run.setting / run.part / head / f"seed{run.seed}.json"


def is_done(output: pathlib.Path, run: FinetuningRun) -> bool:
    """Returns True if the run has a record."""
    return record_path(output, run).exists()


def import_records(records: Iterable[Record], output: pathlib.Path) -> int:
    """Writes records of runs that were trained elsewhere, and returns how many were new."""
    num_written = 0
    for record in records:
        run = FinetuningRun(*(record[key] for key in FinetuningRun._fields))
        if not is_done(output, run):
            _write_json(record_path(output, run), record)
            num_written += 1
    return num_written


class Data:
    """The cached photos and feature maps of the study.

    Args:
        output: the study's folder.
        backbone: the `.keras` file of the backbone.
        photos: the folder with the splits train/ and val/ of trash6, or None.
        data_dir: TFDS's folder with CIFAR-10. None uses TFDS's default.
    """

    def __init__(
        self,
        output: pathlib.Path,
        backbone: pathlib.Path,
        photos: pathlib.Path | None,
        data_dir: str | None,
    ) -> None:
        self._output, self._backbone = output, backbone
        self._photos, self._data_dir = photos, data_dir

    def prepare(self, runs: Sequence[FinetuningRun]) -> None:
        """Computes the feature maps of all runs, and the photos of those that train all layers.

        Raises:
            ValueError: `photos` is needed and None, or has no such photos.
            FileNotFoundError: the backbone or a data set does not exist.
        """
        needed: dict[tuple[str, int], set[str]] = {}
        for run in runs:
            kinds = needed.setdefault((SETTINGS[run.setting].data, self.size(run)), set())
            kinds |= {"maps", "photos"} if run.part == "full" else {"maps"}
        for (data, size), kinds in sorted(needed.items()):
            paths = [self._path(kind, data, size, split) for kind in kinds for split in _SPLITS]
            if all(path.exists() for path in paths):
                continue
            if data == "trash6" and self._photos is None:
                raise ValueError("--photos must be the folder with the splits train/ and val/.")
            sources = finetuning_data.open_splits(data, self._photos, self._data_dir)
            backbone = self.load_backbone(size)
            for split, source in zip(_SPLITS, sources, strict=True):
                photos = finetuning_data.load_photos(source, size)
                if "photos" in kinds:
                    finetuning_data.write_examples(self._path("photos", data, size, split), photos)
                features = finetuning_data.compute_features(backbone, photos)
                finetuning_data.write_examples(self._path("maps", data, size, split), features)

    @staticmethod
    def size(run: FinetuningRun) -> int:
        """Returns the side of a run's images in pixels."""
        setting = SETTINGS[run.setting]
        return setting.full[0] if run.part == "full" and setting.full else setting.size

    def load(self, kind: str, data: str, size: int, split: str) -> Examples:
        """Returns the "photos" or "maps" of a split, "train" or "test"."""
        return finetuning_data.read_examples(self._path(kind, data, size, split))

    def load_backbone(self, size: int) -> tf.keras.Model:
        """Returns the backbone for images of `size` pixels."""
        return finetuning_data.load_backbone(self._backbone, size)

    def _path(self, kind: str, data: str, size: int, split: str) -> pathlib.Path:
        return self._output / "cache" / f"{data}-{size}-{split}-{kind}.npz"


def train_runs(runs: Sequence[FinetuningRun], output: pathlib.Path, data: Data) -> None:
    """Trains every run that is not done and that no other process is training."""
    for run in runs:
        path = record_path(output, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_suffix(".lock"), timeout=0)
        with contextlib.suppress(filelock.Timeout), lock:
            if path.exists():
                continue
            start = time.monotonic()
            record = (
                _train_full(run, data, output) if run.part == "full" else _train_probe(run, data)
            )
            record["seconds"] = round(time.monotonic() - start, 1)
            record["date"], record["tensorflow"] = f"{datetime.date.today()}", tf.__version__
            _write_json(path, record)
            left = sum(not is_done(output, other) for other in runs)
            print(
                f"{datetime.datetime.now():%H:%M} {'/'.join(map(str, run))}: top-1 "
                f"{record['top1']:.2%}, {record['seconds']:.0f} s; {left} of {len(runs)} runs are "
                "left",
                flush=True,
            )


@functools.lru_cache(maxsize=len(HEADS) + len(TRIED))
def _probe(setting: str, head: str, maps_shape: tuple[int, ...], num_classes: int) -> Probe:
    options = {**HEADS, **TRIED}[head]
    return Probe(maps_shape, num_classes, options, SETTINGS[setting].steps)


def _train_probe(run: FinetuningRun, data: Data) -> Record:
    setting = SETTINGS[run.setting]
    pool, test = (data.load("maps", setting.data, setting.size, split) for split in _SPLITS)
    if setting.test_per_class:
        # The test photos of each seed are drawn from all photos.
        pool = Examples(*(np.concatenate(pair) for pair in zip(pool, test, strict=True)))
    train, drawn_test, others = finetuning_data.draw(
        pool.labels, setting.per_class, setting.test_per_class or 0, run.seed
    )
    test = pool.take(drawn_test) if setting.test_per_class else test
    probe, rates = _searched_probe(run, pool, train, others)
    rate = max(rates, key=rates.__getitem__)
    top1 = probe.accuracy(pool.take(train), test, rate, run.seed)
    return {
        **run._asdict(),
        "rate": rate,
        "full_rate": None,
        "searched": _searched_text(rates),
        "top1": round(top1, 6),
        "parameters": probe.parameters,
    }


def _searched_probe(
    run: FinetuningRun, pool: Examples, train: np.ndarray, others: np.ndarray
) -> tuple[Probe, dict[float, float]]:
    """Returns the probe of a run, and the top-1 accuracy of each searched learning rate."""
    num_classes = int(pool.labels.max()) + 1
    probe = _probe(run.setting, run.head, pool.inputs.shape[1:], num_classes)
    searched = finetuning_data.search_split(pool.labels, train, others, run.seed)
    examples, evaluated = (pool.take(indices) for indices in searched)
    seed = SEARCH_SEED + run.seed
    return probe, {rate: probe.accuracy(examples, evaluated, rate, seed) for rate in PROBE_RATES}


def _train_full(run: FinetuningRun, data: Data, output: pathlib.Path) -> Record:
    path = record_path(output, run).with_name("search.json")
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.exists():
            search_run = run._replace(seed=SEARCH_SEED)
            rates = {rate: _train_all_layers(search_run, data, rate, True) for rate in FULL_RATES}
            _write_json(path, [[rate, result["top1"]] for rate, result in rates.items()])
        searched = dict(json.loads(path.read_text()))
    rate = max(searched, key=searched.__getitem__)
    result = _train_all_layers(run, data, rate, False)
    return {**run._asdict(), "full_rate": rate, "searched": _searched_text(searched), **result}


def _train_all_layers(
    run: FinetuningRun, data: Data, rate: float, is_search: bool
) -> dict[str, Any]:
    """Trains a head on the frozen backbone, then all layers, and returns the result.

    Args:
        run: the run.
        data: the photos and feature maps.
        rate: the learning rate of all layers.
        is_search: whether to evaluate training photos of the search instead of the test photos.
    """
    setting = SETTINGS[run.setting]
    size, epochs = setting.full or (0, 0)
    maps = data.load("maps", setting.data, size, "train")
    train, _, others = finetuning_data.draw(maps.labels, setting.per_class, 0, run.seed)
    probe, rates = _searched_probe(run, maps, train, others)
    evaluated = None
    if is_search:
        train, evaluated = finetuning_data.search_split(maps.labels, train, others, run.seed)
    head_rate = max(rates, key=rates.__getitem__)
    head = probe.trained_head(maps.take(train), head_rate, run.seed)
    tf.keras.utils.set_random_seed(run.seed)
    model = finetuning_full.join_head(data.load_backbone(size), head)
    photos = data.load("photos", setting.data, size, "train")
    finetuning_full.train_all_layers(model, photos.take(train), rate, epochs, run.seed)
    if evaluated is not None:
        test = photos.take(evaluated)
    else:
        test = data.load("photos", setting.data, size, "test")
    return {
        "rate": head_rate,
        "top1": round(finetuning_full.top1(model, test), 6),
        "parameters": model.count_params(),
    }


def _searched_text(rates: dict[float, float]) -> str:
    return ", ".join(f"{rate:g}: {100 * top1:.1f}" for rate, top1 in rates.items())


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")
