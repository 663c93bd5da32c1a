"""A process of `featurize` whose CLIP does not survive white images. `python -m tests.deadly HOW`.

HOW is `hangs`, or `crashes`, as a fault in native code or an exhausted memory would.
"""

import os
import sys
import threading

import numpy as np
import torch

from streams.app import run_process
from streams.models.clip import ClipEncoder
from streams.settings import load_settings

#: White in the first channel after CLIP's normalisation is 1.93, and more in the others.
_WHITE = 1.9

_encode = ClipEncoder.encode


def encode_or_die(self: ClipEncoder, images: torch.Tensor) -> np.ndarray:
    """Hang or crash if one of the images (B, 3, H, W) is white, else encode them."""
    if bool((images.amin(dim=(1, 2, 3)) > _WHITE).any()):
        if sys.argv[1] == "crashes":
            os.abort()
        threading.Event().wait()
    return _encode(self, images)


if __name__ == "__main__":
    ClipEncoder.encode = encode_or_die  # type: ignore[method-assign]
    run_process("featurize", load_settings())
