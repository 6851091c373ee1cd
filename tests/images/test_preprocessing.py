import io
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from hostile_images import exif, jpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, in_pipeline, noise, smooth
from PIL import Image, ImageOps

from noah_tf.images.ops import INTERPOLATIONS, orient
from noah_tf.images.preprocessing import Preprocessing, decode
from noah_tf.images.random_crop import RandomCrop, crop_draws, random_window
from noah_tf.images.train_transform import TrainTransform

SEED = (3, 7)


# --- evaluation


def pil_evaluation(image, crop, short, resample):
    """Resizes the short side and crops the center with PIL, like the transforms of PyTorch."""
    picture = Image.fromarray(image)
    width, height = picture.size
    scale = short / min(width, height)
    size = (short, int(height * scale)) if width <= height else (int(width * scale), short)
    picture = picture.resize(size, resample)
    left, top = (round((side - crop) / 2) for side in size)
    return np.asarray(picture.crop((left, top, left + crop, top + crop)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "short", "count"),
    [pytest.param(224, 256, 60, marks=pytest.mark.slow), (224, 224, 8), (96, 110, 8)],
)
def test_evaluation_agrees_with_pil(shared, interpolation, size, short, count):
    resample = getattr(Image.Resampling, interpolation.upper())
    preprocessing = Preprocessing(size, short, interpolation)
    files = sorted((shared / "imagenet_sample").glob("*.JPEG"))[:: 1000 // count][:count]
    assert len(files) == count
    differences = []
    for file in files:
        image = decode(file.read_bytes())
        got = preprocessing.center_crop(image).numpy()
        want = pil_evaluation(image.numpy(), size, short, resample)
        differences.append(np.abs(got - want).mean())
    assert max(differences) < 1, "mean difference of a photo, of 255"
    assert np.mean(differences) < 0.4


def test_evaluation_is_the_same_eagerly_and_in_graphs():
    preprocessing = Preprocessing((24, 24), 30, "bicubic")
    data = [encoded(noise(40, 50), "PNG"), encoded(smooth(90, 31), "JPEG")]

    def evaluate(image_bytes):
        return preprocessing.evaluation(decode(image_bytes))

    eager = np.stack([evaluate(one) for one in data])
    np.testing.assert_array_equal(np.stack([in_pipeline(evaluate, one) for one in data]), eager)
    batched = tf.function(lambda x: tf.map_fn(evaluate, x, fn_output_signature=tf.float32))
    np.testing.assert_array_equal(batched(tf.constant(data)), eager)
    assert in_pipeline(evaluate, data[0]).shape == (24, 24, 3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photo_of_the_right_size_keeps_its_pixels(interpolation):
    image = noise(32, 48)
    preprocessing = Preprocessing((32, 48), interpolation=interpolation)
    np.testing.assert_array_equal(preprocessing.center_crop(image), image)
    data = encoded(image, "PNG")
    view = preprocessing.random_crop(data, SEED, RandomCrop(crop_scale=None, flip=False))
    np.testing.assert_array_equal(view, image)


def test_photo_with_the_right_short_side_is_only_cropped():
    image = noise(32, 47)
    got = Preprocessing(32).center_crop(image)
    np.testing.assert_array_equal(got, image[:, 8:40])  # 7.5 rounds to even, as in PyTorch
    square = noise(32, 32)
    np.testing.assert_array_equal(Preprocessing(30, 32).center_crop(square), square[1:31, 1:31])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_center_crop_of_any_size(height, width, image_height, image_width):
    preprocessing = Preprocessing((image_height, image_width))
    image = np.full((height, width, 3), 77, np.uint8)
    got = preprocessing.center_crop(image).numpy()
    assert got.shape == (image_height, image_width, 3)
    np.testing.assert_allclose(got, 77, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "middle"),
    [((4, 4000), np.s_[:, 1968:2032]), ((4000, 2), np.s_[1984:2016])],
    ids=["row", "column"],
)
def test_only_the_middle_of_a_long_photo_is_resized(shape, middle):
    preprocessing = Preprocessing(40)
    image = noise(*shape)
    got = preprocessing.center_crop(image)
    np.testing.assert_array_equal(got, preprocessing.center_crop(image[middle]))
    # The result is close to that of resizing the whole photo.
    size = [side * 40 // min(shape) for side in shape]
    whole = tf.image.resize(image, size, antialias=True).numpy()
    top, left = ((side - 40) // 2 for side in size)
    np.testing.assert_allclose(got, whole[top : top + 40, left : left + 40], atol=0.1)


@pytest.mark.parametrize("sides", [(65_500, 1), (1, 65_500), (65_500, 500)])
def test_thin_photo_takes_little_memory(sides):
    # The first photo would have 17 million columns after resizing all of it: 51 GB.
    preprocessing = Preprocessing(224, 256)
    assert in_pipeline(preprocessing.evaluation, decode(jpeg(*sides))).shape == (224, 224, 3)


def test_normalize_known_values():
    preprocessing = Preprocessing(8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    got = preprocessing.normalize(np.array([[255, 0, 51]], np.uint8)).numpy()
    np.testing.assert_allclose(got, [[1, -1, 0.2]], atol=1e-6)
    image = noise(8, 8)
    np.testing.assert_array_equal(preprocessing.denormalize(preprocessing.normalize(image)), image)


# --- region


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(8, 40), st.integers(8, 40))
def test_region_is_that_of_the_center_crop(height, width, image_height, image_width):
    short = min(image_height, image_width) + 5
    preprocessing = Preprocessing((image_height, image_width), short)
    region = preprocessing.region((height, width)).numpy()
    assert region.dtype == np.float32 and region.shape == (4,)
    top, left, bottom, right = region.astype(float)
    assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1
    # The value of each pixel is its position.
    rows = (np.arange(height) + 0.5)[:, None] / height
    columns = (np.arange(width) + 0.5)[None, :] / width
    coordinates = np.stack(np.broadcast_arrays(rows, columns, 0 * rows), -1).astype(np.float32)
    got = preprocessing.center_crop(coordinates).numpy()
    # Only pixels far from the edges are compared, because resizing distorts those at the edges.
    for axis, (low, high), count in ((0, (top, bottom), height), (1, (left, right), width)):
        if count < 40:
            continue
        size = got.shape[axis]
        want = low + (np.arange(size) + 0.5) / size * (high - low)
        values = got.mean(axis=1 - axis)[:, axis]
        inner = slice(size // 4, -(size // 4))
        np.testing.assert_allclose(values[inner], want[inner], atol=2.5e-3)


def test_known_regions():
    np.testing.assert_array_equal(Preprocessing(32).region((32, 32)), [0, 0, 1, 1])
    # The photo is resized to 256 x 341, and the crop starts at row 16 and column 58.
    want = [16 / 256, 58 / 341, 240 / 256, 282 / 341]
    np.testing.assert_allclose(Preprocessing(224, 256).region((375, 500)), want, rtol=1e-6)
    graph = tf.function(Preprocessing(224, 256).region)
    np.testing.assert_allclose(graph(tf.constant([375, 500])), want, rtol=1e-6)
    # The middle 160 of 1600 columns are resized to 640.
    thin = Preprocessing(40).region((10, 1600))
    np.testing.assert_allclose(thin, [0, 795 / 1600, 1, 805 / 1600], rtol=1e-6)


# --- stretch


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(48, 64), (64, 40), (30, 30)])
def test_stretch_shows_the_whole_photo(interpolation, shape):
    preprocessing = Preprocessing((32, 24), interpolation=interpolation, stretch=True)
    image = smooth(*shape)
    got = preprocessing.center_crop(image).numpy()
    resample = getattr(Image.Resampling, interpolation.upper())
    want = np.asarray(Image.fromarray(image).resize((24, 32), resample))
    assert np.abs(got - want).mean() < 0.6
    np.testing.assert_array_equal(preprocessing.region(shape), [0, 0, 1, 1])
    data = encoded(image, "PNG")
    view = preprocessing.random_crop(data, SEED, RandomCrop(crop_scale=None, flip=False))
    np.testing.assert_array_equal(view, np.floor(got + 0.5))
    in_graph = in_pipeline(lambda one: preprocessing.center_crop(decode(one)), data)
    np.testing.assert_array_equal(in_graph, got)


def test_stretch_with_a_larger_resize_size_crops():
    whole = Preprocessing((40, 60), stretch=True).center_crop(smooth(55, 70))
    got = Preprocessing((32, 48), 40, stretch=True).center_crop(smooth(55, 70))
    np.testing.assert_array_equal(got, whole[4:36, 6:54])
    region = Preprocessing((32, 48), 40, stretch=True).region((55, 70))
    np.testing.assert_allclose(region, [0.1, 0.1, 0.9, 0.9], rtol=1e-6)


def test_stretch_uses_the_middle_of_a_very_long_photo():
    # A row of 65,000 pixels would otherwise become hundreds of megabytes.
    row = np.zeros((2, 60_000, 3), np.uint8)
    row[:, 30_000 - 16 : 30_000 + 16] = 200
    preprocessing = Preprocessing((64, 64), stretch=True)
    np.testing.assert_allclose(preprocessing.center_crop(row), 200, rtol=1e-5)
    region = preprocessing.region((2, 60_000)).numpy()
    np.testing.assert_allclose(region, [0, 0.5 - 16 / 60_000, 1, 0.5 + 16 / 60_000], rtol=1e-5)


def test_stretch_keeps_the_pixels_of_the_right_size():
    image = noise(32, 48)
    np.testing.assert_array_equal(Preprocessing((32, 48), stretch=True).center_crop(image), image)


# --- exif_rotation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_turns_photos_upright(orientation):
    plain = encoded(smooth(40, 60), "JPEG")
    data = plain[:2] + exif(orientation) + plain[2:]
    turned = Preprocessing(24, 30, exif_rotation=True)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert upright.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    for got in (turned.decode(data).numpy(), in_pipeline(turned.decode, data)):
        assert got.shape == upright.shape
        assert np.abs(got.astype(int) - upright).mean() < 2  # PIL has another decoder
        np.testing.assert_array_equal(got, orient(decode(plain), orientation))
    np.testing.assert_array_equal(Preprocessing(24, 30).decode(data), decode(plain))
    # Training without a random crop uses the same photo.
    view = turned.random_crop(data, SEED, RandomCrop(crop_scale=None, flip=False))
    want = turned.center_crop(turned.decode(data)).numpy()
    np.testing.assert_array_equal(view, np.floor(want + 0.5))


def test_no_op_is_added_without_exif_rotation():
    def ops(function):
        graph = tf.function(function).get_concrete_function(tf.TensorSpec([], tf.string)).graph
        nodes = list(graph.as_graph_def().node)
        nodes += [n for f in graph.as_graph_def().library.function for n in f.node_def]
        return sorted(node.op for node in nodes)

    assert ops(Preprocessing(8).decode) == ops(decode)
    assert len(ops(Preprocessing(8, exif_rotation=True).decode)) > len(ops(decode))


def test_missing_keys_have_defaults():
    values = Preprocessing(24).to_dict()
    assert values.pop("exif_rotation") is False
    assert Preprocessing.from_dict(values) == Preprocessing(24)


# --- training


def odd_photos():
    """Unusual photos of ImageNet: 23 CMYK ones, a PNG named .JPEG, thousands in grayscale."""
    color = smooth(90, 120)
    gray = color[..., 0]
    return {
        "CMYK": (encoded(color, "JPEG", "CMYK", quality=95), color),
        "gray": (encoded(gray, "JPEG", quality=95), np.repeat(gray[..., None], 3, -1)),
        "PNG named n02105855_2933.JPEG": (encoded(color, "PNG"), color),
        "gray PNG": (encoded(gray, "PNG"), np.repeat(gray[..., None], 3, -1)),
        "PNG with alpha": (encoded(color, "PNG", "RGBA"), color),
    }


@pytest.mark.parametrize("kind", odd_photos())
def test_odd_photos_decode_for_training_and_evaluation(tmp_path, kind):
    data, pixels = odd_photos()[kind]
    file = tmp_path / "n02105855_2933.JPEG"
    file.write_bytes(data)
    preprocessing = Preprocessing(48, 56)
    plain = encoded(pixels, "PNG")
    random_interpolation = TrainTransform(preprocessing, RandomCrop(crop_interpolation="random"))

    def views(path):
        data = tf.io.read_file(path)
        crop = random_interpolation(data, SEED)
        return preprocessing.evaluation(decode(data)), crop

    results = next(iter(tf.data.Dataset.from_tensors(str(file)).map(views)))
    wanted = [preprocessing.evaluation(decode(plain)), TrainTransform(preprocessing)(plain, SEED)]
    for got, want in zip(results, wanted, strict=True):
        # Standard deviations in evaluation, and bytes in training: 3 of 255.
        tolerance = 3 if got.dtype == tf.uint8 else 0.05
        got, want = (tf.cast(value, tf.float32) for value in (got, want))
        assert np.abs(got - want).mean() < tolerance


def test_training_is_a_function_of_the_seed():
    transform = TrainTransform(Preprocessing(24), RandomCrop(pad=2))
    data = encoded(noise(60, 80), "PNG")

    def view(seed):
        return transform(data, seed)

    first = view(SEED).numpy()
    tf.random.set_seed(99)
    np.testing.assert_array_equal(view(SEED), first)
    np.testing.assert_array_equal(in_pipeline(view, tf.constant(SEED)), first)
    assert (view((3, 8)).numpy() != first).any() and (view((4, 7)).numpy() != first).any()


def test_crop_of_a_jpeg_equals_that_of_the_decoded_photo():
    image = smooth(120, 160)
    jpeg = encoded(image, "JPEG", quality=95, subsampling=0)
    png = encoded(decode(jpeg).numpy(), "PNG")
    preprocessing = Preprocessing(40)
    for seed in range(10):
        from_jpeg = preprocessing.random_crop(jpeg, (0, seed)).numpy().astype(int)
        from_png = preprocessing.random_crop(png, (0, seed)).numpy()
        assert np.abs(from_jpeg - from_png).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (60, 1), (2, 3)])
