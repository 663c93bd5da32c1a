"""Everything that a fit needs to go on after a kill, in one file. Never a pickle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from streams.errors import InvalidCheckpoint

CHECKPOINT: Final = "checkpoint.safetensors"
_STATE: Final = "state"
_DIGEST: Final = "digest"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The state after an epoch. Draws follow from seed and epoch, so no generator is kept.

    Attributes:
        epoch: The last complete epoch, from 1.
        weights: Of the model.
        best_weights: Of the best epoch.
        moments: Adam's numbers, by `<number of the parameter>.<name>`.
        history: One entry for each epoch.
    """

    epoch: int
    weights: Tensors
    best_weights: Tensors
    moments: Tensors
    history: tuple[Mapping[str, Any], ...]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the one before; it appears whole or not at all."""
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, part in (
            ("weights", checkpoint.weights),
            ("best", checkpoint.best_weights),
            ("moments", checkpoint.moments),
        )
        for name, tensor in part.items()
    }
    state = json.dumps(
        {
            "run": directory.name,
            "epoch": checkpoint.epoch,
            "history": list(checkpoint.history),
        }
    )
    aside = directory / f".{CHECKPOINT}"
    save_file(tensors, aside, metadata={_STATE: state, _DIGEST: _digest(tensors, state)})
    aside.replace(directory / CHECKPOINT)


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """Return the checkpoint of a run, None when there is none.

    Raises:
        InvalidCheckpoint: It is damaged, or another run's.
    """
    path = directory / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata()
        if metadata[_DIGEST] != _digest(tensors, metadata[_STATE]):
            raise ValueError("its content does not fit its hash")  # noqa: EM101
        state = json.loads(metadata[_STATE])
        checkpoint = Checkpoint(
            epoch=state["epoch"],
            weights=_group(tensors, "weights"),
            best_weights=_group(tensors, "best"),
            moments=_group(tensors, "moments"),
            history=tuple(state["history"]),
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as exc:
        msg = f"the checkpoint {path} is damaged ({exc}); fit again without --resume"
        raise InvalidCheckpoint(msg) from exc
    if state.get("run") != directory.name:
        msg = f"the checkpoint {path} is of another run; fit again without --resume"
        raise InvalidCheckpoint(msg)
    return checkpoint


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the tensors of an optimizer's state."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value for number, part in state.items() for name, value in part.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, moments: Tensors) -> None:
    """Give an optimizer the tensors that `moments_of` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _group(tensors: Tensors, group: str) -> dict[str, torch.Tensor]:
    prefix = f"{group}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _digest(tensors: Tensors, state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
