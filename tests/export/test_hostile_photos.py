"""An exported graph survives broken and hostile photos with bounded memory."""

import json

import pytest
from head_helpers import run_python
from hostile_images import good_images, hostile_images, magic
from shared_data import REPOSITORY
from stacks import slow_on_one_stack

# The bound allows for several copies of a photo with this many pixels (decoded, and the scans of a
# progressive JPEG), and for memory that the allocator keeps. A single unchecked hostile photo would
# take 1.2 GB.
MAX_PIXELS = 2**24
BOUND_MIB = 400

FUZZ = """
import json, resource, sys
import numpy as np
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
from hostile_images import good_images, hostile_images

loaded = [tf.saved_model.load(path) for path in sys.argv[2:4]]
strict, tolerant = (model.signatures["serving_default"] for model in loaded)
files = [data for _, data in hostile_images(int(sys.argv[4]), seed=0)]
good = [data for _, data in good_images()][0]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = strict(image_bytes=tf.constant([good]))["logits"].numpy()
np.testing.assert_array_equal(tolerant(image_bytes=tf.constant([good] * 8))["status"], b"OK")
level = peak()
ends = {}
for start in range(0, len(files), 7):
    batch = files[start : start + 7]
    answered = []
    for data in batch:
        try:
            logits = strict(image_bytes=tf.constant([data]))["logits"].numpy()
            assert np.isfinite(logits).all()
            end = "answered"
        except tf.errors.InvalidArgumentError as error:
            end = "rejected" if "of the request: " in error.message else "not decoded"
            assert len(error.message) > 20
        answered.append(end == "answered")
        ends[end] = ends.get(end, 0) + 1
    answer = tolerant(image_bytes=tf.constant([*batch, good]))
    status = answer["status"].numpy()
    assert [text == b"OK" for text in status] == [*answered, True], status
    assert all(len(text) > 10 for text, fine in zip(status, answered) if not fine)
    np.testing.assert_allclose(answer["logits"][-1:], before, atol=1e-5)
after = strict(image_bytes=tf.constant([good]))["logits"].numpy()
np.testing.assert_array_equal(before, after)
print(json.dumps({"level": level, "peak": peak(), **ends}))
"""


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(500, marks=slow_on_one_stack),
        pytest.param(2000, marks=pytest.mark.exhaustive),
    ],
)
def test_hostile_photos(tmp_path, count):
    files = [data for _, data in hostile_images(count, seed=0)]
    formats = [magic(data) for data in files]
    counts = [formats.count(name) for name in ("JPEG", "PNG", "GIF")]
    assert sum(counts) >= count / 3 and min(counts) > count / 20
    assert magic(good_images()[0][1]) == "JPEG"
    process = run_python(EXPORT, str(tmp_path), str(MAX_PIXELS))
    assert process.returncode == 0, process.stderr[-3000:]
    paths = process.stdout.split()[-2:]
    # A separate process, because a crash of the decoder would end it, and to measure its memory.
    tests = str(REPOSITORY / "tests")
    process = run_python(FUZZ, tests, *paths, str(count), timeout=540)
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.splitlines()[-1])
    print(result)
    assert result["peak"] - result["level"] < BOUND_MIB
    assert result["answered"] + result["rejected"] + result["not decoded"] == count
    assert min(result["answered"], result["rejected"], result["not decoded"]) > count / 100


EXPORT = """
import sys
import tensorflow as tf
from noah_tf import attach_noah, export_savedmodel
inputs = tf.keras.Input((32, 32, 3))
features = tf.keras.layers.Conv2D(16, 5, strides=4, activation="relu")(inputs)
model = attach_noah(tf.keras.Model(inputs, features), 10)
for name, tolerant in (("strict", False), ("tolerant", True)):
    print(export_savedmodel(
        model, f"{sys.argv[1]}/{name}", max_pixels=int(sys.argv[2]), tolerant=tolerant))
"""
