"""Golden images: they show whether two processes with the same CLIP compute the same embeddings.

A version's id holds neither device nor runtime, so the process that announces a version first also
says what it makes of these images, and every other one compares.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from bson.binary import Binary
from PIL import Image

from streams.contract.values import decode_vector, encode_vector

#: A mean can be taken off so many, and they cost less than a batch.
_COUNT: Final = 8
#: Least cosine of two embeddings of one image, the mean of all golden images taken off: without
#: that, embeddings of any two images are alike. Rounded as GPUs do, on a CPU: 1 - 1e-7 in another
#: batch, at least 0.99995 where convolutions keep 10 bits, 0.99999 in float16 (RN50 with random
#: weights 0.9956). Other weights or preprocessing give much less.
_LEAST_COSINE: Final = 0.999


def golden_images() -> list[Image.Image]:
    """Return the images: coloured blocks under noise, larger than most models read."""
    images = []
    for seed in range(_COUNT):
        numbers = np.random.RandomState(seed)  # its numbers are promised never to change
        blocks = numbers.randint(0, 224, (6, 8, 3)).astype(np.uint8)
        noise = numbers.randint(0, 32, (288, 384, 3)).astype(np.uint8)
        blocks = blocks.repeat(48, axis=0).repeat(48, axis=1)  # (288, 384, 3)
        images.append(Image.fromarray(blocks + noise))
    return images


def encode_golden(embeddings: np.ndarray) -> list[Binary]:
    """Return the embeddings of the golden images, of shape (N, D), as they are announced."""
    return [encode_vector(row) for row in embeddings]


def golden_difference(found: np.ndarray, announced: Sequence[Binary]) -> str:
    """Return why embeddings of the golden images are not those that were announced; "" if they are.

    Args:
        found: What this process computes, of shape (N, D).
        announced: As `encode_golden` returns it.
    """
    expected = np.stack([decode_vector(row) for row in announced])  # (N, D)
    least = -1.0 if found.shape != expected.shape else _least_cosine(found, expected)
    if least >= _LEAST_COSINE:
        return ""
    return (
        "this process computes other embeddings than the one that announced this version: golden"
        f" images agree to {least:.4f}, {_LEAST_COSINE} is wanted; its device"
        " (CAPTIONSTREAM_CLIP__DEVICE), or its torch, torchvision or pillow, is not like the others"
    )


def _least_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    if np.array_equal(found, expected):  # also where all are alike and nothing is left of them
        return 1.0
    mean = expected.mean(axis=0)
    a, b = found - mean, expected - mean
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(np.nan_to_num(cosines, nan=-1.0).min())
