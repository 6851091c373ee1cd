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
import numpy as np
import tensorflow as tf
from finetuning_data import Examples
from finetuning_full import FullTraining
from finetuning_probe import Probe, make_head
from finetuning_settings import FULL_RATES, HEADS, PROBE_RATES, SETTINGS, TRIED, FinetuningRun

from noah_tf.utils.files import write_text_atomically

# Added to a run's seed for the training of its learning rate search.
_SEARCH_SEED = 1000
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
        return setting.full.size if run.part == "full" and setting.full else setting.size

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
            record = (_train_full if run.part == "full" else _train_probe)(run, data)
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
    pool, test, train, others = _draw(run, data, "maps", SETTINGS[run.setting].test_per_class)
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


def _draw(
    run: FinetuningRun, data: Data, kind: str, test_per_class: int | None
) -> tuple[Examples, Examples, np.ndarray, np.ndarray]:
    """Draws the "photos" or "maps" of a run.

    Args:
        run: the run.
        data: the photos and feature maps.
        kind: "photos" or "maps".
        test_per_class: test photos of each class that are drawn from all photos; None for the data
            set's own test split.

    Returns:
        The examples to draw from; the test examples; and the indices of the training examples, and
        of those that are neither.
    """
    setting, size = SETTINGS[run.setting], data.size(run)
    pool, test = (data.load(kind, setting.data, size, split) for split in _SPLITS)
    if test_per_class:
        pool = Examples(*(np.concatenate(pair) for pair in zip(pool, test, strict=True)))
    train, drawn_test, others = finetuning_data.draw(
        pool.labels, setting.per_class, test_per_class or 0, run.seed
    )
    return pool, pool.take(drawn_test) if test_per_class else test, train, others


def _searched_probe(
    run: FinetuningRun, pool: Examples, train: np.ndarray, others: np.ndarray
) -> tuple[Probe, dict[float, float]]:
    """Returns the probe of a run, and the top-1 accuracy of each searched learning rate."""
    num_classes = int(pool.labels.max()) + 1
    probe = _probe(run.setting, run.head, pool.inputs.shape[1:], num_classes)
    searched = finetuning_data.search_split(pool.labels, train, others, run.seed)
    examples, evaluated = (pool.take(indices) for indices in searched)
    seed = _SEARCH_SEED + run.seed
    return probe, {rate: probe.accuracy(examples, evaluated, rate, seed) for rate in PROBE_RATES}


@functools.lru_cache(maxsize=len(HEADS))
def _full_training(data: Data, size: int, head: str, num_classes: int) -> FullTraining:
    backbone = data.load_backbone(size)
    return FullTraining(backbone, make_head(backbone.output_shape[1:], num_classes, HEADS[head]))


def _train_full(run: FinetuningRun, data: Data) -> Record:
    full = SETTINGS[run.setting].full
    assert full is not None
    maps, _, train, others = _draw(run, data, "maps", full.test_per_class)
    photos, test, _, _ = _draw(run, data, "photos", full.test_per_class)
    probe, rates = _searched_probe(run, maps, train, others)
    rate = max(rates, key=rates.__getitem__)
    head_weights = probe.trained_head(maps.take(train), rate, run.seed).get_weights()
    training = _full_training(data, full.size, run.head, int(maps.labels.max()) + 1)
    _, searched = finetuning_data.search_split(maps.labels, train, others, run.seed)
    results, weights = {}, {}
    for full_rate in FULL_RATES:
        training.train(head_weights, photos.take(train), full_rate, full.epochs, run.seed)
        results[full_rate] = training.top1(photos.take(searched))
        weights[full_rate] = training.get_weights()
    full_rate = max(results, key=results.__getitem__)
    training.set_weights(weights[full_rate])
    return {
        **run._asdict(),
        "rate": rate,
        "full_rate": full_rate,
        "searched": _searched_text(results),
        "top1": round(training.top1(test), 6),
        "parameters": training.parameters,
    }


def _searched_text(rates: dict[float, float]) -> str:
    return ", ".join(f"{rate:g}: {100 * top1:.1f}" for rate, top1 in rates.items())


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")
