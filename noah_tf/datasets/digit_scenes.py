"""`digit_scenes`: find the handwritten digit among broken strokes (a TFDS builder, no download).

Each scene is a 64x64 photo-like picture with one whole handwritten digit ("single") or one to four
different ones ("multi"), somewhere, at some size, among fragments cut from other digits. Fragments
and digits share stroke widths, colours and contrast, so that a classifier must find the digit
before it can read it; the digit's box says whether it did.

The digits are scikit-learn's 1,797 real 8x8 scans. Every split owns its scans: no digit, and no
fragment, of one split appears in another. A scene is a pure function of (config, split, index).

    import tensorflow_datasets as tfds
    import noah_tf.datasets.digit_scenes  # registers the builder

    builder = tfds.builder("digit_scenes")  # or "digit_scenes/multi"
    builder.download_and_prepare()
    train = builder.as_dataset(split="train")
"""

import dataclasses
import functools
import io
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

SCENE_SIZE = 64
NUM_CLASSES = 10
# Scenes in a split, and the share of each class's scans that the split owns.
SPLITS = {"train": (10_000, 0.65), "validation": (2_000, 0.15), "test": (2_000, 0.20)}

_INK = 0.2  # scans are 0..1; what is above this is stroke
_CELLS = 8  # a scan's side


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture with its digits.

    Attributes:
        image: uint8 (64, 64, 3).
        labels: the digits in it, one to four different ones.
        boxes: for each digit (top, left, bottom, right) in pixels, bottom and right exclusive.
        sources: the positions in `sklearn.datasets.load_digits` of every scan that was used, the
            whole digits first, then the fragments.
    """

    image: np.ndarray
    labels: tuple
    boxes: tuple
    sources: tuple


@dataclasses.dataclass(frozen=True)
class _Style:
    """What a config draws: counts and sizes (pixels) as inclusive ranges."""

    digits: tuple
    digit_size: tuple
    fragments: tuple


_STYLES = {
    "single": _Style(digits=(1, 1), digit_size=(18, 30), fragments=(8, 14)),
    "multi": _Style(digits=(1, 4), digit_size=(18, 26), fragments=(4, 9)),
}


@functools.lru_cache(maxsize=1)
def _scans():
    """scikit-learn's digits: float32 (1797, 8, 8) from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


@functools.cache
def split_scans(split):
    """The scans a split owns: a tuple of 10 arrays of positions in `load_digits`, one a class.

    Shares are taken class by class from one fixed shuffle, so the splits are disjoint and every
    class is split in the same proportions.
    """
    if split not in SPLITS:
        raise ValueError(f"digit_scenes has no split {split!r}; it has {', '.join(SPLITS)}.")
    _, targets = _scans()
    order = np.argsort(_generator("split of the scans").random(len(targets)), kind="stable")
    start = sum(share for _, share in list(SPLITS.values())[: list(SPLITS).index(split)])
    stop = start + SPLITS[split][1]
    owned = []
    for label in range(NUM_CLASSES):
        members = order[targets[order] == label]
        owned.append(members[round(start * len(members)) : round(stop * len(members))])
    return tuple(owned)


def _generator(*key):
    """A random generator that depends on the key alone, the same on every machine and version."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def draw_scene(config, split, index):
    """Draws one scene.

    Args:
        config: "single" or "multi".
        split: "train", "validation" or "test".
        index: the scene's number in its split; its last figure is the first digit's label, which
            keeps the classes balanced.

    Returns:
        A `Scene`, always the same for the same arguments.

    Example:
        draw_scene("single", "train", 7).labels  # (7,)
    """
    rng = _generator(config, split, index)
    style = _STYLES[config]
    canvas = _background(rng)
    placed = _place_digits(rng, style, split, index % NUM_CLASSES)
    boxes = tuple(box for _, _, _, box in placed)
    fragments = [_fragment(rng, split) for _ in range(_between(rng, *style.fragments))]
    fragment_sources = []
    for alpha, source in fragments:
        corner = _free_corner(rng, alpha.shape, boxes, tries=6)
        if corner is not None:
            _paint(canvas, alpha, corner, _ink_colour(rng))
            fragment_sources.append(source)
    for alpha, corner, _, _ in placed:
        _paint(canvas, alpha, corner, _ink_colour(rng))
    _, targets = _scans()
    sources = [source for _, _, source, _ in placed]
    return Scene(
        image=np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8),
        labels=tuple(int(targets[source]) for source in sources),
        boxes=boxes,
        sources=tuple(sources + fragment_sources),
    )


def _between(rng, low, high):
    """An integer from low to high, both included."""
    # Of numpy's draws only `random` is used in this file: its stream is the plainest.
    return low + int(rng.random() * (high - low + 1))


def _choose(rng, items):
    return items[int(rng.random() * len(items))]


@functools.cache
def _resampling(size, cells):
    """The (size, cells) matrix that stretches `cells` values linearly over `size` pixels."""
    positions = (np.arange(size) + 0.5) * cells / size - 0.5
    distance = np.abs(np.clip(positions, 0, cells - 1)[:, None] - np.arange(cells)[None, :])
    return np.maximum(0, 1 - distance).astype(np.float32)


def _stretch(values, size):
    return _resampling(size, values.shape[0]) @ values @ _resampling(size, values.shape[1]).T


def _render(cells, pixels_per_cell):
    """Scan cells → opacity of the stroke, 0..1, trimmed to what can be seen of it."""
    # A border of empty cells, left out again here, gives strokes at the scan's edge a soft end.
    rows, columns = (
        _resampling(round((cell_count + 2) * pixels_per_cell), cell_count + 2)[:, 1:-1]
        for cell_count in cells.shape
    )
    alpha = np.minimum(np.maximum(rows @ cells @ columns.T * 3.0 - 0.8, 0), 1)
    return alpha[_extent(alpha > 0.4)]


def _extent(mask):
    """The slices of rows and columns that hold every true entry."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _whole_digit(rng, split, label, size):
    """Opacity of a digit whose longer side is about `size` pixels, and its scan's position."""
    source = int(_choose(rng, split_scans(split)[label]))
    scan = _scans()[0][source]
    ink = scan[_extent(scan > _INK)]
    return _render(ink, size / max(ink.shape)), source


