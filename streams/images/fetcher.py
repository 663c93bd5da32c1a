"""From a URL to the bytes behind it, or to the error that its document carries.

Content is not judged here: whether it is an image, decoding says.
"""

import re
import ssl
import time
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

import httpcore
import httpx

from streams import metrics
from streams.errors import FetchFailed, InvalidUrl, SettingsError
from streams.images.network import CheckedBackend, Resolve, Transport, resolve
from streams.settings import FetchSettings

_SCHEMES: Final = frozenset({"http", "https"})
#: Answers below 500 after which it may be better later; above, all may be.
_PASSING: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
#: What servers call bytes that are as they are; object stores keep what an upload said.
_PLAIN: Final = frozenset({"", "identity", "none", "binary", "utf-8", "utf8", "aws-chunked"})
#: The user of a URL, which may come with a password.
_USER: Final = re.compile(r"^([A-Za-z][\w+.-]*://|//)[^/?#]*@")
_SHOWN: Final = 200


class Fetcher:
    """Fetches one image at a time. Safe to call from many threads."""

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
            settings: Limits, and how we come to the servers.
            max_bytes: Most bytes of one image.
            resolve: Finds the addresses of a host.
            context: Verifies certificates; when None, those of well-known authorities and of the
                setting `ca_file`.

        Raises:
            SettingsError: `ca_file` cannot be read.
        """
        self._settings = settings
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._context = context or _verifying(settings.ca_file)
        proxy = settings.proxy
        self._proxy = httpx.Proxy(proxy.get_secret_value()) if proxy is not None else None
        name = f"captionstream/{version('captionstream')}"
        contact = f" (+{settings.contact})" if settings.contact else ""
        self._headers = {
            "user-agent": settings.user_agent or f"{name}{contact}",
            "accept": "image/*, */*;q=0.1",
            "accept-encoding": "identity",
        }

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
                    f"{shown(url)} took longer than {self._settings.max_seconds:g} s"
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
                msg = f"{shown(url)} cannot be fetched: {exc}"
                raise InvalidUrl(msg) from exc
            except httpx.HTTPError as exc:
                if (problem := _certificate_problem(exc)) is not None:
                    metrics.FETCH_FAILURES.labels("refused").inc()
                    msg = f"the certificate of {shown(url)} is not valid: {problem}"
                    raise InvalidUrl(msg) from exc
                metrics.FETCH_FAILURES.labels("connection").inc()
                msg = f"{shown(url)} cannot be fetched now: {exc}"
                raise FetchFailed(msg) from exc

    def _fetch(self, url: str) -> bytes:
        if not httpx.URL(url).scheme:
            msg = (
                f"{shown(url)!r} is a relative URL; a document needs the whole one, which begins"
                " with https:// or http:// and names the host"
            )
            raise InvalidUrl(msg)
        backend = CheckedBackend(
            deadline=time.monotonic() + self._settings.max_seconds,
            allow_hosts=self._settings.allowed,
            resolve=self._resolve,
            proxy=self._proxy.url.host if self._proxy is not None else None,
        )
        client = httpx.Client(
            transport=Transport(backend, self._context, self._proxy),
            trust_env=False,
            timeout=self._settings.max_seconds,
            headers=self._headers,
            event_hooks={"request": [lambda request: self._check(request.url, backend)]},
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
            f"{shown(url)} redirects more than {self._settings.max_redirects} times"
            " (CAPTIONSTREAM_FETCH__MAX_REDIRECTS)"
        )
        raise InvalidUrl(msg)

    def _check(self, url: httpx.URL, backend: CheckedBackend) -> None:
        """Checked for the first URL and for every redirect."""
        if url.scheme not in _SCHEMES or not url.host:
            msg = f"{shown(str(url))} is no http or https URL"
            raise InvalidUrl(msg)
        if url.userinfo:
            msg = f"the URL of {url.host} holds a user's name; images are fetched without users"
            raise InvalidUrl(msg)
        if self._proxy is not None:  # the proxy connects, so what it will connect to is checked now
            try:
                backend.checked_addresses(url.host, url.port or 0)
            except httpcore.ConnectError as exc:
                raise httpx.ConnectError(str(exc)) from exc
            except httpcore.TimeoutException as exc:
                raise httpx.ConnectTimeout(str(exc)) from exc

    def _read(self, url: str, response: httpx.Response) -> bytes:
        """Return the body. One that is compressed is refused: a few bytes may stand for many."""
        status = response.status_code
        if status != HTTPStatus.OK:
            msg = f"{shown(url)} answers {status} {response.reason_phrase[:40]}"
            if status not in _PASSING and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise InvalidUrl(msg)
            error = FetchFailed(msg)
            error.retry_after_seconds = _seconds(response.headers.get("retry-after", ""))
            raise error
        encoding = response.headers.get("content-encoding", "")
        if not {part.strip().lower() for part in encoding.split(",")} <= _PLAIN:
            msg = f"{shown(url)} answers in the encoding {encoding[:40]!r}, which nobody asked for"
            raise InvalidUrl(msg)
        data = bytearray()
        for chunk in response.iter_raw(1 << 16):
            data += chunk
            if len(data) > self._max_bytes:
                msg = (
                    f"{shown(url)} is larger than {self._max_bytes} bytes"
                    " (CAPTIONSTREAM_IMAGE__MAX_BYTES)"
                )
                raise InvalidUrl(msg)
        return bytes(data)


def _verifying(ca_file: str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as exc:  # ssl.SSLError is one
            msg = f"CAPTIONSTREAM_FETCH__CA_FILE={ca_file} cannot be read: {exc}"
            raise SettingsError(msg) from exc
    return context


def _seconds(retry_after: str) -> float | None:
    """Return what a Retry-After says, as seconds from now; None for nothing of use."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def host_of(url: str) -> str:
    """Return the host of a URL in lower case; "" where there is none."""
    try:
        return httpx.URL(url).host.lower()
    except (httpx.InvalidURL, UnicodeError):
        return ""


def _certificate_problem(error: BaseException | None) -> str | None:
    """Return what is wrong with the server's certificate; waiting does not help."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error.verify_message if error is not None else None


def shown(url: str) -> str:
    """Return what a message may show: no user and no query, which may hold a key, and not much."""
    return _USER.sub(r"\1", url.partition("?")[0])[:_SHOWN]
