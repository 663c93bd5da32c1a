"""Generated pictures with captions that are exactly right or wrong: demo data without downloads.

A scene holds two coloured shapes on a background, one left of or above the other. Everything
follows from a seed.
"""

import io
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from PIL import Image, ImageDraw

from streams.errors import SettingsError

SIDE: Final = 96  # pixels
SHAPES: Final = ("circle", "square", "triangle", "cross")
SIZES: Final = {"small": 11, "large": 18}  # half the width, in pixels
COLOURS: Final = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 214),
    "yellow": (240, 200, 30),
}
BACKGROUNDS: Final = {"white": (245, 245, 245), "black": (20, 20, 20), "grey": (128, 128, 128)}
_JITTER: Final = 6  # pixels, at most; the largest object still ends before the edge
#: Relation of the first object to the second, with the one that says the same the other way round.
RELATIONS: Final = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
#: Places of the first and the second object, as shares of the side.
_PLACES: Final = {
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object: its shape, colour and size, each a word."""

    shape: str
    colour: str
    size: str

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"

    @classmethod
    def from_document(cls, document: Mapping[str, Any], path: str) -> Self:
        """Return the object that a document holds at `path`.

        Raises:
            SettingsError: It is none; the message names the field.
        """
        return cls(
            shape=_word(document, path, "shape", SHAPES),
            colour=_word(document, path, "colour", COLOURS),
            size=_word(document, path, "size", SIZES),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a picture shows.

    Attributes:
        first: One object.
        second: The other; it differs from the first.
        relation: Where the first stands, seen from the second.
        background: Name of the background's colour.
        jitter: Shift of both objects in pixels, right and down.
    """

    first: Thing
    second: Thing
    relation: str
    background: str
    jitter: tuple[int, int]

    def as_document(self) -> dict[str, Any]:
        """Return the scene as a document's `scene` holds it; `from_document` reads it back."""
        return {**asdict(self), "jitter": list(self.jitter)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the scene that a document's `scene` holds; further fields are passed over.

        Raises:
            SettingsError: It is no scene; the message names the field.
        """
        jitter = _field(document, "scene", "jitter")
        if not isinstance(jitter, list | tuple) or not _are_two_numbers(jitter):
            msg = f"`scene.jitter` is {jitter!r}, expected two whole numbers of pixels"
            raise SettingsError(msg)
        return cls(
            first=Thing.from_document(_field(document, "scene", "first"), "scene.first"),
            second=Thing.from_document(_field(document, "scene", "second"), "scene.second"),
            relation=_word(document, "scene", "relation", RELATIONS),
            background=_word(document, "scene", "background", BACKGROUNDS),
            jitter=(int(jitter[0]), int(jitter[1])),
        )

    def captions(self) -> list[str]:
        """Return five captions, all of them right."""
        mirror = RELATIONS[self.relation]
        return [
            f"a {self.first} {self.relation} a {self.second} on a {self.background} background",
            f"a {self.second} {mirror} a {self.first} on a {self.background} background",
            f"on {self.background} there is a {self.first} {self.relation} a {self.second}",
            f"a {self.first} is {self.relation} a {self.second}",
            f"there is a {self.second} {mirror} a {self.first}",
        ]

    def image(self) -> Image.Image:
        """Return the picture, RGB, `SIDE` x `SIDE` pixels."""
        picture = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[self.background])
        draw = ImageDraw.Draw(picture)
        for thing, (x, y) in zip((self.first, self.second), _PLACES[self.relation], strict=True):
            _draw(draw, thing, x * SIDE + self.jitter[0], y * SIDE + self.jitter[1])
        return picture

    def png(self) -> bytes:
        """Return the picture as PNG."""
        data = io.BytesIO()
        self.image().save(data, "PNG")
        return data.getvalue()


def make_scenes(count: int, *, seed: int) -> Iterator[Scene]:
    """Yield scenes; the same seed gives the same ones."""
    generator = random.Random(seed)  # noqa: S311 - pictures, no secret
    for _ in range(count):
        yield _make_scene(generator)


def _make_scene(generator: random.Random) -> Scene:
    first = _make_thing(generator)
    second = _make_thing(generator)
    while (second.shape, second.colour) == (first.shape, first.colour):
        second = _make_thing(generator)
    return Scene(
        first=first,
        second=second,
        relation=generator.choice(tuple(RELATIONS)),
        background=generator.choice(tuple(BACKGROUNDS)),
        jitter=(generator.randint(-_JITTER, _JITTER), generator.randint(-_JITTER, _JITTER)),
    )


def _make_thing(generator: random.Random) -> Thing:
    return Thing(
        shape=generator.choice(SHAPES),
        colour=generator.choice(tuple(COLOURS)),
        size=generator.choice(tuple(SIZES)),
    )


def _field(document: Mapping[str, Any], path: str, name: str) -> Any:
    if not isinstance(document, Mapping) or name not in document:
        msg = f"`{path}.{name}` is missing; a scene of `make_scenes` is needed"
        raise SettingsError(msg)
    return document[name]


def _are_two_numbers(values: Sequence[Any]) -> bool:
    whole = [isinstance(value, int) and not isinstance(value, bool) for value in values]
    return whole == [True, True]


def _word(document: Mapping[str, Any], path: str, name: str, known: Collection[str]) -> str:
    word = _field(document, path, name)
    if not isinstance(word, str) or word not in known:
        msg = f"`{path}.{name}` is {word!r}, expected one of {', '.join(known)}"
        raise SettingsError(msg)
    return word


def _draw(draw: ImageDraw.ImageDraw, thing: Thing, x: float, y: float) -> None:
    half = SIZES[thing.size]
    colour = COLOURS[thing.colour]
    box = (x - half, y - half, x + half, y + half)
    if thing.shape == "circle":
        draw.ellipse(box, fill=colour)
    elif thing.shape == "square":
        draw.rectangle(box, fill=colour)
    elif thing.shape == "triangle":
        draw.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], fill=colour)
    else:
        bar = half / 3
        draw.rectangle((x - half, y - bar, x + half, y + bar), fill=colour)
        draw.rectangle((x - bar, y - half, x + bar, y + half), fill=colour)
