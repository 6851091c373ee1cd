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

# The seeds of the searches for the learning rate of all layers, which no run uses.
SEARCH_SEEDS = (1000, 1001, 1002)
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
    seed = SEARCH_SEEDS[0] + run.seed
    return probe, {rate: probe.accuracy(examples, evaluated, rate, seed) for rate in PROBE_RATES}


def _train_full(run: FinetuningRun, data: Data, output: pathlib.Path) -> Record:
    searches = [_search_full(run._replace(seed=seed), data, output) for seed in SEARCH_SEEDS]
    searched = {rate: float(np.mean([top1[rate] for top1 in searches])) for rate in FULL_RATES}
    rate = max(searched, key=searched.__getitem__)
    record = _train_all_layers(run, data, [rate], False)
    top1 = record.pop("top1")[rate]
    return {
        **run._asdict(),
        "full_rate": rate,
        "searched": _searched_text(searched),
        "top1": top1,
        **record,
    }


def _search_full(run: FinetuningRun, data: Data, output: pathlib.Path) -> dict[float, float]:
    """Returns the top-1 accuracy of each rate of all layers, which the heads' runs share."""
    path = record_path(output, run).with_name(f"search{run.seed}.json")
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.exists():
            top1 = _train_all_layers(run, data, FULL_RATES, True)["top1"]
            _write_json(path, list(top1.items()))
        return dict(json.loads(path.read_text()))


def _train_all_layers(
    run: FinetuningRun, data: Data, rates: Sequence[float], is_search: bool
) -> dict[str, Any]:
    """Trains a head on the frozen backbone, then all layers with each rate.

    Args:
        run: the run.
        data: the photos and feature maps.
        rates: learning rates of all layers. Each starts from the same head.
        is_search: whether to evaluate training photos of the search instead of the test photos.

    Returns:
        The "rate" of the head, the "top1" of each rate, and the number of "parameters".
    """
    setting = SETTINGS[run.setting]
    size, epochs = setting.full or (0, 0)
    maps = data.load("maps", setting.data, size, "train")
    train, _, others = finetuning_data.draw(maps.labels, setting.per_class, 0, run.seed)
    probe, searched = _searched_probe(run, maps, train, others)
    head_rate = max(searched, key=searched.__getitem__)
    photos = data.load("photos", setting.data, size, "train")
    if is_search:
        train, evaluated = finetuning_data.search_split(maps.labels, train, others, run.seed)
        test = photos.take(evaluated)
    else:
        test = data.load("photos", setting.data, size, "test")
    head = probe.trained_head(maps.take(train), head_rate, run.seed)
    model = finetuning_full.join_head(data.load_backbone(size), head)
    start = model.get_weights()
    top1 = {}
    for rate in rates:
        model.set_weights(start)
        tf.keras.utils.set_random_seed(run.seed)
        finetuning_full.train_all_layers(model, photos.take(train), rate, epochs, run.seed)
        top1[rate] = round(finetuning_full.top1(model, test), 6)
    return {"rate": head_rate, "top1": top1, "parameters": model.count_params()}


def _searched_text(rates: dict[float, float]) -> str:
    return ", ".join(f"{rate:g}: {100 * top1:.1f}" for rate, top1 in rates.items())


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")
