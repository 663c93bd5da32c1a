"""A decoder may die, hang or eat memory: one image fails, the pool works on. Real processes."""

import errno
import gc
import io
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from streams.errors import InvalidImage, Unavailable
from streams.images.image import decode_image
from streams.images.pool import DecodePool
from streams.settings import ImageSettings
from tests.descriptors import descriptors
from tests.waiting import wait_until

LIMITS = ImageSettings(max_seconds=5)
register_heif_opener()  # to write them
#: The files that workers share with the pool.
IMAGES = "/memfd:captionstream-image"


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
        (b"hang", "decoding took longer than 5 s"),
        (b"memory", "decoding took more than 3221225472 bytes of memory"),
        (b"junk", "no image of a known format"),
    ],
)
def test_image_that_kills_its_decoder_fails_alone(pool, killer, message):
    """Fails without the handling of EOFError, TimeoutError and RLIMIT_AS in pool and worker."""
    good = [*(photograph(i) for i in range(3)), photograph(3, "HEIF")]
    batch = [good[0], killer, *good[1:]]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda data: attempt(pool, data), batch))
    assert message in results.pop(1)
    assert results == [decode_image(image, LIMITS).tobytes() for image in good]


def test_closing_ends_a_worker_that_hangs_and_its_caller():
    """Fails without the kill in DecodePool.close; without `release` its descriptors stay open."""
    gc.collect()
    before = descriptors(IMAGES)
    pool = DecodePool(ImageSettings(), workers=1, decode="tests.killers:decode")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.decode, b"hang")
        wait_until(lambda: pool._idle.empty() or waiting.done(), doing="the image is taken")
        pool.close()
        with pytest.raises(Unavailable, match="closed"):
            waiting.result()
    assert descriptors(IMAGES) <= before, "what tests before left behind may go meanwhile"
    pool.close()


def test_machine_without_descriptors_is_no_fault_of_the_image(monkeypatch):
    """Fails without `except OSError` in `start`, and with a descriptor that is closed twice."""
    gc.collect()
    before = descriptors(IMAGES)
    pool = DecodePool(ImageSettings(), workers=1)
    pool._all[0].kill()

    def none_left(_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", none_left)
        for _ in range(2):
            with pytest.raises(Unavailable, match="Too many open files"):
                pool.decode(photograph(1))
    expected = decode_image(photograph(1), LIMITS).tobytes()
    assert pool.decode(photograph(1)).tobytes() == expected
    pool.close()
    assert descriptors(IMAGES) <= before


def test_pool_that_cannot_start_leaves_nothing_behind():
    """Fails without `end` in `DecodePool.__init__`."""
    gc.collect()
    before = descriptors(IMAGES)
    with pytest.raises(Unavailable, match="does not start"):
        DecodePool(ImageSettings(), workers=2, decode="tests.killers:nothing_of_this_name")
    assert descriptors(IMAGES) <= before


def test_signals_to_the_whole_group_leave_the_worker_to_its_pool():
    """Fails without the ignored signals in worker.main: decoders would die under a batch."""
    pool = DecodePool(ImageSettings(), workers=1)
    process = pool._all[0]._process
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    pool.decode(photograph(1))
    assert pool._all[0]._process is process
    pool.close()


def test_one_death_that_may_be_somebody_elses_fault_is_not_blamed_on_the_image(pool):
    """Fails with one attempt in place of two in DecodePool.decode."""
    for worker in pool._all:
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    expected = decode_image(photograph(5), LIMITS).tobytes()
    assert [attempt(pool, photograph(5)) for _ in range(3)] == [expected] * 3
