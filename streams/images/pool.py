"""Worker processes that decode images. One that dies or hangs costs one image, and is replaced.

Each worker has a pipe and a file in memory of its own, so that one killed in the middle of an
answer leaves no lock held and no half message for the others. Pixels are data, never pickles.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from mmap import PROT_READ, mmap
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any, Final

from PIL import Image

from streams.errors import InvalidImage, Unavailable
from streams.settings import ImageSettings

DECODE: Final = "streams.images.image:decode_image"
_START_SECONDS: Final = 60.0
#: Memory that a worker's file keeps for the next image; new pages cost as much as the copying.
_KEPT_BYTES: Final = 8 * 1024 * 1024
#: A worker may be killed for what somebody else did (memory of the machine); twice is the image.
_ATTEMPTS: Final = 2


class DecodePool:
    """Decodes as many images at once as it has workers. Safe to call from many threads."""

    def __init__(self, limits: ImageSettings, *, workers: int, decode: str = DECODE) -> None:
        """Start the workers and wait until each answers.

        Args:
            limits: What one image may cost.
            workers: Processes, each of about 60 MB.
            decode: `module:function` that takes bytes and limits and returns an RGB image.

        Raises:
            Unavailable: A worker does not start.
        """
        self.workers = workers
        self._limits = limits
        self._decode = decode
        self._closed = False
        self._all = [_Worker(limits, decode) for _ in range(workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        try:
            for worker in self._all:
                worker.start()
            for worker in self._all:
                worker.wait_until_ready()
                self._idle.put(worker)
        except Unavailable:
            for worker in self._all:
                worker.end()
            raise

    def decode(self, data: bytes) -> Image.Image:
        """Return the RGB image, exactly as the function gave it. Waits for a free worker.

        Raises:
            InvalidImage: It cannot be decoded, or decoding killed the worker, took too long or took
                too much memory.
            Unavailable: The pool was closed, or a worker cannot be started.
        """
        worker = self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                if self._closed:
                    msg = "the decode pool is closed"
                    raise Unavailable(msg)
                if not worker.is_ready:
                    worker.restart()
                try:
                    return worker.decode(data)
                except _Died as exc:
                    died = exc
            if self._closed:
                msg = "the decode pool is closed"
                raise Unavailable(msg)
            msg = f"the decoder {died} on this image ({len(data)} bytes)"
            raise InvalidImage(msg)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill the workers, whatever they do; callers that wait get `Unavailable`."""
        if self._closed:
            return
        self._closed = True
        for worker in self._all:
            worker.kill()
        for worker in [self._idle.get() for _ in self._all]:  # no caller uses any of them now
            worker.end()  # also one that a caller has just replaced
            self._idle.put(worker)


class _Died(Exception):
    """The worker is gone; the text says of what."""


class _Worker:
    """One process with its pipe and its file. Used by one thread at a time, but for `kill`."""

    def __init__(self, limits: ImageSettings, decode: str) -> None:
        """Keep what is needed; nothing runs yet."""
        self._limits = limits
        self._decode = decode
        self._process: subprocess.Popen[bytes] | None = None
        #: What connects us to the process; closed once, whatever goes wrong.
        self._opened = ExitStack()
        self.is_ready = False

    def start(self) -> None:
        """Start the process; it is not ready yet.

        Raises:
            Unavailable: The machine has no process, memory or file descriptor left.
        """
        try:
            self._start()
        except OSError as exc:
            self.end()
            msg = f"a process that decodes images cannot be started: {exc}"
            raise Unavailable(msg) from exc

    def restart(self) -> None:
        """Replace the process.

        Raises:
            Unavailable: The new one cannot be started or does not answer.
        """
        self.end()
        self.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for its first word.

        Raises:
            Unavailable: It does not come.
        """
        try:
            self._receive(_START_SECONDS)
        except (TimeoutError, _Died) as exc:
            msg = f"a process that decodes images does not start: {exc}; its stderr says why"
            raise Unavailable(msg) from exc
        self.is_ready = True

    def decode(self, data: bytes) -> Image.Image:
        """Hand the bytes over and fetch the pixels.

        Raises:
            InvalidImage: As `DecodePool.decode`, unless the process died.
            _Died: The process died.
        """
        try:
            _write(self._shared, data)
            try:
                self._pipe.send_bytes(str(len(data)).encode())
            except OSError:
                raise self._died() from None
            reply = self._receive(self._limits.max_seconds)
            if "size" in reply:
                return self._image(*reply["size"])
        except TimeoutError:
            self.is_ready = False
            self.kill()
            msg = (
                f"decoding took longer than {self._limits.max_seconds:g} s"
                " (CAPTIONSTREAM_IMAGE__MAX_SECONDS)"
            )
            raise InvalidImage(msg) from None
        finally:
            if os.fstat(self._shared).st_size > _KEPT_BYTES:
                os.ftruncate(self._shared, 0)
        if reply["memory"]:
            msg = (
                f"decoding took more than {self._limits.max_memory_bytes} bytes of memory"
                " (CAPTIONSTREAM_IMAGE__MAX_MEMORY_BYTES)"
            )
            raise InvalidImage(msg)
        raise InvalidImage(reply["error"])

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """End the process, and close what connects us to it."""
        self.kill()
        self._opened.close()
        self.is_ready = False

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        self._opened.callback(self._pipe.close)
        with theirs:
            self._shared = os.memfd_create("captionstream-image")
            self._opened.callback(os.close, self._shared)
            numbers = (theirs.fileno(), self._shared)
            command = [sys.executable, "-m", "streams.images.decoder", *map(str, numbers)]
            self._process = subprocess.Popen(  # noqa: S603 - our own module and settings
                [*command, self._decode, self._limits.model_dump_json()],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
            )

    def _receive(self, seconds: float) -> dict[str, Any]:
        """Return the next message; messages are a few bytes, so that none comes in halves."""
        try:
            if not self._pipe.poll(seconds):
                msg = f"no answer within {seconds:g} s"
                raise TimeoutError(msg)
            message: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            raise self._died() from None
        return message

    def _died(self) -> _Died:
        self.is_ready = False
        process = self._process
        assert process is not None  # noqa: S101 - only one that was started can die
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.poll()
        if code is None or code >= 0:
            return _Died(f"ended with code {code}")
        return _Died(f"died of signal {-code} ({signal.Signals(-code).name})")

    def _image(self, width: int, height: int) -> Image.Image:
        size = width * height * 3
        held = os.fstat(self._shared).st_size
        if held < size:
            msg = f"the decoder left {held} bytes for {width} x {height} pixels"
            raise InvalidImage(msg)
        with mmap(self._shared, size, prot=PROT_READ) as pixels:
            return Image.frombytes("RGB", (width, height), pixels)  # type: ignore[arg-type] # (H, W, 3)


def _write(file: int, data: bytes) -> None:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(file, view[done:], done)
