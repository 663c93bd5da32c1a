"""Endless batches of fresh scenes: pictures, a right and a wrong caption each, attributes."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch

from trainer.scenes.pretrain.attributes import attributes
from trainer.scenes.pretrain.negatives import wrong_caption
from trainer.scenes.scenes import Scene, make_scenes

_SCENE_SEEDS: Final = 1 << 62
#: Captions of a scene that name the background.
_WITH_BACKGROUND: Final = frozenset({0, 1, 2})


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B scenes as tensors.

    Attributes:
        images: Preprocessed pictures, (B, 3, H, W).
        captions: Token ids of a right caption of each, (B, context).
        wrong: Token ids of a wrong one, of the same kind, (B, context).
        attributes: See `attributes`, (B, A).
        has_background: Whether the right caption names the background, (B,).
    """

    images: torch.Tensor
    captions: torch.Tensor
    wrong: torch.Tensor
    attributes: torch.Tensor
    has_background: torch.Tensor


class Pictures:
    """Pictures of scenes as the encoder wants them, faster than one by one.

    Equal to open_clip's preprocessing as long as that neither scales nor crops, which is so when
    the model's image size is the scenes' own.
    """

    def __init__(self, preprocess: Any) -> None:
        """Take mean and deviation from the model's preprocessing."""
        last = preprocess.transforms[-1]
        self._mean = torch.tensor(last.mean).view(1, 3, 1, 1)
        self._deviation = torch.tensor(last.std).view(1, 3, 1, 1)

    def __call__(self, scenes: Sequence[Scene]) -> torch.Tensor:
        """Return (B, 3, H, W)."""
        pixels = torch.from_numpy(np.stack([np.asarray(scene.image()) for scene in scenes]))
        images = pixels.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
        return ((images - self._mean) / self._deviation).contiguous(
            memory_format=torch.channels_last
        )


class Tokens:
    """Token ids of captions. Scenes have few words, so each is looked up only once."""

    def __init__(self, tokenizer: Any) -> None:
        """Keep open_clip's tokenizer of the model."""
        self._tokenizer = tokenizer
        self._ids = cache(tokenizer.encode)

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return (B, context), equal to what the tokenizer gives."""
        tokens = torch.zeros(len(captions), self._tokenizer.context_length, dtype=torch.long)
        for row, caption in zip(tokens, captions, strict=True):
            ids = [number for word in caption.split() for number in self._ids(word)]
            framed = [self._tokenizer.sot_token_id, *ids, self._tokenizer.eot_token_id]
            row[: len(framed)] = torch.tensor(framed)
        return tokens


def batches(pictures: Pictures, tokens: Tokens, *, size: int, seed: int) -> Iterator[Batch]:
    """Yield batches for ever; the same seed gives the same ones."""
    generator = random.Random(seed)  # noqa: S311 - pictures, no secret
    while True:
        scenes = list(make_scenes(size, seed=generator.randrange(_SCENE_SEEDS)))
        kinds = [generator.randrange(5) for _ in scenes]
        pairs = list(zip(scenes, kinds, strict=True))
        yield Batch(
            images=pictures(scenes),
            captions=tokens([scene.captions()[kind] for scene, kind in pairs]),
            wrong=tokens([wrong_caption(scene, kind, generator) for scene, kind in pairs]),
            attributes=attributes(scenes),
            has_background=torch.tensor([kind in _WITH_BACKGROUND for kind in kinds]),
        )
