"""When each URL is fetched: so many at once, so many of one host, none of a host that is silent.

Knows nothing about documents. Callers do not wait here: they get a future.
"""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final
from weakref import WeakSet

import httpx

from streams.backoff import Backoff
from streams.errors import FetchFailed, InvalidUrl
from streams.images.fetcher import Fetcher, host_of, shown
from streams.settings import FetchSettings

Fetched = bytes | FetchFailed | InvalidUrl | None
"""What came of a URL; None: its turn did not come, ask again."""

#: How often a URL is asked for whose server answers, or refuses, with what may pass.
_ATTEMPTS: Final = 3
_AGAIN: Final = Backoff(0.2, 1.0)
_LOOK_SECONDS: Final = 0.02
#: Longest wait for a turn. Whoever holds an event for so long puts it back, and others come first.
TURN_SECONDS: Final = 30.0
#: How long a silent host is left alone; longer with every further timeout.
_SILENCE: Final = Backoff(30.0, 600.0)
#: Hosts that are remembered; the others begin anew.
_MOST_HOSTS: Final = 10_000


class FetchQueue:
    """Fetches URLs in their turn, in threads of its own. Safe to call from many threads."""

    def __init__(self, fetcher: Fetcher, settings: FetchSettings) -> None:
        """Start the thread that gives turns; it ends with the process."""
        self._fetcher = fetcher
        self._per_host = settings.per_host
        self._most = settings.concurrency
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="fetch")
        self._running = asyncio.Semaphore(settings.concurrency)
        self._hosts: dict[str, _Host] = {}
        #: Futures with an image that somebody still holds: so many images are in memory.
        self._images: WeakSet[Future[Fetched]] = WeakSet()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="fetch-turns", daemon=True).start()

    def start(self, url: str) -> Future[Fetched]:
        """Return what will come of a URL.

        At most `concurrency` are fetched at once, and `per_host` of one host; a host that others
        redirect to may be asked by more. No more are fetched while the images of so many are held
        by callers. After as many timeouts a host is silent: its URLs fail at once for a while. A
        server that says when to come again (Retry-After) is not asked before.
        """
        future: Future[Fetched] = Future()

        async def run() -> None:
            try:
                found = await self._in_turn(url)
            except Exception as exc:  # a fault of ours; whoever waits must not wait for ever
                future.set_exception(exc)
                return
            if isinstance(found, bytes):
                self._images.add(future)
            future.set_result(found)

        asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future

    async def _in_turn(self, url: str) -> Fetched:
        name = host_of(url)
        host = self._hosts.setdefault(name, _Host(self._per_host))
        host.users += 1
        try:
            until = self._loop.time() + TURN_SECONDS
            found = await self._once(url, host, until)
            for attempt in range(1, _ATTEMPTS):
                if not host.is_worth_another(found):
                    break
                await asyncio.sleep(_AGAIN.jittered(attempt))
                found = await self._once(url, host, until) or found
            return found
        finally:
            host.users -= 1
            self._forget()

    async def _once(self, url: str, host: "_Host", until: float) -> Fetched:
        """Wait for the turn, until a time of the loop, and fetch."""
        try:
            async with asyncio.timeout_at(until) as waiting, host.turns:
                while (seconds := host.rest_seconds) > 0:
                    if host.is_silent or seconds > TURN_SECONDS:
                        return FetchFailed(f"{shown(url)} was not fetched: {host.describe()}")
                    await asyncio.sleep(seconds)
                async with self._running:
                    while len(self._images) >= self._most:
                        await asyncio.sleep(_LOOK_SECONDS)
                    waiting.reschedule(None)
                    found = await self._loop.run_in_executor(self._threads, self._fetch, url)
                    host.note(found)
                    return found
        except TimeoutError:
            return None

    def _fetch(self, url: str) -> Fetched:
        try:
            return self._fetcher.fetch(url)
        except (FetchFailed, InvalidUrl) as exc:
            return exc

    def _forget(self) -> None:
        if len(self._hosts) > _MOST_HOSTS:
            self._hosts = {name: host for name, host in self._hosts.items() if host.users}


class _Host:
    """What is known of one host."""

    def __init__(self, per_host: int) -> None:
        self.users = 0
        self.turns = asyncio.Semaphore(per_host)
        self._patience = per_host
        self._timeouts = 0
        self._not_before = 0.0

    @property
    def rest_seconds(self) -> float:
        """How long it is not to be asked."""
        return self._not_before - time.monotonic()

    @property
    def is_silent(self) -> bool:
        """Whether it is left alone because it does not answer."""
        return self._timeouts >= self._patience

    def describe(self) -> str:
        """Say why it is left alone."""
        why = "its host is silent" if self.is_silent else "its server asks to be left alone"
        return f"{why}, for {self.rest_seconds:.0f} s more"

    def note(self, found: Fetched) -> None:
        """Learn from what came of a fetch."""
        now = time.monotonic()
        if not _is_timeout(found):
            if self.is_silent:
                self._not_before = now
            self._timeouts = 0
            if isinstance(found, FetchFailed) and found.retry_after_seconds:
                self._not_before = now + found.retry_after_seconds
        elif self.rest_seconds <= 0:  # those that were under way say nothing new
            self._timeouts += 1
            if self.is_silent:
                self._not_before = now + _SILENCE.pause(1 + self._timeouts - self._patience)

    def is_worth_another(self, found: Fetched) -> bool:
        """Whether the same URL is to be asked for again at once, or as soon as the server wants."""
        is_soon = not self.is_silent and self.rest_seconds <= TURN_SECONDS
        return isinstance(found, FetchFailed) and not _is_timeout(found) and is_soon


def _is_timeout(found: Fetched) -> bool:
    return isinstance(found, FetchFailed) and isinstance(found.__cause__, httpx.TimeoutException)
