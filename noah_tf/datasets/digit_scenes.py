"""`digit_scenes`: handwritten digits among broken strokes (a TFDS builder without a download).

Each scene is a 64x64 picture with one handwritten digit ("single") or one to four different digits
("multi") of random sizes at random positions, among fragments cut from other digits. Fragments and
digits have the same stroke widths, colors and contrast, so a classifier has to find the digit
before it can read it. The box of each digit tells whether it looked at the right place.

The digits are the 1,797 scans of 8x8 pixels in scikit-learn. Each split has its own scans: no digit
and no fragment of one split appears in another. A scene is a function of (config, split, index).

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
# Each split: number of scenes, and the share of the scans of each class that belong to it.
SPLITS = {"train": (10_000, 0.65), "validation": (2_000, 0.15), "test": (2_000, 0.20)}

_INK_THRESHOLD = 0.2  # values of a scan above this belong to a stroke; scans are 0..1
_SCAN_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture with its digits.

    Attributes:
        image: uint8 (64, 64, 3).
        labels: the digits in the picture, all different.
        boxes: (top, left, bottom, right) of each digit in pixels; bottom and right are exclusive.
        scan_indices: the indices in `sklearn.datasets.load_digits` of all scans in the picture,
            first those of the digits, then those of the fragments.
    """

    image: np.ndarray
    labels: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    scan_indices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Style:
    """Inclusive ranges of a config.

    Attributes:
        digits: number of digits.
        digit_size: the longer side of a digit in pixels.
        fragments: number of fragments.
    """

    digits: tuple[int, int]
    digit_size: tuple[int, int]
    fragments: tuple[int, int]


_STYLES = {
    "single": _Style(digits=(1, 1), digit_size=(18, 30), fragments=(8, 14)),
    "multi": _Style(digits=(1, 4), digit_size=(18, 26), fragments=(4, 9)),
}


@functools.lru_cache(maxsize=1)
def _scans():
    """Returns scikit-learn's digits, float32 (1797, 8, 8) from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


@functools.cache
def split_scans(split: str) -> tuple[np.ndarray, ...]:
    """Returns the scans of a split: for each class an array of indices in `load_digits`.

    The scans of each class are shuffled once and then divided, so the splits are disjoint and have
    the same share of every class.

    Raises:
        ValueError: there is no such split.
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
    """Returns a random generator that is a function of the key on every machine and version."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def draw_scene(config: str, split: str, index: int) -> Scene:
    """Draws one scene, as a function of the arguments.

    Args:
        config: "single" or "multi".
        split: "train", "validation" or "test".
        index: the index of the scene in its split. Its last decimal digit is the label of the first
            digit, so that the classes are balanced.

    Example:
        draw_scene("single", "train", 7).labels  # (7,)
    """
    rng = _generator(config, split, index)
    style = _STYLES[config]
    canvas = _background(rng)
    placed = _place_digits(rng, style, split, index % NUM_CLASSES)
    boxes = tuple(box for _, _, _, box in placed)
    fragments = [_fragment(rng, split) for _ in range(_between(rng, *style.fragments))]
    fragment_scans = []
    for alpha, scan_index in fragments:
        corner = _free_corner(rng, alpha.shape, boxes, tries=6)
        if corner is not None:
            _paint(canvas, alpha, corner, _ink_color(rng))
            fragment_scans.append(scan_index)
    for alpha, corner, _, _ in placed:
        _paint(canvas, alpha, corner, _ink_color(rng))
    _, targets = _scans()
    digit_scans = [scan_index for _, _, scan_index, _ in placed]
    return Scene(
        image=np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8),
        labels=tuple(int(targets[scan_index]) for scan_index in digit_scans),
        boxes=boxes,
        scan_indices=tuple(digit_scans + fragment_scans),
    )


def _between(rng, low, high):
    """Returns a random integer from low to high, both included."""
    # This module uses no other method of the generator than `random`, whose stream is stable.
    return low + int(rng.random() * (high - low + 1))


def _choose(rng, items):
    return items[int(rng.random() * len(items))]


@functools.cache
def _resampling(size, cells):
    """Returns the (size, cells) matrix that interpolates `cells` values linearly to `size`."""
    coordinates = (np.arange(size) + 0.5) * cells / size - 0.5
    distance = np.abs(np.clip(coordinates, 0, cells - 1)[:, None] - np.arange(cells)[None, :])
    return np.maximum(0, 1 - distance).astype(np.float32)


def _stretch(values, size):
    return _resampling(size, values.shape[0]) @ values @ _resampling(size, values.shape[1]).T


def _render(cells, pixels_per_cell):
    """Returns the opacity of a stroke, 0..1, enlarged from a part of a scan and trimmed."""
    # The interpolation assumes a border of empty cells, so that strokes at the edge end softly.
    rows, columns = (
        _resampling(round((cell_count + 2) * pixels_per_cell), cell_count + 2)[:, 1:-1]
        for cell_count in cells.shape
    )
    alpha = np.minimum(np.maximum(rows @ cells @ columns.T * 3.0 - 0.8, 0), 1)
    return alpha[_extent(alpha > 0.4)]


def _extent(mask):
    """Returns the slices of rows and columns that contain all true entries."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _whole_digit(rng, split, label, size):
    """Returns the opacity of a digit, the longer side about `size` pixels, and its scan's index."""
    scan_index = int(_choose(rng, split_scans(split)[label]))
    scan = _scans()[0][scan_index]
    ink = scan[_extent(scan > _INK_THRESHOLD)]
    return _render(ink, size / max(ink.shape)), scan_index


