"""Hostile bytes through a real worker: an image or `InvalidImage`, with bounded memory."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from streams.errors import InvalidImage
from streams.images.image import _formats
from streams.images.pool import DecodePool
from streams.settings import ImageSettings

LIMITS = ImageSettings(max_pixels=1_000_000)
KINDS = _formats()
#: Resident at the worst moment, in bytes; an idle worker has about 60 MB.
MOST_MEMORY = 200 * 1024 * 1024


@pytest.fixture(scope="module")
def pool():
    pool = DecodePool(LIMITS, workers=1)
    yield pool
    pool.close()


def encoded(kind, image=None, **options):
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    image = image or Image.fromarray(pixels)
    if kind == "ICO":
        options["sizes"] = [image.size]
    image.save(data, kind, **options)
    return data.getvalue()


def size_or_error(pool, data):
    try:
        return pool.decode(data).size
    except InvalidImage as exc:
        return str(exc)


def fuzz(pool, variants):
    """Decode all in one and the same worker, which must neither die nor grow at any moment."""
    before = pool._all[0]._process.pid
    Path(f"/proc/{before}/clear_refs").write_text("5")  # forget the peak
    found = [size_or_error(pool, data) for data in variants]
    assert pool._all[0]._process.pid == before
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{before}/status").read_text())
    assert int(peak) * 1024 < MOST_MEMORY
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_image_truncated_at_every_length(pool, kind):
    data = encoded(kind)
    assert fuzz(pool, [data[:length] for length in range(1, len(data))])
    assert size_or_error(pool, data) == (13, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_image_with_flipped_bits(pool, kind):
    data, dice, variants = encoded(kind), np.random.default_rng(len(kind)), []
    for _ in range(300):
        flipped = bytearray(data)
        for _ in range(dice.integers(1, 9)):
            flipped[dice.integers(len(flipped))] ^= 1 << int(dice.integers(8))
        variants.append(bytes(flipped))
    assert len(fuzz(pool, variants)) == 300


def test_image_under_the_header_of_another(pool):
    images = [encoded(kind) for kind in KINDS]
    assert fuzz(pool, [head[:12] + body[12:] for head in images for body in images])


def test_bomb_of_a_thousand_million_pixels_is_refused_from_its_header(pool):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 40_000, 25_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99))
    [error] = fuzz(pool, [bomb + chunk(b"IEND", b"")])
    assert "pixels" in error


@pytest.mark.parametrize(
    ("size", "kind"), [((1, 1), "PNG"), ((60_000, 1), "PNG"), ((1, 60_000), "JPEG")]
)
def test_extreme_shapes_are_images(pool, size, kind):
    assert fuzz(pool, [encoded(kind, Image.new("RGB", size))]) == [size]


@pytest.mark.parametrize(
    "profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"x" * 999]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colour_profile_right_or_broken_does_no_harm(pool, kind, profile):
    assert fuzz(pool, [encoded(kind, icc_profile=profile)]) == [(13, 9)]


def test_a_hundred_megabytes_of_garbage_are_refused(pool):
    [error] = fuzz(pool, [b"\xff\xd8\xff" + bytes(100_000_000)])
    assert "the limit is 33554432" in error
