"""A decoder may die, hang or eat memory: one image fails, the pool works on. Real processes."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from streams.decoding.pool import DecodePool
from streams.errors import InvalidImage
from streams.models.image import decode_image
from streams.settings import ImageSettings

LIMITS = ImageSettings(max_seconds=1)


@pytest.fixture(scope="module")
def pool():
    pool = DecodePool(LIMITS, workers=2, decode="tests.killers:decode")
    yield pool
    pool.close()


def photograph(seed, kind="JPEG"):
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (31, 47, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def attempt(pool, data):
    try:
        return pool.decode(data).tobytes()
    except InvalidImage as exc:
        return str(exc)


@pytest.mark.parametrize(
    ("killer", "message"),
    [
        (b"segfault", "the decoder died of signal 11"),
        (b"killed", "the decoder died of signal 9"),
        (b"exit", "the decoder ended with code 3"),
        (b"hang", "decoding took longer than 1 s"),
        (b"memory", "decoding took more than 3221225472 bytes of memory"),
        (b"junk", "no image of a known format"),
    ],
)
def test_image_that_kills_its_decoder_fails_alone(pool, killer, message):
    """Fails without the handling of EOFError, TimeoutError and RLIMIT_AS in pool and worker."""
    batch = [photograph(0), killer, photograph(1), photograph(2), photograph(3)]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda data: attempt(pool, data), batch))
    assert message in results.pop(1)
    assert results == [decode_image(photograph(i), LIMITS).tobytes() for i in range(4)]
