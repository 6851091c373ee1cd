"""Files that try to exhaust a decoder's memory or time, or to make it read out of bounds."""

import functools
import struct
import zlib

import numpy as np
import tensorflow as tf

MAGIC = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": b"GIF8",
    "BMP": b"BM",
    "WebP": b"RIFF",
}
SIDES = (0, 1, 20_000, 32_768, 40_000, 65_500, 65_535)


def hostile_images(count, seed):
    """Returns corrupt and hostile files, the same number of each kind.

    Args:
        count: number of files.
        seed: the files are a function of it; a longer list begins with the shorter one.

    Returns:
        A list of (kind, bytes).
    """
    random = np.random.default_rng(seed)
    kinds = list(KINDS)
    return [(kind, KINDS[kind](random)) for kind in (kinds[i % len(kinds)] for i in range(count))]


def magic(image_bytes):
    """Returns the format in `MAGIC` whose first bytes a file has, or None."""
    return next((name for name, start in MAGIC.items() if image_bytes.startswith(start)), None)


# --- valid files


@functools.cache
def good_images():
    """Returns small valid photos of each format, as a list of (format, bytes)."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(pixels[:5, :5], 8, 0), 10, 1)
    jpeg = tf.io.encode_jpeg(smooth, quality=80).numpy()
    deep = pixels.astype(np.uint16) * 257
    return [
        ("JPEG", jpeg),
        ("JPEG", tf.io.encode_jpeg(smooth[..., :1], format="grayscale").numpy()),
        ("JPEG", tf.io.encode_jpeg(pixels, progressive=True).numpy()),
        ("JPEG", jpeg[:2] + exif(6) + jpeg[2:]),
        ("JPEG", jpeg[:2] + exif(8, "<") + jpeg[2:]),
        ("PNG", tf.io.encode_png(smooth).numpy()),
        ("PNG", tf.io.encode_png(deep).numpy()),
        ("PNG", tf.io.encode_png(np.dstack([smooth, smooth[..., :1]])).numpy()),
        ("PNG", png(50, 40, zlib.compress(bytes(51 * 40)))),
        ("GIF", gif([(0, 0, smooth[..., 0] // 2)])),
        ("GIF", gif([(0, 0, smooth[..., i] // 2) for i in range(3)])),
        ("BMP", bmp(smooth)),
        ("BMP", bmp(smooth[..., :1])),
        ("BMP", bmp(smooth, top_down=True)),
    ]


def segment(marker, payload):
    """Returns a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def exif(orientation, order=">", kind=3, offset=8, entries=None):
    """Returns an EXIF segment with the orientation; `entries` may claim too many entries."""
    others = [(0x010F, 2, 4, b"abc\0"), (0x0128, 3, 1, struct.pack(order + "HH", 2, 0))]
    value = struct.pack(order + "HH", orientation, 0)
    rows = [others[0], (0x0112, kind, 1, value), others[1]]
    start = b"MM\0*" if order == ">" else b"II*\0"
    tiff = start + struct.pack(order + "I", offset) + bytes(max(0, min(offset, 100) - 8))
    tiff += struct.pack(order + "H", len(rows) if entries is None else entries)
    for tag, type_, number, data in rows:
        tiff += struct.pack(order + "HHI", tag, type_, number) + data
    return segment(0xE1, b"Exif\0\0" + tiff + bytes(4))


def jpeg(width, height, scans=((1,),), progressive=True, components=1, before=b""):
    """Returns a JPEG of a uniform color in a few hundred bytes.

    Its scans have no data, and decoders read zeros instead.

    Args:
        width: width of the photo.
        height: height of the photo.
        scans: the components of each scan.
        progressive: whether the JPEG is progressive.
        components: number of components.
        before: segments before the one with the size.
    """
    tables = segment(0xDB, b"\0" + b"\1" * 64)
    tables += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1" + bytes(16))
    frame = struct.pack(">BHHB", 8, height, width, components)
    frame += b"".join(bytes([i + 1, 0x11, 0]) for i in range(components))
    data = MAGIC["JPEG"][:2] + before + tables
    data += segment(0xC2 if progressive else 0xC0, frame)
    for scan in scans:
        ends = bytes([0, 0, 0]) if progressive else bytes([0, 63, 0])
        data += segment(0xDA, bytes([len(scan)]) + b"".join(bytes([i, 0]) for i in scan) + ends)
        data += b"\0"
    return data + b"\xff\xd9"


