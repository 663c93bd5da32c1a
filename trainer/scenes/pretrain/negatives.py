"""Captions that are nearly right: one attribute changed, or the two objects exchanged."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from trainer.scenes.judge import is_right
from trainer.scenes.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Scene

_VALUES: Final = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES)}


def wrong_caption(scene: Scene, template: int, generator: random.Random) -> str:
    """Return a caption of the given kind (index into `captions`) that is wrong about the scene."""
    while True:
        caption = generator.choice(_CHANGES)(scene, generator).captions()[template]
        if not is_right(caption, scene):  # a kind without background hides a change of it
            return caption


def _change_thing(scene: Scene, generator: random.Random) -> Scene:
    place = generator.choice(("first", "second"))
    name = generator.choice(tuple(_VALUES))
    thing = scene.first if place == "first" else scene.second
    others = [value for value in _VALUES[name] if value != getattr(thing, name)]
    changed = replace(thing, **{name: generator.choice(others)})
    return replace(scene, first=changed) if place == "first" else replace(scene, second=changed)


def _change_relation(scene: Scene, generator: random.Random) -> Scene:
    others = [relation for relation in RELATIONS if relation != scene.relation]
    return replace(scene, relation=generator.choice(others))


def _change_background(scene: Scene, generator: random.Random) -> Scene:
    others = [background for background in BACKGROUNDS if background != scene.background]
    return replace(scene, background=generator.choice(others))


def _exchange_attribute(scene: Scene, generator: random.Random) -> Scene:
    """What belongs to which object is what a bag of words does not say."""
    name = generator.choice(tuple(_VALUES))
    first, second = getattr(scene.first, name), getattr(scene.second, name)
    return replace(
        scene,
        first=replace(scene.first, **{name: second}),
        second=replace(scene.second, **{name: first}),
    )


#: Objects have the most attributes, so they are changed the most often.
_CHANGES: Final[tuple[Callable[[Scene, random.Random], Scene], ...]] = (
    _change_thing,
    _change_thing,
    _exchange_attribute,
    _change_relation,
    _change_background,
)
