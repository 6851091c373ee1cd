import io
import os
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from head_helpers import run_python
from hostile_images import (
    KINDS,
    MAGIC,
    bmp,
    chunk,
    gif,
    good_images,
    hostile_images,
    jpeg,
    magic,
    png,
    segment,
    sub_blocks,
    webp,
    zeros,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from loaded_graph import run_graph
from photos import encoded, in_pipeline, noise, smooth
from PIL import Image
from stacks import slow_on_one_stack

from noah_tf.images import headers
from noah_tf.images.exif import orientation
from noah_tf.images.ops import decode

STRING = tf.TensorSpec([], tf.string)
LIMIT = 2**25
needs_webp = pytest.mark.skipif(not headers.DECODES_WEBP, reason="no WebP in TensorFlow")


@tf.function(input_signature=[STRING, tf.TensorSpec([], tf.int64)], autograph=False)
def graph_problem(data, limit):
    return headers.problem(data, limit)


@tf.function(input_signature=[STRING], autograph=False)
def graph_first_frame(data):
    return headers.first_frame(data)


def problem(data, limit=LIMIT):
    """Returns the problem, which is the same in a graph and eagerly."""
    message = graph_problem(data, limit).numpy().decode()
    assert headers.problem(data, limit).numpy().decode() == message
    return message


# --- sizes


def sized_files(width, height):
    """Returns a file of each format with these sides."""
    pixels = np.zeros((height, width, 3), np.uint8)
    files = {
        "JPEG": encoded(pixels, "JPEG"),
        "progressive JPEG": encoded(pixels, "JPEG", progressive=True),
        "PNG": encoded(pixels, "PNG"),
        "GIF": gif([(0, 0, pixels[..., 0])]),
        "GIF with a larger canvas": gif([(0, 0, pixels[:1, :1, 0])], canvas=(width, height)),
        "GIF with a larger frame": gif([(0, 0, pixels[..., 0])], canvas=(1, 1)),
        "BMP": bmp(pixels),
        "BMP from the top": bmp(pixels, top_down=True),
    }
    if headers.DECODES_WEBP:
        files["lossy WebP"] = encoded(pixels, "WEBP")
        files["lossless WebP"] = encoded(pixels, "WEBP", lossless=True)
        alpha = np.dstack([pixels, pixels[..., :1]])
        files["WebP with alpha"] = encoded(alpha, "WEBP")
    return files


@pytest.mark.parametrize("kind", sized_files(1, 1))
@pytest.mark.parametrize(("width", "height"), [(31, 17), (300, 2), (1, 260)])
def test_size_in_the_header_is_limited(kind, width, height):
    data = sized_files(width, height)[kind]
    assert problem(data, width * height) == ""
    subject = "its first frame has" if kind == "GIF with a larger frame" else "it has"
    assert problem(data, width * height - 1) == (
        f"{subject} {width} x {height} pixels, more than the {width * height - 1} allowed"
    )


def huge_headers(width, height):
    header_bytes = {
        "JPEG": jpeg(width % 65_501, height % 65_501),
        "PNG": png(width, height, zeros(100)),
        "BMP": bmp(np.zeros((1, 1, 3), np.uint8), width=width % 2**31, height=height % 2**31),
        "BMP from the top": bmp(
            np.zeros((1, 1, 3), np.uint8), width=width % 2**31, height=-(height % 2**31)
        ),
        "canvas": gif([(0, 0, (5, 5))], canvas=(width % 2**16, height % 2**16)),
        "frame": gif([(0, 0, (width % 2**16, height % 2**16))], canvas=(5, 5)),
    }
    if headers.DECODES_WEBP:
        header_bytes["VP8X"] = webp(b"VP8X", width % 2**24, height % 2**24)
    return header_bytes


@pytest.mark.parametrize("sides", [(20_000, 20_000), (65_500, 65_500), (2**31 - 1, 2**31 - 1)])
def test_huge_size_is_named(sides):
    for data in huge_headers(*sides).values():
        assert len(data) < 3000
        message = problem(data)
        assert message.endswith(f" pixels, more than the {LIMIT} allowed"), message
        width, height = (int(side) for side in message.split(" pixels")[0].split()[-3::2])
        assert width * height > LIMIT
    assert " 4294967295 x 4294967295 " in problem(png(2**32 - 1, 2**32 - 1, b""))
    # The product of these sides is 0 in 64 bits.
    assert " 2147483648 x 4294967295 " in problem(png(2**31, 2**32 - 1, b""))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\0", "it begins with 00"),
        (b"hello, world", "it begins with 68 65 6c 6c 6f 2c 20 77"),
        (b"\xff\xd8", "it begins with ff d8"),
        (b"RIFF\0\0\0\0WAVEfmt ", "it begins with 52 49 46 46 00 00 00 00"),
        (b"\xff\x0a\x3a\x1f", "it begins with ff 0a 3a 1f"),  # JPEG XL
        (MAGIC["PNG"] + bytes(8), "it ends inside its header"),
        (MAGIC["PNG"] + bytes(40), "it has no header"),
        (MAGIC["PNG"] + chunk(b"abCd", bytes(13)) + png(5, 5, b"")[8:], "it has no header"),
        (png(0, 7, b""), "it has 0 x 7 pixels, where both sides must be 1 or more"),
        (b"GIF89a", "it ends inside its header"),
        (gif([], canvas=(0, 7)), "it has 0 x 7 pixels, where both sides must be 1 or more"),
        (gif([(0, 0, (7, 0))], canvas=(7, 7)), "its first frame has 7 x 0 pixels, where"),
        (gif([], canvas=(7, 7)), "its first frame is missing or not whole"),
        (gif([(0, 0, noise(9, 9, 0) // 2)])[:-4], "its first frame is missing or not whole"),
        (b"BM" + bytes(29), "it ends inside its header"),
        (bmp(noise(3, 3), width=-7), "it has -7 x 3 pixels, where both sides must be 1 or more"),
        (bmp(noise(3, 3), height=-(2**31)), "it has 3 x 2147483648 pixels, more than"),
        (bmp(noise(3, 3), bits=4), "it is a BMP of 4 bits a pixel, in the compression 0, where 8"),
        (bmp(noise(3, 3), packing=1), "BMP of 24 bits a pixel, in the compression 1, where 8, 24"),
    ],
)
def test_problems(data, message):
    assert message in problem(data)


def test_unknown_format_names_the_known_ones():
    names = "JPEG, PNG, GIF, BMP or WebP" if headers.DECODES_WEBP else "JPEG, PNG, GIF or BMP"
    assert problem(b"text").startswith(f"it is not a {names} file: it begins with ")


def test_broken_jpeg_header_raises():
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph_problem(b"\xff\xd8\xff", LIMIT)


def test_webp_is_decoded_if_tensorflow_can():
    data = encoded(smooth(20, 30), "WEBP")
    if headers.DECODES_WEBP:
        assert problem(data) == "" and decode(data).shape == (20, 30, 3)
    else:
        assert problem(data).endswith("it begins with " + data[:8].hex(" "))
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(data)


@needs_webp
def test_animated_webp_is_a_problem():
    frames = [Image.fromarray(noise(20, 30, seed=seed)) for seed in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    message = "it is an animated WebP file, and only still ones are decoded"
    assert problem(buffer.getvalue()) == message
    data = webp(b"VP8 ", 5, 5)
    assert problem(data.replace(b"VP8 ", b"EXIF")) == "it is a WebP file without a picture"


def test_scans_of_large_jpegs_are_limited():
    many = headers.MAX_SCANS + 1
    large = {"width": 4000, "height": 4000}
    assert problem(jpeg(**large, scans=((1,),) * many)) == ""  # a small file decodes quickly
    padding = segment(0xFE, bytes(60_000))
    assert problem(jpeg(**large, scans=((1,),) * (many - 1), before=padding)) == ""
    for options in ({}, {"progressive": False, "components": 3}):
        data = jpeg(**large, scans=((1,),) * many, before=padding, **options)
        assert problem(data) == "it has more than the 100 scans allowed"
    assert problem(jpeg(40, 40, scans=((1,),) * many, before=padding)) == ""


def test_good_photos_have_no_problem(shared):
    files = [
        file.read_bytes() for file in sorted((shared / "imagenet_sample").glob("*.JPEG"))[::10]
    ]
    assert len(files) == 100
    assert {graph_problem(data, LIMIT).numpy() for data in files} == {b""}
    assert {problem(data) for _, data in good_images()} == {""}


def test_rare_formats_are_single_ops():
    # Ops in a branch cost time even if it is not taken, so rare branches are one function call.
    def ops(function):
        graph = tf.function(function, autograph=False).get_concrete_function(STRING).graph
        library = {f.signature.name: f for f in graph.as_graph_def().library.function}
        single_ops = {name for name, f in library.items() if f.attr["_noinline"].b}
        assert single_ops
        count, queue = 0, [graph.as_graph_def().node]
        while queue:
            nodes = queue.pop()
            count += len(nodes)
            for node in nodes:
                called = {v.func.name for v in node.attr.values() if v.func.name} - single_ops
                queue += [library[name].node_def for name in called]
        return count

    assert ops(lambda data: headers.problem(data, LIMIT)) < 60
    assert ops(decode) < 40


# --- the first frame of a GIF


def first_frame(data):
    frame = graph_first_frame(data).numpy()
    assert headers.first_frame(data).numpy() == frame
    return frame


def drawn_gif(frames, **options):
    buffer = io.BytesIO()
    frames = [Image.fromarray(frame).quantize(64) for frame in frames]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "options",
    [{}, {"comment": b"c" * 700}, {"loop": 0, "duration": 40}, {"interlace": 1}],
    ids=["plain", "comment", "loop", "interlaced"],
)
@pytest.mark.parametrize("count", [1, 4])
def test_first_frame_has_the_pixels_of_the_whole_file(count, options):
    data = drawn_gif([noise(37, 61, seed=seed) for seed in range(count)], **options)
    alone = first_frame(data)
    assert len(alone) <= len(data) and first_frame(alone) == alone
    whole = tf.io.decode_gif(data)
    assert len(whole) == count
    np.testing.assert_array_equal(tf.io.decode_gif(alone), whole[:1])
    np.testing.assert_array_equal(decode(data), whole[0])
    np.testing.assert_array_equal(whole[0], Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.binary(max_size=40), max_size=4),
    st.integers(1, 255),
)
def test_first_frame_of_any_gif(width, height, count, local, comments, block):
    frames = [(0, 0, noise(height, width, 0, seed) // 2) for seed in range(count)]
    before = b"".join(b"!\xfe" + sub_blocks(comment, block) for comment in comments)
    data = gif(frames, before=before, local=local)
    alone = first_frame(data)
    assert alone == gif(frames[:1], local=local)
    gray = frames[0][2] * 2
    np.testing.assert_array_equal(decode(data), np.repeat(gray[..., None], 3, -1))


@pytest.mark.slow
def test_later_frames_are_ignored():
    frames = [(0, 0, noise(60, 80, 0) // 2)] * 1000
    assert graph_first_frame(gif(frames)) == gif(frames[:1])
    # The size of later frames does not matter.
    huge_second_frame = gif([*frames[:1], (0, 0, (65_535, 65_535))])
    assert problem(huge_second_frame) == ""
    assert decode(huge_second_frame).shape == (60, 80, 3)


@pytest.mark.parametrize(
    "data",
    [
        gif([]),
        gif([(0, 0, noise(30, 30, 0) // 2)])[:-3],
        gif([(0, 0, noise(30, 30, 0) // 2)])[:395],
        gif([(0, 0, noise(3, 3, 0) // 2)], before=b"?"),
        gif([(0, 0, noise(3, 3, 0) // 2)], before=b"!\xfe" + b"\xff" * 200),
        b"GIF89a\1\0\1\0\x87\0\0",
    ],
    ids=["no frame", "cut", "cut in the header", "no record", "endless", "no palette"],
)
def test_first_frame_of_broken_gifs_raises(data):
    for function in (graph_first_frame, decode, lambda d: in_pipeline(decode, d)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="first frame is missing or not"):
            function(data)


def test_blocks_of_a_gif_are_limited():
    mixed = b"".join(bytes([1 + i % 2]) + bytes(1 + i % 2) for i in range(10_001))
    data = gif([(0, 0, noise(3, 3, 0) // 2)], before=b"!\xfe" + mixed + b"\0")
    assert graph_problem(data, LIMIT) == (
        b"its first frame ends after more than 10000 blocks of different lengths"
    )
    # One step skips many blocks of the same length.
    even = gif([(0, 0, noise(3, 3, 0) // 2)], before=b"!\xfe" + sub_blocks(bytes(200_000), 1))
    assert problem(even) == "" and len(first_frame(even)) < 500


def test_first_frame_leaves_other_formats_unchanged():
    for data in (encoded(noise(9, 9), "PNG"), encoded(noise(9, 9), "JPEG"), b"", b"text"):
        assert first_frame(data) == data


# --- hostile files


@pytest.mark.slow
def test_hostile_images_have_many_kinds():
    files = hostile_images(400, seed=1)
    assert files[:100] == hostile_images(100, seed=1) != hostile_images(100, seed=2)
    kinds = [kind for kind, _ in files]
    assert set(kinds) == set(KINDS) and len(KINDS) > 25
    assert max(kinds.count(kind) for kind in KINDS) <= 1 + min(kinds.count(kind) for kind in KINDS)
    counts = {name: sum(magic(data) == name for _, data in files) for name in MAGIC}
    assert counts["JPEG"] + counts["PNG"] + counts["GIF"] > 400 / 2
    assert min(counts["JPEG"], counts["PNG"], counts["GIF"]) > 400 / 10
    assert len({data for _, data in files}) > 300
    assert max(len(data) for _, data in files) < 2_000_000


def test_bombs_decode_to_many_pixels():
    # A decoder without limits believes the headers of these small files.
    for data in (jpeg(3000, 2000), png(3000, 2000, zeros(3001 * 2000))):
        assert len(data) < 10_000
        assert tf.io.decode_image(data, channels=3).shape == (2000, 3000, 3)
    thousand = gif([(0, 0, noise(3, 4, 0) // 2)] * 1000)
    assert tf.io.decode_gif(thousand).shape == (1000, 3, 4, 3)
    hidden = png(300, 200, zlib.compress(bytes(301 * 200)))
    hidden = hidden[:8] + chunk(b"abCd", bytes(13)) + hidden[8:]
    assert tf.io.decode_image(hidden, channels=3).shape == (200, 300, 3)


SCRIPT = """
import resource, sys, time
import tensorflow as tf
from hostile_images import good_images, hostile_images
from noah_tf.images.headers import problem
from noah_tf.images.preprocessing import Preprocessing

limit, count, seed = (int(value) for value in sys.argv[1:])
preprocessing = Preprocessing(64, exif_rotation=True)

@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def prepared(data):
    message = problem(data, limit)
    def decoded():
        photo = preprocessing.decode(data)
        return tf.size(photo, tf.int64) // 3, preprocessing.evaluation(photo)
    nothing = lambda: (tf.constant(0, tf.int64), tf.zeros((64, 64, 3)))
    return message, *tf.cond(message == "", decoded, nothing)

good = [data for _, data in good_images()]
before = [prepared(data)[2].numpy() for data in good]
files = hostile_images(count, seed)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ends, slowest = {"problem": 0, "error": 0, "image": 0}, 0
for kind, data in files:
    begun = time.process_time()
    try:
        message, pixels, _ = prepared(data)
        ends["problem" if message.numpy() else "image"] += 1
        assert bool(message.numpy()) == (pixels.numpy() == 0), kind
        assert pixels.numpy() <= limit, (kind, pixels.numpy())
    except tf.errors.InvalidArgumentError:
        ends["error"] += 1
    slowest = max(slowest, time.process_time() - begun)
for data, want in zip(good, before, strict=True):
    assert (prepared(data)[2].numpy() == want).all()
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
print(*ends.values(), grown, slowest)
"""


def hostile_run(count, seed, limit=2**21):
    """Reads hostile files in a new process; returns outcome counts, megabytes and CPU seconds."""
    path = os.pathsep.join(part for part in sys.path if part)
    done = run_python(SCRIPT, str(limit), str(count), str(seed), PYTHONPATH=path)
    assert done.returncode == 0, done.stderr[-3000:]
    *ends, grown, slowest = done.stdout.split()[-5:]
    return [int(end) for end in ends], float(grown), float(slowest)


@slow_on_one_stack
def test_hostile_files_take_little_memory_and_time():
    count = 330
    (problems, errors, images), grown, slowest = hostile_run(count, seed=3)
    assert problems + errors + images == count and min(problems, errors, images) > count / 10
    # This allows 2 million pixels of at most 11 bytes, their preprocessing, and what the allocator
    # retains. The bombs would take 1.2 GB, and resizing a whole photo of one row 60 GB.
    assert grown < 150, "megabytes"
    assert slowest < 10, "seconds"


# --- pipelines and exported graphs


@pytest.mark.slow
def test_in_a_pipeline_and_in_an_exported_graph(tmp_path):
    files = [data for _, data in hostile_images(72, seed=4)]
    answers = []
    for data in files:
        try:
            answers.append(graph_problem(data, LIMIT).numpy())
        except tf.errors.InvalidArgumentError:
            answers.append(None)
    files = [data for data, answer in zip(files, answers, strict=True) if answer is not None]
    answers = [answer for answer in answers if answer is not None]
    pipeline = tf.data.Dataset.from_tensor_slices(files)
    pipeline = pipeline.map(lambda data: headers.problem(data, LIMIT), 2)
    assert list(pipeline.as_numpy_iterator()) == answers

    module = tf.Module()
    module.serve = tf.function(
        lambda image_bytes: {
            "problem": tf.map_fn(lambda data: headers.problem(data, LIMIT), image_bytes),
            "orientation": tf.map_fn(orientation, image_bytes, fn_output_signature=tf.int32),
        },
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.serve})
    outputs = run_graph(tmp_path, "serving_default", image_bytes=files)
    assert list(outputs["problem"]) == answers
    assert list(outputs["orientation"]) == [int(orientation(data)) for data in files]
