"""Processes of `clip` whose CLIP does not survive white images.

`python -m tests.deadly HOW...`. HOW is `hangs`, or `crashes`, as a fault in native code or an
exhausted memory would, or `breaks`, as a GPU's context does: nothing works from then on. So many of
them run, one after the other; the exit code of each is a line of the output. What runs then is the
process itself, like the last. With `itself` before them only this one runs.
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
_broken = threading.Event()


def encode_or_die(self: ClipEncoder, images: torch.Tensor) -> np.ndarray:
    """Hang or crash if one of the images (B, 3, H, W) is white, else encode them."""
    if _broken.is_set() or bool((images.amin(dim=(1, 2, 3)) > _WHITE).any()):
        if sys.argv[1] == "crashes":
            os.abort()
        if sys.argv[1] == "breaks":
            _broken.set()
            msg = "CUDA error: an illegal memory access was encountered"
            raise RuntimeError(msg)
        threading.Event().wait()
    return _encode(self, images)


if __name__ == "__main__":
    ClipEncoder.encode = encode_or_die  # type: ignore[method-assign]
    is_alone = sys.argv[1] == "itself"
    if is_alone:
        del sys.argv[1]
    for left in reversed(range(0 if is_alone else len(sys.argv) - 1)):
        child = os.fork()  # what is imported need not be imported again
        if child == 0:
            break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
        if left:
            del sys.argv[1]
    os.dup2(2, 1)  # its log belongs elsewhere
    run_process("clip", load_settings())
