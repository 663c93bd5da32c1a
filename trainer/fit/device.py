"""Where a fit computes."""

from collections.abc import Mapping
from typing import Any

import torch

from streams.errors import SettingsError
from trainer.fit.options import Device


def device_of(wanted: Device) -> torch.device:
    """Return the device.

    Raises:
        SettingsError: There is no GPU that this installation of torch can use.
    """
    has_gpu = torch.cuda.is_available()
    if wanted is Device.CUDA and not has_gpu:
        msg = (
            "--device cuda: torch finds no GPU here; install a build of torch for CUDA and a"
            " driver, or take --device auto"
        )
        raise SettingsError(msg)
    return torch.device("cuda" if has_gpu and wanted is not Device.CPU else "cpu")


def moved(data: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device; lists, tuples and dicts keep their form."""
    if isinstance(data, torch.Tensor):
        return data.to(device)
    if isinstance(data, Mapping):
        return {key: moved(value, device) for key, value in data.items()}
    if isinstance(data, list | tuple):
        parts = [moved(value, device) for value in data]
        return parts if isinstance(data, list) else tuple(parts)
    return data
