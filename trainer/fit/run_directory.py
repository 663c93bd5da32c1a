"""The directory of a run: one process at a time works in it, and what cannot be written is said."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from streams.errors import TrainerError

RUN: Final = "run.json"
LOCK: Final = ".lock"


@contextmanager
def held(place: Path) -> Iterator[None]:
    """Make a run's directory, and keep other processes out of it for the length of the context.

    Raises:
        TrainerError: Another process works in it, or it cannot be made.
    """
    with writing(place):
        lock = try_lock(place)
    if lock is None:
        msg = f"another fit is at work in {place}; wait until it ends, or stop it"
        raise TrainerError(msg)
    try:
        yield
    finally:
        os.close(lock)


def try_lock(place: Path) -> int | None:
    """Return a descriptor that keeps others out until it is closed; None if another has one.

    A process that ends gives its own away, however it ends.

    Raises:
        OSError: The directory cannot be made or written.
    """
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # removed just now, by a job that tidies up
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), (place / LOCK).stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:  # as above, between opening and locking
            pass
        os.close(lock)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what prevents writing into one line with the remedy.

    Raises:
        TrainerError: The disk is full, or the directory may not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        msg = (
            f"cannot write to {place} ({reason}): make room and let it be written, or choose"
            " another directory by CAPTIONSTREAM_TRAINER__DIRECTORY or --data-dir"
        )
        raise TrainerError(msg) from exc