def _fragment(rng, split):
    """Opacity of a stroke cut from a digit, at most half of it each way, and the scan's position.

    Turned and mirrored at random: half a digit upright could still be read as one.
    """
    while True:
        source = int(_choose(rng, _choose(rng, split_scans(split))))
        height, width = _between(rng, 3, 4), _between(rng, 3, 4)
        top, left = _between(rng, 0, _CELLS - height), _between(rng, 0, _CELLS - width)
        cut = _scans()[0][source][top : top + height, left : left + width]
        if 0.3 < cut.sum() / cut.size < 0.8:
            break
    cut = np.rot90(cut, _between(rng, 0, 3))
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    low, high = _STYLES["single"].digit_size
    return _render(cut, (low + rng.random() * (high - low)) / _CELLS), source


def _place_digits(rng, style, split, first_label):
    """Different digits that do not touch: a list of (opacity, corner, source, box)."""
    others = [label for label in range(NUM_CLASSES) if label != first_label]
    shuffled = [others[i] for i in np.argsort(rng.random(len(others)))]
    placed = []
    for label in [first_label, *shuffled][: _between(rng, *style.digits)]:
        size = _between(rng, *style.digit_size)
        alpha, source = _whole_digit(rng, split, label, size)
        corner = _free_corner(rng, alpha.shape, [box for _, _, _, box in placed], tries=30)
        if corner is not None:  # a crowded scene holds fewer digits than were drawn
            box = (*corner, corner[0] + alpha.shape[0], corner[1] + alpha.shape[1])
            placed.append((alpha, corner, source, box))
    return placed


def _free_corner(rng, shape, boxes, tries):
    """A random (top, left) for a patch inside the scene, two pixels clear of the boxes, or None."""
    height, width = shape
    for _ in range(tries):
        top = _between(rng, 1, SCENE_SIZE - height - 1)
        left = _between(rng, 1, SCENE_SIZE - width - 1)
        if all(
            top >= bottom + 2 or top + height + 2 <= box_top
            or left >= right + 2 or left + width + 2 <= box_left
            for box_top, box_left, bottom, right in boxes
        ):  # fmt: skip
            return top, left
    return None


def _background(rng):
    """Soft blotches of dark colour around one brightness: the canvas (64, 64, 3)."""
    tint = 0.08 + 0.3 * rng.random() + 0.15 * (rng.random(3) - 0.5)
    coarse = 0.25 * (rng.random((5, 5, 3)) - 0.5)
    fine = 0.12 * (rng.random((22, 22)) - 0.5)
    blotches = [_stretch(coarse[..., c], SCENE_SIZE) for c in range(3)]
    texture = _stretch(fine, SCENE_SIZE)[..., None]
    return np.clip(tint + np.stack(blotches, -1) + texture, 0, 1)


def _ink_colour(rng):
    """A colour brighter than any background.

    With ink of any brightness on any background, the quickstart's network was still at chance
    after two epochs.
    """
    return 0.55 + 0.45 * rng.random(3)


def _paint(canvas, alpha, corner, colour):
    top, left = corner
    region = canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    region += alpha[..., None] * (colour - region)


@dataclasses.dataclass
class DigitScenesConfig(tfds.core.BuilderConfig):
    """ "single": one digit a scene; "multi": one to four different ones."""


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits to find among broken strokes: 64x64 RGB scenes with boxes.

    Config "single" (the default): `image`, `label`, `bbox`. Config "multi": `image`, `label` (a
    multi-hot vector of 10) and `objects`, a sequence of {`bbox`, `label`}.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [
        DigitScenesConfig(name="single", description="One digit a scene."),
        DigitScenesConfig(name="multi", description="One to four different digits a scene."),
    ]

    def _info(self):
        image = tfds.features.Image(shape=(SCENE_SIZE, SCENE_SIZE, 3), encoding_format="png")
        label = tfds.features.ClassLabel(num_classes=NUM_CLASSES)
        box = tfds.features.BBoxFeature()
        if self.builder_config.name == "single":
            features = {"image": image, "label": label, "bbox": box}
        else:
            features = {
                "image": image,
                "label": tfds.features.Tensor(shape=(NUM_CLASSES,), dtype=np.uint8),
                "objects": tfds.features.Sequence({"bbox": box, "label": label}),
            }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for index in range(SPLITS[split][0]):
            scene = draw_scene(self.builder_config.name, split, index)
            yield index, self._example(scene)

    def _example(self, scene):
        # The feature would encode it as well, three times slower and 8 % smaller.
        image = io.BytesIO(tf.io.encode_png(scene.image, compression=1).numpy())
        boxes = [_relative(box) for box in scene.boxes]
        if self.builder_config.name == "single":
            return {"image": image, "label": scene.labels[0], "bbox": boxes[0]}
        multi_hot = np.isin(np.arange(NUM_CLASSES), scene.labels).astype(np.uint8)
        objects = [{"bbox": b, "label": c} for b, c in zip(boxes, scene.labels, strict=True)]
        return {"image": image, "label": multi_hot, "objects": objects}


def _relative(box):
    """A box in pixels → TFDS's, in shares of the scene's side."""
    top, left, bottom, right = (side / SCENE_SIZE for side in box)
    return tfds.features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)
