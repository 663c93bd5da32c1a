"""Whether a caption is right about a scene. Knows the words of scenes, not how captions are made.

A caption is read word by word. It must say which two objects there are and how one stands to the
other, and may say nothing else but the background.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from trainer.scenes.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Scene, Thing

_ARTICLES: Final = frozenset({"a", "an", "the"})
_NOUN: Final = "background"
#: What may stand before a statement; it states nothing.
_VERBS: Final = (("there", "is"), ("is",))
#: The words of each relation as sentences have them.
_PHRASES: Final = {
    tuple(f"{before}{relation}".split()): relation
    for relation in RELATIONS
    for before in ("", "to the ", "on the ")
    if not before or relation.endswith(" of")
}
_SEPARATORS: Final = re.compile(r"[\s,;]+")


class _Unreadable(Exception):
    """The caption is no statement about a scene."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mention:
    """An object as a caption names it; None: the size is left out."""

    shape: str
    colour: str
    size: str | None

    def fits(self, thing: Thing) -> bool:
        """Whether it names this object and says nothing wrong about it."""
        same = (self.shape, self.colour) == (thing.shape, thing.colour)
        return same and self.size in (None, thing.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Relation:
    """Where one object stands, seen from the other."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Background:
    """The colour of the background."""

    colour: str


_Statement = _Mention | _Relation | _Background


def is_right(caption: str, scene: Scene) -> bool:
    """Whether a caption names both objects and their relation, and says nothing false.

    Shape and colour of each object must be there; a size or the background may be left out, but
    not be wrong. The relation may be seen from either object. Case, commas, a full stop at the end
    and the kind of article do not matter. A word without a meaning for scenes (`<unk>` too), a
    statement twice, a third object or a word out of place makes the caption wrong.
    """
    words = [word for word in _SEPARATORS.split(caption.lower().strip().removesuffix(".")) if word]
    try:
        statements = list(_read(words))
    except _Unreadable:
        return False
    backgrounds = [item.colour for item in statements if isinstance(item, _Background)]
    if backgrounds not in ([], [scene.background]):
        return False
    match [item for item in statements if not isinstance(item, _Background)]:
        case [_Mention() as one, _Relation(name=name), _Mention() as other]:
            return _agrees(one, name, other, scene)
        case [_Relation(name=name), _Mention() as other, _Mention() as one]:
            return _agrees(one, name, other, scene)
        case _:
            return False


def _agrees(one: _Mention, relation: str, other: _Mention, scene: Scene) -> bool:
    """Try both ways round, so that each object of the scene is matched with one mention."""
    if relation == scene.relation:
        return one.fits(scene.first) and other.fits(scene.second)
    if relation == RELATIONS[scene.relation]:
        return one.fits(scene.second) and other.fits(scene.first)
    return False


def _read(words: Sequence[str]) -> Iterator[_Statement]:
    """Yield the statements of a caption in their order.

    Raises:
        _Unreadable: A word is unknown or stands where it means nothing.
    """
    if words.count("is") > 1:
        raise _Unreadable
    at = 0
    while at < len(words):
        at += _length_of_verb(words[at:])
        length, statement = _read_statement(words[at:])
        at += length
        yield statement


def _length_of_verb(words: Sequence[str]) -> int:
    return next((len(verb) for verb in _VERBS if tuple(words[: len(verb)]) == verb), 0)


def _read_statement(words: Sequence[str]) -> tuple[int, _Statement]:
    """Return how many words the statement takes that begins here, and the statement."""
    if not words:
        raise _Unreadable
    for phrase, relation in _PHRASES.items():
        if tuple(words[: len(phrase)]) == phrase:
            return len(phrase), _Relation(name=relation)
    return _read_background(words) if words[0] == "on" else _read_mention(words)


def _read_background(words: Sequence[str]) -> tuple[int, _Background]:
    """Read `on black`, `on black background` or `on a black background`."""
    at = 1 + (len(words) > 1 and words[1] in _ARTICLES)
    if at == len(words) or words[at] not in BACKGROUNDS:
        raise _Unreadable
    has_noun = at + 1 < len(words) and words[at + 1] == _NOUN
    if at == 2 and not has_noun:  # "on a black"
        raise _Unreadable
    return at + 1 + has_noun, _Background(colour=words[at])


def _read_mention(words: Sequence[str]) -> tuple[int, _Mention]:
    """Read an article if there is one, a colour and at most one size in any order, and a shape."""
    at = int(words[0] in _ARTICLES)
    end = next((i for i in range(at, len(words)) if words[i] in SHAPES), len(words))
    adjectives = words[at:end]
    colours = [word for word in adjectives if word in COLOURS]
    sizes = [word for word in adjectives if word in SIZES]
    is_complete = end < len(words) and len(colours) == 1 and len(sizes) <= 1
    if not is_complete or len(colours) + len(sizes) != len(adjectives):
        raise _Unreadable
    return end + 1, _Mention(shape=words[end], colour=colours[0], size=sizes[0] if sizes else None)
