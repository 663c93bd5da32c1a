"""From a URL to the bytes behind it, or to the error that its document carries.

Content is not judged here: whether it is an image, decoding says.
"""

import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from typing import Final

import httpx

from streams import metrics
from streams.errors import FetchFailed, InvalidUrl
from streams.fetching.network import CheckedBackend, Resolve, Transport, resolve
from streams.settings import FetchSettings

_SCHEMES: Final = frozenset({"http", "https"})
#: Answers after which it may be better later.
_PASSING: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_HEADERS: Final = {
    "user-agent": "captionstream",
    "accept": "image/*, */*;q=0.1",
    "accept-encoding": "identity",
}


class Fetcher:
    """Fetches the images of a batch side by side. Safe to call from many threads."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        max_bytes: int,
        resolve: Resolve = resolve,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Keep what is needed; nothing is connected.

        Args:
            settings: Limits.
            max_bytes: Most bytes of one image.
            resolve: Finds the addresses of a host.
            context: Verifies certificates; those of well-known authorities when None.
        """
        self._settings = settings
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._context = context or httpx.create_ssl_context(trust_env=False)
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="fetch")

    def fetch_all(self, urls: Collection[str]) -> Mapping[str, bytes | FetchFailed | InvalidUrl]:
        """Return what came of each URL; one that is given twice is fetched once.

        At most `concurrency` at once, and `per_host` of one host; a host that others redirect to
        may be asked by more. After so many timeouts of one host its other URLs fail at once: a
        silent host takes two timeouts, however many they are.
        """
        turns: dict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(self._settings.per_host)
        )
        distinct = list(dict.fromkeys(urls))
        hosts = {url: _host(url) for url in distinct}
        waiting = {url: turns[hosts[url]] for url in distinct}
        timeouts: list[str] = []

        def fetch(url: str) -> bytes | FetchFailed | InvalidUrl:
            with waiting[url]:
                if timeouts.count(hosts[url]) >= self._settings.per_host:
                    msg = f"{_shown(url)} was not fetched: its host is silent"
                    return FetchFailed(msg)
                try:
                    return self.fetch(url)
                except (FetchFailed, InvalidUrl) as exc:
                    if isinstance(exc.__cause__, httpx.TimeoutException):
                        timeouts.append(hosts[url])
                    return exc

        return dict(zip(distinct, self._threads.map(fetch, distinct), strict=True))

    def fetch(self, url: str) -> bytes:
        """Return the bytes behind a URL, after following redirects.

        Raises:
            InvalidUrl: It is no URL that may be fetched, or there is nothing of use behind it.
            FetchFailed: It may succeed later.
        """
        with metrics.FETCH_SECONDS.time():
            try:
                return self._fetch(url)
            except InvalidUrl:
                metrics.FETCH_FAILURES.labels("refused").inc()
                raise
            except FetchFailed:
                metrics.FETCH_FAILURES.labels("status").inc()
                raise
            except httpx.TimeoutException as exc:
                metrics.FETCH_FAILURES.labels("timeout").inc()
                msg = (
                    f"{_shown(url)} took longer than {self._settings.max_seconds:g} s"
                    " (CAPTIONSTREAM_FETCH__MAX_SECONDS)"
                )
                raise FetchFailed(msg) from exc
            # OverflowError: a port that is no port.
            except (
                httpx.InvalidURL,
                httpx.UnsupportedProtocol,
                UnicodeError,
                OverflowError,
            ) as exc:
                metrics.FETCH_FAILURES.labels("refused").inc()
                msg = f"{_shown(url)} cannot be fetched: {exc}"
                raise InvalidUrl(msg) from exc
            except httpx.HTTPError as exc:
                if (problem := _certificate_problem(exc)) is not None:
                    metrics.FETCH_FAILURES.labels("refused").inc()
                    msg = f"the certificate of {_shown(url)} is not valid: {problem}"
                    raise InvalidUrl(msg) from exc
                metrics.FETCH_FAILURES.labels("connection").inc()
                msg = f"{_shown(url)} cannot be fetched now: {exc}"
                raise FetchFailed(msg) from exc

    def _fetch(self, url: str) -> bytes:
        backend = CheckedBackend(
            deadline=time.monotonic() + self._settings.max_seconds,
            allow_hosts=self._settings.allowed,
            resolve=self._resolve,
        )
        client = httpx.Client(
            transport=Transport(backend, self._context),
            trust_env=False,
            timeout=self._settings.max_seconds,
            headers=_HEADERS,
            event_hooks={"request": [lambda request: _check(request.url)]},
        )
        with client:
            request = client.build_request("GET", url)
            for _ in range(self._settings.max_redirects + 1):
                with closing(client.send(request, stream=True)) as response:
                    following = response.next_request
                    if following is None:
                        return self._read(url, response)
                request = following  # httpx itself would first read what the redirect says
        msg = (
            f"{_shown(url)} redirects more than {self._settings.max_redirects} times"
            " (CAPTIONSTREAM_FETCH__MAX_REDIRECTS)"
        )
        raise InvalidUrl(msg)

    def _read(self, url: str, response: httpx.Response) -> bytes:
        """Return the body. One that is compressed is refused: a few bytes may stand for many."""
        if response.status_code != HTTPStatus.OK:
            msg = f"{_shown(url)} answers {response.status_code} {response.reason_phrase}"
            raise (FetchFailed if response.status_code in _PASSING else InvalidUrl)(msg)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            msg = f"{_shown(url)} answers in the encoding {encoding[:40]!r}, which nobody asked for"
            raise InvalidUrl(msg)
        data = bytearray()
        for chunk in response.iter_raw(1 << 16):
            data += chunk
            if len(data) > self._max_bytes:
                msg = (
                    f"{_shown(url)} is larger than {self._max_bytes} bytes"
                    " (CAPTIONSTREAM_IMAGE__MAX_BYTES)"
                )
                raise InvalidUrl(msg)
        return bytes(data)


def _check(url: httpx.URL) -> None:
    """Checked for the first URL and for every redirect."""
    if url.scheme not in _SCHEMES or not url.host:
        msg = f"{_shown(str(url))} is no http or https URL"
        raise InvalidUrl(msg)
    if url.userinfo:
        msg = f"the URL of {url.host} holds a user's name; images are fetched without users"
        raise InvalidUrl(msg)


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host.lower()
    except (httpx.InvalidURL, UnicodeError):
        return ""


def _certificate_problem(error: BaseException | None) -> str | None:
    """Return what is wrong with the server's certificate; waiting would not mend it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error.verify_message if error is not None else None


def _shown(url: str) -> str:
    """Return what a message may show: no query, which may hold a key, and not much."""
    return url.partition("?")[0].rpartition("@")[2][:200]
