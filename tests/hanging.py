"""A process of `featurize` whose CLIP hangs on white images. `python -m tests.hanging`."""

import threading

import numpy as np
import torch

from streams.app import run_process
from streams.models.clip import ClipEncoder
from streams.settings import load_settings

#: White in the first channel after CLIP's normalisation is 1.93, and more in the others.
_WHITE = 1.9

_encode = ClipEncoder.encode


def encode_or_hang(self: ClipEncoder, images: torch.Tensor) -> np.ndarray:
    """Hang if one of the images (B, 3, H, W) is white, else encode them."""
    if bool((images.amin(dim=(1, 2, 3)) > _WHITE).any()):
        threading.Event().wait()
    return _encode(self, images)


if __name__ == "__main__":
    ClipEncoder.encode = encode_or_hang  # type: ignore[method-assign]
    run_process("featurize", load_settings())
