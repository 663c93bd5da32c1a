"""Where torch computes."""

import torch

from streams.errors import SettingsError


def device_of(name: str, variable: str) -> torch.device:
    """Return a device; of `auto` the first GPU, and the CPU where there is none.

    Args:
        name: `auto`, or what torch calls it.
        variable: Setting that names it, for the message.

    Raises:
        SettingsError: Torch cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as exc:  # unknown, or without its driver or build
        reason = str(exc).split(". ")[0].split("\n")[0]
        msg = f"torch cannot use device {name!r} ({variable}): {reason}"
        raise SettingsError(msg) from exc
    return device
