"""What a scene says, as numbers: the attributes that an embedding has to make readable.

The order of the two objects is canonical (the left or the upper one comes first), so that a scene
and its mirrored description have the same attributes.
"""

from collections.abc import Sequence
from typing import Final

import torch

from trainer.scenes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, Thing

_AXES: Final = {"left of": 0, "right of": 0, "above": 1, "below": 1}
#: The relations in which the first object of a scene is the canonical first.
_IN_ORDER: Final = frozenset({"left of", "above"})

#: Name of each attribute, and how many values it has.
ATTRIBUTES: Final = {
    "axis": 2,
    "background": len(BACKGROUNDS),
    **{
        f"{place}_{name}": len(values)
        for place in ("first", "second")
        for name, values in (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))
    },
}


def attributes(scenes: Sequence[Scene]) -> torch.Tensor:
    """Return the attributes in the order of `ATTRIBUTES`: B scenes -> (B, 8), long."""
    return torch.tensor([_attributes(scene) for scene in scenes])


def _attributes(scene: Scene) -> list[int]:
    things = [scene.first, scene.second]
    if scene.relation not in _IN_ORDER:
        things.reverse()
    background = list(BACKGROUNDS).index(scene.background)
    return [_AXES[scene.relation], background, *_numbers(things[0]), *_numbers(things[1])]


def _numbers(thing: Thing) -> list[int]:
    return [
        list(SIZES).index(thing.size),
        list(COLOURS).index(thing.colour),
        SHAPES.index(thing.shape),
    ]
