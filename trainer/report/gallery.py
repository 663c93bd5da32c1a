"""Pictures with captions. Each picture is made small and put into the page itself."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from PIL import Image

from streams.errors import InvalidImage
from streams.images.image import decode_image
from streams.settings import ImageSettings
from trainer.report.page import Html

#: Longest side in pixels: twice what a card shows, for sharp screens.
_LARGEST: Final = 520
_JPEG_QUALITY: Final = 82
#: Pictures of so few pixels are drawings more often than photographs; PNG keeps their edges.
_SMALL: Final = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One card of a gallery.

    Attributes:
        image: Encoded image, or the value of `img` in the document; None when there is none.
        caption: What the model says.
        references: What people wrote.
        is_right: Whether the caption is right; None when nobody knows.
        detail: Small print, for example the id of the document.
    """

    image: object
    caption: str
    references: Sequence[str] = ()
    is_right: bool | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inlined:
    """A picture as the address of itself."""

    uri: str
    is_square: bool


def gallery(pictures: Sequence[Picture]) -> Html:
    """Return cards side by side; a picture that cannot be decoded leaves an empty frame."""
    inlined = [_inline(picture.image) for picture in pictures]
    are_square = all(image.is_square for image in inlined if image is not None)
    cards = "".join(_card(picture, image) for picture, image in zip(pictures, inlined, strict=True))
    return Html(f'<div class="gallery{" square" if are_square else ""}">\n{cards}</div>')


def _inline(image: object) -> _Inlined | None:
    """Return an encoded image, at most 520 pixels wide and high; None when it cannot be decoded."""
    try:
        decoded = decode_image(image, ImageSettings())
    except InvalidImage:
        return None
    decoded.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    if max(decoded.size) <= _SMALL:
        kind = "png"
        decoded.save(data, "PNG", optimize=True)
    else:
        kind = "jpeg"
        decoded.save(data, "JPEG", quality=_JPEG_QUALITY)
    return _Inlined(
        uri=f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}",
        is_square=decoded.width == decoded.height,
    )


def _card(picture: Picture, image: _Inlined | None) -> str:
    shown = (
        f'<img src="{image.uri}" alt="{escape(picture.caption)}">'
        if image
        else '<div class="nothing">no picture</div>'
    )
    said = escape(picture.caption)
    return (
        f"<figure>{shown}<figcaption>{_verdict(picture.is_right)}"
        + (f"<p>{said}</p>" if said else '<p class="empty">(empty)</p>')
        + _references(picture.references)
        + (f"<small>{escape(picture.detail)}</small>" if picture.detail else "")
        + "</figcaption></figure>\n"
    )


def _references(texts: Sequence[str]) -> str:
    """Show the first reference, and fold the others away."""
    if not texts:
        return ""
    first, *others = (escape(text) for text in texts)
    more = (
        f"<details><summary>{len(others)} more</summary>{'<br>'.join(others)}</details>"
        if others
        else ""
    )
    return f'<div class="references">{first}{more}</div>'


def _verdict(is_right: bool | None) -> str:
    if is_right is None:
        return ""
    return (
        '<span class="verdict right">\u2713 right</span>'
        if is_right
        else '<span class="verdict wrong">\u2717 wrong</span>'
    )
