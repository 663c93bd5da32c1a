"""One process that decodes images, one after the other, until its pipe is closed.

A request is the count of bytes that stand in the shared file; the reply says how large the RGB
image is that stands there now, or why there is none. Knows nothing about models or documents.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection

from PIL import Image

from streams.errors import InvalidImage
from streams.settings import ImageSettings

Decode = Callable[[object, ImageSettings], Image.Image]
#: The pool gives up first, and says so; this is for a worker whose parent has died.
_MARGIN_SECONDS = 5.0


def main(arguments: list[str]) -> None:
    """Serve requests until the other end of the pipe is closed.

    Args:
        arguments: File number of the pipe, of the shared file, `module:function` that decodes, and
            the settings of images as JSON.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the pool ends us; a terminal must not
        signal.signal(ignored, signal.SIG_IGN)
    pipe, shared, name, settings = arguments
    limits = ImageSettings.model_validate_json(settings)
    module, function = name.split(":")
    decode: Decode = getattr(import_module(module), function)
    resource.setrlimit(resource.RLIMIT_AS, (limits.max_memory_bytes, limits.max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(int(pipe)) as connection:
        connection.send_bytes(b"{}")
        try:
            while True:
                size = int(connection.recv_bytes())
                signal.setitimer(signal.ITIMER_REAL, limits.max_seconds + _MARGIN_SECONDS)
                reply = _serve(int(shared), size, decode, limits)
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send_bytes(json.dumps(reply).encode())
        except (EOFError, ConnectionError):
            return


def _serve(shared: int, size: int, decode: Decode, limits: ImageSettings) -> dict[str, object]:
    """Put the pixels in place of the encoded bytes; return their size or the error."""
    try:
        image = decode(_read(shared, size), limits)
        pixels = memoryview(image.tobytes())  # (H, W, 3)
        written = 0
        while written < len(pixels):
            written += os.pwrite(shared, pixels[written:], written)
    except InvalidImage as exc:
        # Pillow and numpy may turn the failed allocation into any other error.
        return {"error": str(exc), "memory": isinstance(exc.__cause__, MemoryError)}
    except MemoryError:
        return {"error": "", "memory": True}
    return {"size": image.size}


def _read(shared: int, size: int) -> bytes:
    os.lseek(shared, 0, os.SEEK_SET)
    with os.fdopen(os.dup(shared), "rb", buffering=0) as file:
        data = file.read(size)
    if data is None or len(data) != size:
        msg = f"the shared file does not hold {size} bytes"
        raise OSError(msg)
    return data


if __name__ == "__main__":
    main(sys.argv[1:])
