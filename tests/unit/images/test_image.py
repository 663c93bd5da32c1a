"""Every kind of picture becomes upright RGB, every kind of rubbish a clear error."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from bson import Binary
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from streams.errors import InvalidImage
from streams.images.image import decode_image, image_bytes
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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], dtype=np.uint16), [0, 128, 255]),
        (np.array([[0, 1000, 4000]], dtype=np.uint16), [0, 64, 255]),
        (np.array([[2**30, 2**30 + 1, 2**30 + 2]], dtype=np.int32), [0, 128, 255]),
        (np.array([[-(2**31), 0, 2**31 - 1]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-600, 0, 600]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-3e38, 0, 3e38]], dtype=np.float32), [0, 128, 255]),
        (np.array([[np.nan, 10, 20]], dtype=np.float32), [0, 0, 255]),
        (np.array([[-np.inf, 10, 20, np.inf]], dtype=np.float32), [0, 0, 255, 255]),
        (np.array([[np.nan, np.nan]], dtype=np.float32), [0, 0]),
        (np.array([[0, 0]], dtype=np.uint16), [0, 0]),
        (np.array([[7, 7]], dtype=np.uint16), [255, 255]),
    ],
    ids=[
        *("full 16", "12 in 16", "narrow 32", "full 32", "unit float", "elevation", "wide float"),
        *("NaN", "infinite", "nothing", "all black", "all alike"),
    ],
)
def test_wide_numbers_are_scaled_by_their_own_range(values, expected):
    """Fails when they are scaled by what the type could hold: black, for most of them."""
    image = decode_image(encoded(Image.fromarray(values), "TIFF"), LIMITS)
    assert [image.getpixel((x, 0))[0] for x in range(values.shape[1])] == expected


def exif_of_wrong_type():
    """Orientation 6, and a resolution unit that is text."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    entry = struct.pack(">HHI4s", 0x0128, 2, 4, b"abc\0")
    return whole[:14] + struct.pack(">H", 2) + whole[16:28] + entry + bytes(4)


def chunk(name, data, damage=0):
    checksum = zlib.crc32(name + data) ^ damage
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def with_chunks(*chunks):
    """A PNG with chunks behind its header."""
    png = encoded(gradient())
    return png[:33] + b"".join(chunks) + png[33:]


LARGE = zlib.compress(bytes(2 << 20))
TURNED = chunk(b"eXIf", exif_of_wrong_type()[6:])


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(gradient(), "JPEG", exif=exif_of_wrong_type()), (30, 40)),
        (with_chunks(TURNED), (30, 40)),
        (with_chunks(chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff\x01\x12")), (40, 30)),
        (with_chunks(chunk(b"eXIf", exif_of_wrong_type()[6:], damage=1)), (40, 30)),
        (with_chunks(TURNED, chunk(b"zTXt", b"Comment\0\0" + LARGE)), (30, 40)),
        (with_chunks(chunk(b"iCCP", b"profile\0\0" + LARGE)), (40, 30)),
        (with_chunks(chunk(b"tEXt", b"Comment\0text", damage=1)), (40, 30)),
    ],
    ids=[
        *("wrong type", "wrong type in PNG", "broken EXIF", "damaged EXIF", "large text"),
        *("large profile", "damaged text"),
    ],
)
def test_metadata_that_cannot_be_read_are_left_out(data, size):
    """Fails with ImageOps.exif_transpose, or without `_without_metadata`."""
    image = decode_image(data, LIMITS)
    assert image.size == size
    straight = np.asarray(image if size == (40, 30) else image.transpose(Image.Transpose.ROTATE_90))
    assert np.abs(straight.astype(int) - np.asarray(gradient())).max() <= 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_the_one_of_pillow(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(gradient(), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode_image(data, LIMITS)), np.asarray(expected))


def test_photograph_of_an_iphone_is_decoded_within_limits():
    """Fails without `register_heif_opener`."""
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(gradient(size=(64, 48)), "HEIF", quality=90, exif=exif.tobytes())
    image = decode_image(data, LIMITS)
    assert (image.mode, image.size) == ("RGB", (48, 64))
    assert 80 < np.asarray(image).mean() < 180
    with pytest.raises(InvalidImage, match=r"48 x 64 pixels, the limit is 3071 \(CAPTIONSTREAM"):
        decode_image(data, ImageSettings(max_pixels=3071))
    for cut in range(0, len(data), 97):
        with pytest.raises(InvalidImage):
            decode_image(data[:cut], LIMITS)


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


def with_size(width, height):
    """A PNG whose header tells of more pixels than there are."""
    small = encoded(Image.new("1", (8, 8)))
    header = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]


@pytest.mark.parametrize("size", [(9_000, 9_000), (10_000, 10_000), (30_000, 30_000)])
def test_decompression_bomb_is_refused_and_the_limit_named(size):
    """Nothing behind the header is read. Above 2 * 89 million pixels it is Pillow that refuses."""
    with pytest.raises(InvalidImage, match=r"pixels.*CAPTIONSTREAM_IMAGE__MAX_PIXELS"):
        decode_image(with_size(*size), LIMITS)


def test_limit_of_pixels_may_be_above_that_of_pillow():
    """Fails without `_pillow_limit`; and without its end, which holds for the whole process."""
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(InvalidImage, match="cannot be decoded") as caught:
        decode_image(with_size(20_000, 9_100), ImageSettings(max_pixels=182_000_000))
    assert "pixels" not in str(caught.value)
    assert before == Image.MAX_IMAGE_PIXELS


@given(cut=st.integers(min_value=0, max_value=700))
def test_truncated_photograph_is_refused_or_decoded_but_never_raises_otherwise(cut):
    data = encoded(gradient(), "JPEG")
    try:
        decode_image(data[: min(cut, len(data) - 1)], LIMITS)
    except InvalidImage:
        return