def test_tiny_photos_can_be_cropped(shape):
    for file_format in ("PNG", "JPEG"):
        data = encoded(noise(*shape), file_format)
        for seed in range(5):
            assert Preprocessing(8).random_crop(data, (0, seed)).shape == (8, 8, 3)


def test_flip_has_probability_one_half():
    image = noise(16, 16)
    data = encoded(image, "PNG")
    preprocessing = Preprocessing(16)

    def view(seed):
        return preprocessing.random_crop(data, [1, seed], RandomCrop(crop_scale=None))

    views = tf.data.Dataset.range(400).map(view).as_numpy_iterator()
    flipped = [(one == image[:, ::-1]).all() for one in views]
    assert 160 < sum(flipped) < 240
    straight = preprocessing.random_crop(
        data, (1, flipped.index(False)), RandomCrop(crop_scale=None)
    )
    np.testing.assert_array_equal(straight, image)


def test_random_interpolation_draws_one_of_two():
    data = encoded(noise(60, 60), "PNG")
    preprocessing = {name: Preprocessing(20, interpolation=name) for name in INTERPOLATIONS}
    seen = []
    for seed in range(24):
        random = RandomCrop(crop_interpolation="random")
        got = preprocessing["bilinear"].random_crop(data, (1, seed), random).numpy()
        same = [p.random_crop(data, (1, seed)).numpy() for p in preprocessing.values()]
        seen += [
            name for name, want in zip(INTERPOLATIONS, same, strict=True) if (got == want).all()
        ]
    assert len(seen) == 24 and 4 < seen.count("bicubic") < 20


