"""What decides a fit, beside the snapshot."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict, Field

from streams.models.words import Normalization


class FitOptions(BaseModel):
    """All that decides what comes out of a fit, beside the snapshot.

    Attributes:
        seed: Of the first weights and of every draw.
        normalization: What counts as a word of a caption.
        min_count: A word belongs to the vocabulary if it occurs more often than this in the train
            fold.
        max_length: Most words of a caption; longer ones are cut.
        batch_size: Images of one step.
        rate: Learning rate of Adam.
        hidden: Size of the captioner's state.
        dimension: Length of projected vectors.
        max_epochs: Most passes over the train fold.
        patience: Passes without a better validation loss before the fit ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, lt=2**31)
    normalization: Normalization = Normalization.UNICODE
    min_count: int = Field(5, ge=0)
    max_length: int = Field(15, ge=1, le=1000)
    batch_size: int = Field(50, ge=1)
    rate: float = Field(0.001, gt=0)
    hidden: int = Field(512, ge=1)
    dimension: int = Field(512, ge=1)
    max_epochs: int = Field(100, ge=1)
    patience: int = Field(5, ge=1)


def run_id(name: str, snapshot_id: str, options: FitOptions) -> str:
    """Return 16 hexadecimal digits that follow from all that decides a fit."""
    content = json.dumps([name, snapshot_id, options.model_dump()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
