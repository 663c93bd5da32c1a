"""Every kind of picture becomes upright RGB, every kind of rubbish a clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from bson import Binary
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streams.errors import InvalidImage
from streams.models.image import decode_image, image_bytes
from streams.settings import ImageSettings

LIMITS = ImageSettings()


def encoded(image, kind="PNG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def gradient(mode="RGB", size=(40, 30)):
    values = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGB", "WEBP"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("F", "TIFF"),
    ],
)
def test_every_mode_and_format_becomes_rgb(mode, kind):
    image = decode_image(encoded(gradient(mode), kind), LIMITS)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert 80 < np.asarray(image).mean() < 180


def test_plain_photograph_is_what_pillow_decodes():
    data = encoded(gradient(), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode_image(data, LIMITS)), expected)


def test_transparency_is_laid_on_white():
    image = decode_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))), LIMITS)
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_transparent_palette_is_laid_on_white():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] + [0] * 765)
    image = decode_image(encoded(palette, transparency=0), LIMITS)
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert decode_image(encoded(gradient(), "JPEG", exif=exif), LIMITS).size == (30, 40)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    image = decode_image(encoded(Image.fromarray(values)), LIMITS)
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 200, 255]], dtype=np.uint16), [0, 0, 0]),
        (np.array([[0, 128, 255]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 127, 255]),
        (np.array([[0, 100, 255]], dtype=np.float32), [0, 100, 255]),
        (np.array([[np.nan, 0, 1]], dtype=np.float32), [0, 0, 255]),
    ],
    ids=["dark 16", "8 in 32", "16 in 32", "full 32", "unit float", "byte float", "NaN"],
)
def test_wide_numbers_are_scaled_to_what_they_hold(values, expected):
    image = decode_image(encoded(Image.fromarray(values), "TIFF"), LIMITS)
    assert [image.getpixel((x, 0))[0] for x in range(3)] == expected


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA"])
def test_format_that_runs_programs_or_has_no_mark_is_refused(kind):
    with pytest.raises(InvalidImage, match=r"no image of a known format \(JPEG, PNG"):
        decode_image(encoded(gradient(), kind), LIMITS)


def test_photograph_of_two_pictures_gives_the_first():
    data = encoded(gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    assert np.asarray(decode_image(data, LIMITS)).mean() > 80


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, LIMITS).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "has no `img`"),
        ("text", "must be binary .* got str"),
        (5, "got int"),
        ([b"x"], "got list"),
        ({"url": 5}, "must be binary"),
        (b"", "is empty"),
        (Binary(b""), "is empty"),
        (b"no image at all", "no image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, "cannot be decoded|no image of a known format"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(value, message):
    with pytest.raises(InvalidImage, match=message):
        decode_image(value, LIMITS)


def test_too_many_bytes_are_refused_before_decoding():
    """Fails without the limit in `image_bytes`."""
    with pytest.raises(InvalidImage, match=r"11 bytes, the limit is 10"):
        image_bytes(b"x" * 11, ImageSettings(max_bytes=10))


def test_too_many_pixels_are_refused_from_the_header():
    with pytest.raises(InvalidImage, match=r"40 x 30 pixels, the limit is 1199"):
        decode_image(encoded(gradient()), ImageSettings(max_pixels=1199))


def test_decompression_bomb_is_refused():
    """Its header says 30,000 x 30,000; nothing behind it is read."""
    small = encoded(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(InvalidImage, match="pixels"):
        decode_image(bomb, LIMITS)


@given(cut=st.integers(min_value=0, max_value=700))
def test_truncated_photograph_is_refused_or_decoded_but_never_raises_otherwise(cut):
    data = encoded(gradient(), "JPEG")
    try:
        decode_image(data[: min(cut, len(data) - 1)], LIMITS)
    except InvalidImage:
        return