def test_flip_mirrors_the_crop():
    data = encoded(noise(50, 60), "PNG")
    for seed in range(6):
        straight = Preprocessing(20).random_crop(data, (1, seed), RandomCrop(flip=False)).numpy()
        view = Preprocessing(20).random_crop(data, (1, seed)).numpy()
        same = [np.array_equal(view, w) for w in (straight, straight[:, ::-1])]
        assert sum(same) == 1


def test_pad_shifts_in_every_direction():
    image = 1 + noise(12, 12) // 2  # without black
    data = encoded(image, "PNG")
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[i : i + 12, j : j + 12].tobytes() for i in range(5) for j in range(5)}
    crop = RandomCrop(crop_scale=None, flip=False, pad=2)
    views = tf.data.Dataset.range(300).map(
        lambda seed: Preprocessing(12).random_crop(data, [2, seed], crop)
    )
    assert {view.tobytes() for view in views.as_numpy_iterator()} == windows


# --- configuration


def test_dict_round_trip():
    preprocessing = Preprocessing((96, 64), 80, "bicubic", (0.1, 0.2, 0.3), (1, 1, 0.5), True, True)
    values = json.loads(json.dumps(preprocessing.to_dict()))
    assert Preprocessing.from_dict(values) == preprocessing
    assert hash(Preprocessing.from_dict(values)) == hash(preprocessing)


