"""Connections for one fetch: to checked addresses only, and none beyond its deadline.

A name is resolved once, its addresses are checked, and the connection goes to the very address that
was checked: a name server that answers otherwise the second time is not asked a second time.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import httpcore
import httpx
from structlog import get_logger

from streams.errors import InvalidUrl
from streams.images.addresses import is_public

log = get_logger(__name__)

Resolve = Callable[[str, int], list[str]]
"""From host and port to addresses; raises OSError when there are none."""


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system resolves it.

    Raises:
        OSError: The name is not known, or no name server answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Transport(httpx.HTTPTransport):
    """httpx's transport over connections of ours."""

    def __init__(
        self, backend: httpcore.NetworkBackend, context: ssl.SSLContext, proxy: httpx.Proxy | None
    ) -> None:
        """Make a transport for one fetch.

        Args:
            backend: Makes the connections.
            context: Verifies certificates, against the names in the URLs.
            proxy: What all requests go through, if anything.
        """
        super().__init__(verify=context, trust_env=False)
        # httpx has no argument for it; a test notices when the attribute gets another name.
        if proxy is None:
            self._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=backend)
        else:
            self._pool = httpcore.HTTPProxy(
                proxy_url=httpcore.URL(str(proxy.url)),
                proxy_auth=proxy.raw_auth,
                ssl_context=context,
                proxy_ssl_context=context if proxy.url.scheme == "https" else None,
                network_backend=backend,
            )


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to public addresses, and to hosts that are opened by name."""

    def __init__(
        self,
        *,
        deadline: float,
        allow_hosts: Collection[str],
        resolve: Resolve = resolve,
        proxy: str | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            deadline: When everything is over, on the monotonic clock.
            allow_hosts: Names, in lower case, whose addresses are not checked.
            resolve: Finds addresses.
            proxy: Host of the operator's proxy, which all connections go to: it is not checked.
        """
        self._deadline = deadline
        self._proxy = proxy
        self._allow_hosts = allow_hosts
        self._resolve = resolve
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of the host that answers, if all may be connected to.

        Raises:
            InvalidUrl: One of them may not.
            UnicodeError: The host is no name at all.
            httpcore.ConnectError: The name has no address, or nobody listens at any of them.
            httpcore.ConnectTimeout: The time is over.
        """
        if host == self._proxy:
            addresses = self._addresses(host, port, timeout)
        else:
            addresses = self.checked_addresses(host, port, timeout)
        error: Exception = httpcore.ConnectError(f"the name {host} has no address")
        for tried, address in enumerate(addresses):
            # The first may be silent: each has its share of the time.
            share = _left(self._deadline, timeout) / (len(addresses) - tried)
            try:
                stream = self._plain.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                error = exc
            else:
                return _DeadlineStream(stream, self._deadline)
        raise error

    def checked_addresses(self, host: str, port: int, timeout: float | None = None) -> list[str]:
        """Return the addresses of a host, each of which may be connected to.

        Raises:
            InvalidUrl, UnicodeError, httpcore.ConnectError, httpcore.ConnectTimeout: As
                `connect_tcp`.
        """
        addresses = self._addresses(host, port, timeout)
        if host.lower().rstrip(".") in self._allow_hosts:
            return addresses
        for address in addresses:
            if not is_public(address):
                # The error stands in the document of whoever asked; our names are not for them.
                log.warning("host is not public", host=host, address=address)
                msg = (
                    f"{host} has an address that is not public; open it with"
                    " CAPTIONSTREAM_FETCH__ALLOW_HOSTS if it is yours"
                )
                raise InvalidUrl(msg)
        return addresses

    def _addresses(self, host: str, port: int, timeout: float | None) -> list[str]:
        try:
            return _within(_left(self._deadline, timeout), lambda: self._resolve(host, port))
        except OSError as exc:
            msg = f"the name {host} cannot be resolved: {exc}"
            raise httpcore.ConnectError(msg) from exc

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        """Refuse.

        Raises:
            InvalidUrl: Always.
        """
        msg = "a URL of a document cannot lead to a socket of this machine"
        raise InvalidUrl(msg)


class _DeadlineStream(httpcore.NetworkStream):
    """Every read and write ends at the deadline: a peer that sends a byte now and then does not."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(
            ssl_context, server_hostname, _left(self._deadline, timeout)
        )
        return _DeadlineStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _within(seconds: float, action: Callable[[], list[str]]) -> list[str]:
    """Return what `action` returns; the system's resolver knows no limit of time.

    Raises:
        httpcore.ConnectTimeout: The time is over; the thread is left to end by itself.
    """
    found: Future[list[str]] = Future()

    def run() -> None:
        try:
            found.set_result(action())
        except Exception as exc:  # any error is the caller's
            found.set_exception(exc)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    try:
        return found.result(seconds)
    except FutureTimeout as exc:
        msg = "no name server answered in time"
        raise httpcore.ConnectTimeout(msg) from exc


def _left(deadline: float, timeout: float | None) -> float:
    """Return how long one operation may take.

    Raises:
        httpcore.TimeoutException: The time is over.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        msg = "the time for the whole fetch is over"
        raise httpcore.ReadTimeout(msg)
    return left if timeout is None else min(left, timeout)
