"""Decoders that do what hostile images do to real ones. The first bytes say what."""

import os
import signal
import time

import numpy as np

from streams.images.image import decode_image


def decode(value, limits):
    if value == b"segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if value == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if value == b"exit":
        os._exit(3)
    if value == b"hang":
        time.sleep(1e9)
    if value == b"memory":
        np.ones(10_000_000_000, np.uint8)
    return decode_image(value, limits)
