"""What the encoder learns from: captions, and attributes that must be readable by a linear map.

Contrastive loss alone gives embeddings that separate scenes, but from which shapes and colours
cannot be read well (see the probes). So linear heads read every attribute from the embedding, with
noise added to it, which makes what they read large in the embedding. The heads are thrown away.
"""

from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch.nn import functional

from trainer.scenes.pretrain.attributes import ATTRIBUTES
from trainer.scenes.pretrain.batches import Batch

#: Length that embeddings are drawn to: they are stored as they come out of the image tower, and
#: what reads them should not have to care about their length.
LENGTH: Final = 24.0
_NOISE: Final = 0.75
_LARGEST_SCALE: Final = 4.6052  # ln 100, as in CLIP
_BACKGROUND: Final = list(ATTRIBUTES).index("background")


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Parts of the loss, each a mean over the batch.

    Attributes:
        contrastive: CLIP's own loss, with wrong captions among the texts.
        images: Attributes read from the embeddings of images.
        texts: Attributes read from the embeddings of right captions.
        length: Relative distance of the embeddings' lengths from `LENGTH`, squared.
    """

    contrastive: torch.Tensor
    images: torch.Tensor
    texts: torch.Tensor
    length: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What is minimised."""
        return 0.5 * self.contrastive + self.images + self.texts + self.length

    def as_numbers(self) -> dict[str, float]:
        """Return the parts and the total by name."""
        names = ("total", *(field.name for field in fields(self)))
        return {name: float(getattr(self, name).detach()) for name in names}


class AttributeHeads(torch.nn.Module):
    """One linear classifier for each attribute, shared by images and texts."""

    def __init__(self, dimension: int) -> None:
        """Make the heads for embeddings of this dimension."""
        super().__init__()
        self._sizes = list(ATTRIBUTES.values())
        self.linear = torch.nn.Linear(dimension, sum(self._sizes))

    def losses(self, embeddings: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return cross-entropies: (B, D) and attributes (B, A) -> (B, A)."""
        unit = functional.normalize(embeddings, dim=-1) * LENGTH
        logits = self.linear(unit + _NOISE * torch.randn_like(unit)).split(self._sizes, dim=-1)
        losses = [
            functional.cross_entropy(scores, wanted[:, number], reduction="none")
            for number, scores in enumerate(logits)
        ]
        return torch.stack(losses, dim=1)  # (B, A)


def compute_losses(model: Any, heads: AttributeHeads, batch: Batch) -> Losses:
    """Return the losses of an open_clip model on a batch."""
    images = model.encode_image(batch.images)  # (B, D)
    texts = model.encode_text(torch.cat([batch.captions, batch.wrong]))  # (2 B, D)
    right = texts[: len(images)]
    read = heads.losses(right, batch.attributes)
    read[:, _BACKGROUND] = read[:, _BACKGROUND] * batch.has_background
    lengths = torch.cat([images, texts]).norm(dim=-1)
    return Losses(
        contrastive=_contrastive(images, texts, model.logit_scale),
        images=heads.losses(images, batch.attributes).mean(),
        texts=read.mean(),
        length=((lengths / LENGTH - 1) ** 2).mean(),
    )


def _contrastive(
    images: torch.Tensor, texts: torch.Tensor, log_scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's loss; an image must choose among the wrong captions of the batch, too."""
    scale = log_scale.clamp(max=_LARGEST_SCALE).exp()
    similarities = functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
    logits = scale * similarities  # (B, 2 B)
    wanted = torch.arange(len(images))
    by_image = functional.cross_entropy(logits, wanted)
    by_text = functional.cross_entropy(logits[:, : len(images)].T, wanted)
    return (by_image + by_text) / 2