def test_defaults():
    preprocessing = Preprocessing(32)
    assert (preprocessing.image_size, preprocessing.resize_size) == ((32, 32), 32)
    assert Preprocessing((20, 30)).resize_size == 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 0}, "one or two positive ints (height, width), got 0."),
        ({"image_size": (3, 4, 3)}, "got (3, 4, 3)"),
        ({"image_size": 22.5}, "got 22.5"),
        ({"image_size": "large"}, "got 'large'"),
        ({"image_size": True}, "got True"),
        ({"image_size": 64, "resize_size": 60}, "at least 64, the smaller side of image_size"),
        ({"image_size": 64, "resize_size": 1025}, "at most 16 times it, got 1025"),
        ({"interpolation": "cubic"}, "one of bilinear, bicubic, got 'cubic'"),
        ({"mean": (123.7, 116.3, 103.5)}, "divide by 255"),
        ({"mean": (0.5, 0.5)}, "mean must be three numbers"),
        ({"std": (0.2, 0.0, 0.2)}, "none of them 0"),
        ({"std": 0.5}, "std must be three numbers"),
        ({"exif_rotation": 1}, "exif_rotation must be True or False, got 1."),
        ({"exif_rotation": None}, "exif_rotation must be True or False, got None."),
        ({"stretch": "yes"}, "stretch must be True or False, got 'yes'."),
        ({"image_sise": 64}, "no 'image_sise'; the nearest is 'image_size'"),
    ],
)
def test_bad_arguments_raise(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("size", "plain"), [(41, True), (40, False), (20, False)])
def test_crop_antialias(interpolation, size, plain):
    data = encoded(noise(80, 80), "PNG")
    preprocessing = Preprocessing(size, interpolation=interpolation)
    whole = RandomCrop((1.0, 1.0), (1.0, 1.0), crop_antialias=False, flip=False)

    def view(seed):
        return preprocessing.random_crop(data, seed, whole)

    if plain:
        want = tf.image.resize(noise(80, 80), (size, size), interpolation)
    else:
        want = tf.round(tf.image.resize(noise(80, 80), (size, size), antialias=True))
    for got in (view(SEED), in_pipeline(view, tf.constant(SEED))):
        assert got.dtype == np.uint8
        np.testing.assert_allclose(got, tf.clip_by_value(want, 0, 255), atol=0.501)