def _fragment(rng, split):
    """Returns the opacity of a fragment of a digit, and the index of the scan.

    A fragment is at most half as high and half as wide as the scan. It is rotated and mirrored at
    random, because half a digit could still be recognized.
    """
    while True:
        scan_index = int(_choose(rng, _choose(rng, split_scans(split))))
        height, width = _between(rng, 3, 4), _between(rng, 3, 4)
        top, left = _between(rng, 0, _SCAN_SIZE - height), _between(rng, 0, _SCAN_SIZE - width)
        cut = _scans()[0][scan_index][top : top + height, left : left + width]
        if 0.3 < cut.sum() / cut.size < 0.8:
            break
    cut = np.rot90(cut, _between(rng, 0, 3))
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    low, high = _STYLES["single"].digit_size
    return _render(cut, (low + rng.random() * (high - low)) / _SCAN_SIZE), scan_index


def _place_digits(rng, style, split, first_label):
    """Returns different digits that do not touch: a list of (opacity, corner, scan index, box)."""
    others = [label for label in range(NUM_CLASSES) if label != first_label]
    shuffled = [others[i] for i in np.argsort(rng.random(len(others)))]
    placed = []
    for label in [first_label, *shuffled][: _between(rng, *style.digits)]:
        size = _between(rng, *style.digit_size)
        alpha, scan_index = _whole_digit(rng, split, label, size)
        corner = _free_corner(rng, alpha.shape, [box for _, _, _, box in placed], tries=30)
        if corner is not None:  # a full scene gets fewer digits
            box = (*corner, corner[0] + alpha.shape[0], corner[1] + alpha.shape[1])
            placed.append((alpha, corner, scan_index, box))
    return placed


def _free_corner(rng, shape, boxes, tries):
    """Returns a random (top, left) for a patch two pixels away from all boxes, or None."""
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
    """Returns a dark background of soft color blotches, (64, 64, 3)."""
    tint = 0.08 + 0.3 * rng.random() + 0.15 * (rng.random(3) - 0.5)
    coarse = 0.25 * (rng.random((5, 5, 3)) - 0.5)
    fine = 0.12 * (rng.random((22, 22)) - 0.5)
    blotches = [_stretch(coarse[..., c], SCENE_SIZE) for c in range(3)]
    texture = _stretch(fine, SCENE_SIZE)[..., None]
    return np.clip(tint + np.stack(blotches, -1) + texture, 0, 1)


def _ink_color(rng):
    """Returns a color that is brighter than any background.

    With arbitrary colors for ink and background, the network of the quickstart learned nothing in
    two epochs.
    """
    return 0.55 + 0.45 * rng.random(3)


def _paint(canvas, alpha, corner, color):
    top, left = corner
    region = canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    region += alpha[..., None] * (color - region)


@dataclasses.dataclass
class DigitScenesConfig(tfds.core.BuilderConfig):
    """ "single": one digit per scene; "multi": one to four different digits per scene."""


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits among broken strokes: 64x64 RGB scenes with boxes.

    The config "single" (the default) has the features `image`, `label` and `bbox`. The config
    "multi" has `image`, `label` (a multi-hot vector of 10) and `objects`, a sequence of {`bbox`,
    `label`}.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [
        DigitScenesConfig(name="single", description="One digit per scene."),
        DigitScenesConfig(name="multi", description="One to four different digits per scene."),
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
        # TFDS would encode the image three times more slowly, and 8% smaller.
        image = io.BytesIO(tf.io.encode_png(scene.image, compression=1).numpy())
        boxes = [_relative(box) for box in scene.boxes]
        if self.builder_config.name == "single":
            return {"image": image, "label": scene.labels[0], "bbox": boxes[0]}
        multi_hot = np.isin(np.arange(NUM_CLASSES), scene.labels).astype(np.uint8)
        objects = [{"bbox": b, "label": c} for b, c in zip(boxes, scene.labels, strict=True)]
        return {"image": image, "label": multi_hot, "objects": objects}


def _relative(box):
    """Converts a box in pixels to one of TFDS, in shares of the scene's side."""
    top, left, bottom, right = (side / SCENE_SIZE for side in box)
    return tfds.features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)
