"""What decides a fit, beside the snapshot."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streams.contract.declaration import Declaration

PlugName = Literal["target", "loss", "splitter", "metrics"]


class Device(StrEnum):
    """Where to compute; `auto` takes a GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class FitOptions(BaseModel):
    """All that decides what comes out of a fit, beside the snapshot.

    Attributes:
        seed: Of the first weights and of every draw.
        batch_size: Examples of one step.
        rate: Learning rate of Adam.
        max_epochs: Most passes over the train fold.
        patience: Passes without a better validation loss before the fit ends.
        kind: What the kind is told: its own options, JSON values.
        plugs: What is used instead of the kind's own, `package.module:function` each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, lt=2**31)
    batch_size: int = Field(50, ge=1)
    rate: float = Field(0.001, gt=0)
    max_epochs: int = Field(100, ge=1)
    patience: int = Field(5, ge=1)
    kind: Mapping[str, Any] = Field(default_factory=dict)
    plugs: Mapping[PlugName, str] = Field(default_factory=dict)


def run_id(declaration: Declaration, snapshot_id: str, options: FitOptions) -> str:
    """Return 16 hexadecimal digits that follow from all that decides a fit."""
    parts = [
        declaration.model_dump(mode="json", exclude={"state"}),
        snapshot_id,
        options.model_dump(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
