"""From the value of `img` to an RGB image, within limits. Knows nothing about models."""

import io
import math
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from streams.errors import InvalidImage
from streams.settings import ImageSettings

#: Part of the id of every CLIP version: another name is due when the same bytes of a usual image
#: give other pixels.
DECODER: Final = "pillow, upright, RGB, 8 bits"
_SIXTEEN_BIT: Final = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
#: What is tried on bytes of unknown origin. Pillow knows more, and for one of them (EPS) runs an
#: interpreter of programs.
_FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000"),
    *("PPM", "QOI", "ICO"),
)
#: Largest value of a wide image, and the factor that brings it to 8 bits.
_FACTORS: Final = ((255, 1.0), (65_535, 1 / (1 << 8)), (float("inf"), 1 / (1 << 23)))


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
    taken; 16 and 32 bits are scaled to 8; palettes, grey and CMYK are converted.

    Raises:
        InvalidImage: It cannot be decoded or exceeds a limit.
    """
    data = image_bytes(value, limits)
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            _check_size(image, limits)
            image.seek(0)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except InvalidImage:
        raise
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
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, limits: ImageSettings) -> None:
    """The header tells the size before anything is decoded."""
    width, height = image.size
    if width * height > limits.max_pixels:
        msg = (
            f"`img` has {width} x {height} pixels, the limit is {limits.max_pixels}"
            " (CAPTIONSTREAM_IMAGE__MAX_PIXELS)"
        )
        raise InvalidImage(msg)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Pillow clips wide numbers at 255, which turns most such images white.

    How much 32 bits hold is not written in the file, so the largest value tells: 8, 16 or 31 bits,
    and for floats also the range from 0 to 1.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    largest = values.max(initial=0)
    if image.mode == "F" and largest <= 1:
        factor = 255.0
    else:
        factor = next(factor for limit, factor in _FACTORS if largest <= limit)
    return Image.fromarray(np.clip(values * factor, 0, 255).astype(np.uint8))
