"""The pretrained model as files: what open_clip needs to load it, and nothing else."""

import os
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

WEIGHTS: Final = "model.safetensors"


def export(model: torch.nn.Module, config: Path, directory: Path) -> Path:
    """Write the weights, as 16-bit floats, and a copy of the config; return the weights' path.

    Each file appears whole or not at all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS
    partial = directory / f"{WEIGHTS}.partial"
    tensors = {name: _half(tensor) for name, tensor in sorted(model.state_dict().items())}
    save_file(tensors, partial)
    partial.chmod(0o644)  # safetensors makes it private, and packages keep such bits
    os.replace(partial, weights)
    if config.resolve() != (directory / config.name).resolve():
        shutil.copyfile(config, directory / config.name)
    return weights


def _half(tensor: torch.Tensor) -> torch.Tensor:
    """Integers (counters of batch normalisation) stay as they are."""
    halved = tensor.half() if tensor.is_floating_point() else tensor
    return halved.detach().contiguous().clone()
