import pytest
import tensorflow as tf
from hostile_images import exif as exif_segment
from hostile_images import segment
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import encoded, smooth
from PIL import Image

from noah_tf.images import exif


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def graph_orientation(data):
    return exif.orientation(data)


def orientation(data):
    """Returns the orientation, which is the same in a graph and eagerly."""
    value = int(graph_orientation(data))
    assert int(exif.orientation(data)) == value
    return value


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_orientation(value, order):
    data = encoded(smooth(9, 7), "JPEG")
    assert orientation(data[:2] + exif_segment(value, order) + data[2:]) == value
    # The EXIF segment may follow others, and the size.
    pixels = data.index(b"\xff\xda")
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(40_000))
    assert (
        orientation(data[:2] + xmp + data[2:pixels] + exif_segment(value, order) + data[pixels:])
        == value
    )
    tags = Image.Exif()
    tags.update({0x010F: "Make", 0x0112: value, 0x0132: "2020:01:01 00:00:00"})
    assert orientation(encoded(smooth(9, 7), "JPEG", exif=tags.tobytes())) == value


@pytest.mark.parametrize(
    "app",
    [
        b"",
        exif_segment(0),
        exif_segment(9),
        exif_segment(65_535, "<"),
        exif_segment(6, kind=4),
        exif_segment(6, offset=2**32 - 1),
        exif_segment(6, "<", offset=1000),
        exif_segment(6, entries=1),
        exif_segment(6, entries=0),
        segment(0xE1, b"Exif\0\0"),
        segment(0xE1, b"Exif\0\0MM\0"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08"),
        segment(0xE1, b"Exif\0\0XX\0*" + exif_segment(6)[14:]),
        segment(0xE2, exif_segment(6)[4:]),
        b"\xff\xe1\0\1",
        b"garbage",
    ],
    ids=range(16),
)
def test_malformed_exif_is_upright(app):
    data = encoded(smooth(9, 7), "JPEG")
    assert orientation(data[:2] + app + data[2:]) == 1


def test_entries_behind_the_end_are_ignored():
    data = encoded(smooth(9, 7), "JPEG")
    assert orientation(data[:2] + exif_segment(6, entries=65_535) + data[2:]) == 6


def test_exif_behind_the_pixels_or_in_other_formats_is_ignored():
    data = encoded(smooth(9, 7), "JPEG")
    assert orientation(data + exif_segment(6)) == 1
    assert orientation(b"") == orientation(exif_segment(6)) == orientation(b"\xff\xd8\xff") == 1
    tags = Image.Exif()
    tags[0x0112] = 6
    assert orientation(encoded(smooth(9, 7), "PNG", exif=tags.tobytes())) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_have_an_orientation(data):
    photo = encoded(smooth(9, 7), "JPEG")
    app = bytearray(exif_segment(6, data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(0, 8))):
        app[data.draw(st.integers(0, len(app) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(app)))
    value = int(graph_orientation(photo[:2] + bytes(app[:cut]) + photo[2:]))
    assert 1 <= value <= 8