@pytest.mark.parametrize(("size", "ratio"), [(41, 1), (40, 2), (21, 2), (20, 4), (10, 8), (5, 8)])
def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(size, ratio):
    data = encoded(noise(80, 80), "JPEG")
    whole = RandomCrop((1.0, 1.0), (1.0, 1.0), crop_antialias=False, flip=False)
    got = Preprocessing(size).random_crop(data, SEED, whole)
    shrunk = tf.io.decode_jpeg(data, channels=3, ratio=ratio)
    np.testing.assert_allclose(got, tf.image.resize(shrunk, (size, size)), atol=0.501)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_agrees_with_pil(interpolation):
    """Windows are shrunk, enlarged, and shrunk in one direction only."""
    preprocessing = Preprocessing(64, interpolation=interpolation)
    image = smooth(75, 140)
    data = encoded(image, "PNG")
    kinds = set()
    for index in range(12):
        window = random_window((75, 140), crop_draws((5, index)), RandomCrop()).numpy()
        top, left, height, width = window
        kinds.add((height > 64, width > 64))
        picture = Image.fromarray(image[top : top + height, left : left + width])
        resample = getattr(Image.Resampling, interpolation.upper())
        want = np.asarray(picture.resize((64, 64), resample)).astype(int)
        got = preprocessing.random_crop(data, (5, index), RandomCrop(flip=False)).numpy()
        assert np.abs(got - want).max() <= 2 and np.abs(got - want).mean() < 0.3, window
    assert len(kinds) >= 3


def test_fast_crop_is_close_to_pil(shared):
    preprocessing = Preprocessing(224)
    differences = []
    for number, file in enumerate(sorted((shared / "imagenet_sample").glob("*.JPEG"))[::50]):
        data, seed = file.read_bytes(), (11, number)
        image = decode(data).numpy()
        top, left, height, width = random_window(
            image.shape[:2], crop_draws(seed), RandomCrop()
        ).numpy()
        window = Image.fromarray(image[top : top + height, left : left + width])
        want = np.asarray(window.resize((224, 224), Image.Resampling.BILINEAR)).astype(float)
        crop = RandomCrop(flip=False, crop_antialias=False)
        got = preprocessing.random_crop(data, seed, crop).numpy()
        differences.append(np.abs(got - want).mean())
    assert len(differences) == 20 and 0.3 < np.mean(differences) < 3
