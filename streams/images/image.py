"""From the value of `img` to an RGB image, within limits. Knows nothing about models."""

import io
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Final

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, UnidentifiedImageError

from streams.errors import InvalidImage
from streams.settings import ImageSettings

#: Part of the id of every CLIP version: another name is due when the same bytes of a usual image
#: give other pixels.
DECODER: Final = "pillow, upright, RGB, 8 bits of its own range"
#: Modes of more than 8 bits.
_WIDE: Final = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
#: What is tried on bytes of unknown origin. Pillow knows more, and for one of them (EPS) runs an
#: interpreter of programs.
_FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000"),
    *("PPM", "QOI", "ICO", "HEIF"),
)
#: What brings an image upright, by the EXIF orientation.
_TURNS: Final[Mapping[object, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG: Final = b"\x89PNG\r\n\x1a\n"


def image_bytes(value: object, limits: ImageSettings) -> bytes:
    """Return the encoded image that a document's `img` holds.

    Raises:
        InvalidImage: It is missing, is no binary, is empty, or is larger than the limit.
    """
    if value is None:
        msg = "the document has no `img`; store the encoded image as binary there"
        raise InvalidImage(msg)
    if not isinstance(value, bytes):
        msg = (
            "`img` must be binary (the encoded image) or {'url': ...},"
            f" got {type(value).__name__}"
        )
        raise InvalidImage(msg)
    if not value:
        msg = "`img` is empty"
        raise InvalidImage(msg)
    if len(value) > limits.max_bytes:
        msg = (
            f"`img` has {len(value)} bytes, the limit is {limits.max_bytes}"
            " (CAPTIONSTREAM_IMAGE__MAX_BYTES)"
        )
        raise InvalidImage(msg)
    return value


def decode_image(value: object, limits: ImageSettings) -> Image.Image:
    """Return the image, upright, as RGB.

    The EXIF rotation is applied; transparency is laid on white; of an animation the first frame is
    taken; 16 and 32 bits are scaled to 8, so that the smallest value is black and the largest is
    white; palettes, grey and CMYK are converted. Metadata that cannot be read are left out.

    Raises:
        InvalidImage: It cannot be decoded or exceeds a limit.
    """
    data = image_bytes(value, limits)
    try:
        try:
            return _decode(data, limits)
        except InvalidImage:
            raise
        except Exception:
            if not data.startswith(_PNG):
                raise
            return _decode(b"".join(_without_metadata(data)), limits)
    except InvalidImage:
        raise
    except Image.DecompressionBombError as exc:
        msg = f"`img`: {exc} (CAPTIONSTREAM_IMAGE__MAX_PIXELS)"
        raise InvalidImage(msg) from exc
    except UnidentifiedImageError as exc:
        msg = f"`img` ({len(data)} bytes) is no image of a known format ({', '.join(_formats())})"
        raise InvalidImage(msg) from exc
    except Exception as exc:  # decoders raise anything on hostile bytes
        msg = f"`img` ({len(data)} bytes) cannot be decoded: {exc}"
        raise InvalidImage(msg) from exc


def image_suffixes() -> frozenset[str]:
    """Return how names of image files end, for every format that can be decoded here."""
    names = _formats()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in names)


def _decode(data: bytes, limits: ImageSettings) -> Image.Image:
    with _pillow_limit(limits.max_pixels):
        with warnings.catch_warnings():
            # Our own look at the size follows, at the same number.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data), formats=_formats())
        with opened as image:
            _check_size(image, limits)
            image.seek(0)
            image.load()
            return _to_rgb(_upright(image))


@contextmanager
def _pillow_limit(pixels: int) -> Iterator[None]:
    """Let Pillow's own limit be ours: it looks again at pictures within pictures.

    Its error is at twice the number. The limit belongs to the whole process, which may have images
    of its own to open afterwards.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def scale_to_centre(
    image: Image.Image, height: int, width: int, resample: Image.Resampling
) -> Image.Image:
    """Return the centre of an image whose edges were scaled alike until it just covers a size.

    But for roundings the same as torchvision's scaling of the whole and cropping, and yet nothing
    is scaled that the crop would drop: a line of 60,000 pixels would take gigabytes.
    """
    if height * image.width <= width * image.height:
        scaled = (width, int(width * image.height / image.width))
    else:
        scaled = (int(height * image.width / image.height), height)
    left, right, *columns = _centre(image.width, scaled[0], width)
    top, bottom, *rows = _centre(image.height, scaled[1], height)
    part = image.crop((left, top, right, bottom))
    return part.resize((width, height), resample, (columns[0], rows[0], columns[1], rows[1]))


def _centre(length: int, scaled: int, kept: int) -> tuple[int, int, float, float]:
    """Return which pixels of an edge decide its centre, and where in them the centre lies."""
    scale = length / scaled
    start = round((scaled - kept) / 2)
    first, last = start * length / scaled, (start + kept) * length / scaled
    margin = 2 * max(scale, 1) + 1  # a bicubic filter reaches so far
    low = max(0, math.floor(first - margin))
    return low, min(length, math.ceil(last + margin)), first - low, last - low


@cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow can read."""
    Image.init()
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, limits: ImageSettings) -> None:
    """The header gives the size before anything is decoded."""
    width, height = image.size
    if width * height > limits.max_pixels:
        msg = (
            f"`img` has {width} x {height} pixels, the limit is {limits.max_pixels}"
            " (CAPTIONSTREAM_IMAGE__MAX_PIXELS)"
        )
        raise InvalidImage(msg)


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF says; ImageOps.exif_transpose would also write it anew, and fail.

    A viewer that cannot read the EXIF shows the picture as it is.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # parsers raise anything on hostile bytes
        return image
    return image if turn is None else image.transpose(turn)


def _without_metadata(png: bytes) -> Iterator[bytes]:
    """Yield the parts of a PNG file that decide about its pixels, and its EXIF if it is whole.

    Pillow refuses a file for a text or a profile that is large or damaged.
    """
    yield png[: len(_PNG)]
    start = len(_PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])
        chunk = png[start:end]  # length, name, data, checksum
        name, is_whole = chunk[4:8], zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if name[:1].isupper() or name == b"tRNS" or (name == b"eXIf" and is_whole):
            yield chunk
        start = end


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE:
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale from the smallest to the largest finite value: the file does not say what it holds.

    Pillow clips wide numbers at 255, or drops their low bits: such images turn white or black.
    What is no number becomes black, and an image of one value black, or white if that is above 0.
    """
    values = np.asarray(image).astype(np.float64)  # (H, W)
    is_finite = np.isfinite(values)
    low = values.min(where=is_finite, initial=np.inf)
    high = values.max(where=is_finite, initial=-np.inf)
    if not low < high:
        low, high = min(low, 0), max(high, 1)
    values -= low
    values *= 255 / (high - low)
    np.nan_to_num(values, copy=False, nan=0, posinf=255, neginf=0)
    return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))
