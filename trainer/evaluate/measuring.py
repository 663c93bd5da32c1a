"""What a version is measured with."""

from dataclasses import dataclass
from typing import Any

import torch

from streams.contract.pipeline import Model
from trainer.fit.plugs import EncodeTexts, Plugs
from trainer.snapshot.validation_set import ValidationSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """What a version is measured with.

    Attributes:
        model: The model, with the options that it is to be asked with.
        validation_set: What it is measured on.
        plugs: Of its kind.
        batch_size: Cases that are computed together.
        encode_texts: The text tower of what it reads; None when there is none.
        device: Where a user's class computes.
    """

    model: Model
    validation_set: ValidationSet
    plugs: Plugs[Any]
    batch_size: int = 64
    encode_texts: EncodeTexts | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it is immutable