def chunk(kind, payload):
    """Returns a PNG chunk."""
    check = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", check)


def png(width, height, compressed, depth=8, color=0, interlaced=0, extra=b""):
    """Returns a PNG of compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return (
        MAGIC["PNG"]
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", compressed)
        + chunk(b"IEND", b"")
    )


@functools.cache
def zeros(count):
    """Returns `count` zero bytes, compressed."""
    packer = zlib.compressobj(9)
    part = bytes(1 << 20)
    data = b"".join(packer.compress(part) for _ in range(count >> 20))
    return data + packer.compress(bytes(count & (1 << 20) - 1)) + packer.flush()


def gif(frames, canvas=None, before=b"", local=False):
    """Returns a GIF.

    Args:
        frames: list of (left, top, pixels) with pixels uint8 (H, W) below 128. Instead of pixels,
            (W, H) makes a frame of this size without data.
        canvas: (width, height); None uses the size of the first frame.
        before: extensions before each frame.
        local: whether each frame has its own palette.
    """
    sizes = [f[2] if isinstance(f[2], tuple) else f[2].shape[::-1] for f in frames]
    width, height = canvas or (sizes[0] if sizes else (1, 1))
    palette = bytes(v for i in range(128) for v in (2 * i, 2 * i, 2 * i))
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x00 if local else 0x86, 0, 0)
    data += b"" if local else palette
    for (left, top, pixels), size in zip(frames, sizes, strict=True):
        data += before + b"," + struct.pack("<HHHHB", left, top, *size, 0x86 if local else 0)
        data += (palette if local else b"") + b"\x07"
        # A code has eight bits, one byte, if the table is cleared before it has 256 entries.
        codes = b"" if isinstance(pixels, tuple) else pixels.tobytes()
        codes = b"".join(b"\x80" + codes[i : i + 100] for i in range(0, len(codes), 100)) + b"\x81"
        data += sub_blocks(codes)
    return data + b";"


def sub_blocks(data, size=255):
    """Returns data in the blocks of a GIF, of at most `size` bytes."""
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def bmp(pixels, top_down=False, width=None, height=None, offset=None, bits=None, packing=0):
    """Returns a BMP, whose header may claim wrong sizes."""
    rows, columns, channels = pixels.shape
    rows = -rows if top_down else rows
    data = b""
    for row in pixels if top_down else pixels[::-1]:
        line = row[:, ::-1].tobytes()
        data += line + bytes(-len(line) % 4)
    header = struct.pack("<IiiHHIIiiII", 40, width or columns, height or rows, 1,
                         bits or 8 * channels, packing, len(data), 0, 0, 0, 0)  # fmt: skip
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256)) if channels == 1 else b""
    offset = 54 + len(palette) if offset is None else offset
    size = 54 + len(palette) + len(data)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, offset) + header + palette + data


def webp(kind, width, height, animated=False):
    """Returns the header of a WebP without pixels."""
    payload = {
        b"VP8 ": b"\x10\x02\0\x9d\x01\x2a" + struct.pack("<HH", width & 16383, height & 16383),
        b"VP8L": b"\x2f" + struct.pack("<I", (width - 1) & 16383 | ((height - 1) & 16383) << 14),
        b"VP8X": bytes([2 if animated else 0, 0, 0, 0])
        + struct.pack("<I", (width - 1) & 0xFFFFFF)[:3]
        + struct.pack("<I", (height - 1) & 0xFFFFFF)[:3],
    }[kind] + bytes(20)
    body = b"WEBP" + kind + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", len(body)) + body


# --- corrupt and hostile files


def _good(random, file_format=None):
    """Returns a valid photo, of one format or of any."""
    photos = [data for name, data in good_images() if file_format in (None, name)]
    return photos[random.integers(len(photos))]


def _truncated(file_format):
    def make(random):
        data = _good(random, file_format)
        # Half of the files end inside the header.
        return data[: random.integers(len(MAGIC[file_format]), random.choice([40, len(data)]))]

    return make


def _damaged(file_format):
    def make(random):
        data = np.frombuffer(_good(random, file_format), np.uint8).copy()
        end = random.choice([min(len(data), 64), len(data)])
        offsets = random.integers(len(MAGIC[file_format]), end, random.integers(1, 20))
        bits = random.choice([1, 2, 4, 8, 16, 32, 64, 128, 255], len(offsets))
        data[offsets] ^= bits.astype(np.uint8)
        return data.tobytes()

    return make


def _random_after(name):
    return lambda random: MAGIC[name] + random.bytes(int(random.integers(0, 400)))


def _sides(random, huge=True):
    low = 3 if huge else 0
    return int(random.choice(SIDES[low:])), int(random.choice(SIDES[low if huge else 1 :]))


def _reordered(random):
    """Returns a PNG or JPEG whose chunks or segments are in another order."""
    if random.integers(2):
        data = _good(random, "PNG")
        starts, offset = [], 8
        while offset < len(data):
            starts.append(offset)
            offset += 12 + struct.unpack_from(">I", data, offset)[0]
    else:
        data = _good(random, "JPEG")
        starts, offset = [], 2
        while data[offset + 1] != 0xDA:
            starts.append(offset)
            offset += 2 + struct.unpack_from(">H", data, offset + 2)[0]
        starts.append(offset)
    segments = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    return data[: starts[0]] + b"".join(segments[i] for i in random.permutation(len(segments)))


def _nested(random):
    first, second = _good(random), _good(random)
    offset = random.integers(len(first))
    return first[:offset] + second + first[offset:]


def _text(random):
    texts = [
        b"hello, this is no photo\n",
        b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"><rect/></svg>',
        b'{"instances": [{"image_bytes": {"b64": "/9j/4AAQSkZJRg=="}}]}',
        b"data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "Fotografie: ähm, größer".encode("utf-16"),
    ]
    return texts[random.integers(len(texts))] * int(random.integers(1, 50))


def _foreign_magic(random):
    """Returns a valid file with the first bytes of another format."""
    starts = list(MAGIC.values())
    name, data = good_images()[random.integers(len(good_images()))]
    return starts[random.integers(len(starts))] + data[len(MAGIC[name]) :]


def _jpeg_header(random):
    """Returns a JPEG whose header claims a wrong size."""
    data = bytearray(_good(random, "JPEG"))
    start = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    struct.pack_into(">HH", data, start + 5, *_sides(random, huge=random.integers(3) > 0))
    return bytes(data)


def _jpeg_two_headers(random):
    """Returns a huge JPEG with a small size in a place where careless readers look for it."""
    small = segment(0xC0, b"\x08\x00\x10\x00\x10\x01\x01\x11\x00")
    inside = segment(0xE1 + int(random.integers(3)), b"Exif\0\0" + small)
    return jpeg(*_sides(random), before=inside if random.integers(2) else small)


def _jpeg_loop(random):
    """Returns a JPEG with segments of length 0 or 1, thousands of segments, or garbage."""
    good = _good(random, "JPEG")
    between = [
        b"\xff\xe1\x00\x00" * int(random.integers(1, 3000)),
        b"\xff\xe0\x00\x01" * int(random.integers(1, 3000)),
        segment(0xFE, b"") * int(random.integers(1, 30_000)),
        b"\xff" * int(random.integers(1, 30_000)),
        random.bytes(100),
        b"\xff\xd0" * 1000,
        segment(0xDC, b"\xff\xff"),
        b"\xff\xe1\xff\xff" + good[2:],
    ]
    return good[:2] + between[random.integers(len(between))] + good[2:]


def _exif(random):
    """Returns a JPEG whose EXIF orientation is invalid, missing, or out of bounds."""
    good = _good(random, "JPEG")
    order = "<>"[random.integers(2)]
    odd = [
        exif(int(random.integers(0, 65_536)), order),
        exif(6, order, kind=int(random.integers(0, 14))),
        exif(6, order, offset=int(random.choice([0, 4, 9, 12, 1000, 2**31, 2**32 - 1]))),
        exif(6, order, entries=int(random.choice([0, 1, 4, 65_535]))),
        segment(0xE1, b"Exif\0\0"),
        segment(0xE1, b"Exif\0\0" + random.bytes(60)),
        segment(0xE1, b"Exif\0\0MM\0*" + random.bytes(60)),
        exif(6, order)[: random.integers(4, 60)],
    ]
    return good[:2] + odd[random.integers(len(odd))] + good[2:]


def _png_header(random):
    width, height = _sides(random, huge=random.integers(3) > 0)
    if not random.integers(4):
        width = int(random.choice([2**31 - 1, 2**31, 2**32 - 1, 2**30]))
    color, depth = [(0, 1), (0, 8), (2, 16), (3, 8), (6, 16), (5, 3)][random.integers(6)]
    return png(width, height, zeros(4000), depth, color, int(random.integers(3)))


def _png_two_headers(random):
    """Returns a huge PNG with a small size in a chunk that the decoder skips."""
    data = png(*_sides(random), zeros(4000))
    fake = chunk(b"abCd", struct.pack(">II", 10, 10) + bytes(5))
    return data[:8] + fake + data[8:]


def _png_bomb(random):
    """Returns a small PNG that decodes to a lot of data, or to none."""
    row = zlib.compress(bytes(11 * 10))
    text = chunk(b"zTXt", b"a\0\0" + zeros(1 << 20)) * int(random.integers(1, 20))
    files = [
        lambda: png(20_000, 20_000, zeros(2501 * 20_000), depth=1),
        lambda: png(10, 10, zeros(10_000_000)),
        lambda: png(10, 10, row, extra=text),
        lambda: png(10, 10, row, extra=chunk(b"iCCP", b"a\0\0" + zeros(10_000_000))),
        lambda: png(10, 10, row, extra=chunk(b"tEXt", b"a\0b") * 2000),
        lambda: png(999_999, 30, zeros(33 * 8_000_000), 16, 6, int(random.integers(2))),
    ]
    return files[random.integers(len(files))]()


def _gif_header(random):
    pixels = np.zeros((10, 12), np.uint8)
    huge = _sides(random, huge=random.integers(3) > 0)
    files = [
        lambda: gif([(0, 0, pixels)], canvas=huge),
        lambda: gif([(0, 0, huge)], canvas=(12, 10)),
        lambda: gif([(0, 0, huge)]),
        lambda: gif([(0, 0, pixels), (0, 0, huge)]),
        lambda: gif([(60_000, 60_000, pixels)]),
        lambda: gif([]),
    ]
    return files[random.integers(len(files))]()


def _gif_bomb(random):
    pixels = random.integers(0, 128, (30, 40), dtype=np.uint8)
    comment = b"!\xfe" + sub_blocks(bytes(5000), int(random.integers(1, 4)))
    mixed = b"".join(bytes([1 + i % 2]) + bytes(1 + i % 2) for i in range(12_000))
    files = [
        lambda: gif([(0, 0, pixels)] * 1000),
        lambda: gif([(0, 0, pixels)] * 1000, local=True)[:-5],
        lambda: gif([(0, 0, pixels)], before=comment),
        lambda: gif([(0, 0, pixels)], before=b"!\xfe" + mixed + b"\0"),
        lambda: gif([(0, 0, pixels)], before=b"!\xfe" + b"\xff" * 100_000),
        lambda: gif([(0, 0, pixels)])[:400] + b"\x01" * int(random.integers(1, 50_000)),
        lambda: gif([(0, 0, pixels)], before=b"!\xf9\x04\1\0\0\0\0" * 3000),
    ]
    return files[random.integers(len(files))]()


def _jpeg_bomb(random):
    """Returns a valid JPEG of a few hundred bytes with many pixels or scans."""
    scans = int(random.choice([1, 1, 200]))
    files = [
        lambda: jpeg(20_000, 20_000, ((1,),) * scans),
        lambda: jpeg(20_000, 20_000, progressive=False),
        lambda: jpeg(65_500, 65_500, ((1, 2, 3),), components=3),
        lambda: jpeg(1500, 1000, ((1, 2, 3),) * scans, components=3),
        lambda: jpeg(1500, 1000, ((1,),) * scans, progressive=False, components=3),
        lambda: jpeg(1500, 1000, ((1, 2, 3, 4),), components=4),
        lambda: jpeg(1500, 1000, ((1, 2),), components=10),
    ]
    return files[random.integers(len(files))]()


def _thin(random):
    """Returns a photo with few pixels that becomes enormous if its short side is enlarged."""
    length, is_wide = int(random.choice([2000, 65_500])), random.integers(2)
    sides = (length, 1) if is_wide else (1, length)
    files = [
        lambda: jpeg(*sides),
        lambda: png(*sides, zlib.compress(bytes((1 + sides[0]) * sides[1]))),
        lambda: gif([(0, 0, np.zeros(sides[::-1], np.uint8))]),
        lambda: bmp(np.zeros((*sides[::-1], 3), np.uint8)),
    ]
    return files[random.integers(len(files))]()


def _bmp_header(random):
    pixels = random.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    odd = [
        {"width": int(random.choice([-7, 2**31 - 1, 65_536, 20_000]))},
        {"height": int(random.choice([-(2**31), -20_000, 20_000, 2**31 - 1]))},
        {"width": 65_536, "height": 65_536},
        {"width": 20_000, "height": -20_000},
        {"offset": int(random.choice([0, 53, 60, 1000, 2**31, 2**32 - 1]))},
        {"bits": int(random.choice([1, 4, 7, 16, 32, 64, 32_768, 65_535]))},
    ]
    return bmp(pixels, **odd[random.integers(len(odd))])


def _webp_header(random):
    kind = [b"VP8 ", b"VP8L", b"VP8X"][random.integers(3)]
    return webp(kind, *_sides(random, huge=False), animated=random.integers(2) > 0)


KINDS = {
    "empty": lambda random: b"",
    "zero bytes": lambda random: bytes(int(random.integers(1, 5000))),
    "text": _text,
    "random": lambda random: random.bytes(int(random.integers(1, 2000))),
    **{f"random after {name}": _random_after(name) for name in MAGIC},
    **{f"truncated {name}": _truncated(name) for name in ("JPEG", "PNG", "GIF", "BMP")},
    **{f"damaged {name}": _damaged(name) for name in ("JPEG", "PNG", "GIF", "BMP")},
    "parts in another order": _reordered,
    "one file inside another": _nested,
    "magic of another format": _foreign_magic,
    "JPEG header": _jpeg_header,
    "JPEG with two headers": _jpeg_two_headers,
    "JPEG loop": _jpeg_loop,
    "JPEG bomb": _jpeg_bomb,
    "EXIF": _exif,
    "PNG header": _png_header,
    "PNG with two headers": _png_two_headers,
    "PNG bomb": _png_bomb,
    "GIF header": _gif_header,
    "GIF bomb": _gif_bomb,
    "BMP header": _bmp_header,
    "WebP header": _webp_header,
    "thin": _thin,
}
