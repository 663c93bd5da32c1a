"""What decides the small CLIP, beside the scenes themselves."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to pretrain.

    Attributes:
        steps: Batches to learn from.
        batch_size: Scenes in each.
        rate: Largest learning rate; it rises for a tenth of the steps, then falls to zero.
        weight_decay: Of AdamW.
        seed: Seed of the weights, the scenes and the noise.
    """

    steps: int = 1200
    batch_size: int = 128
    rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0
