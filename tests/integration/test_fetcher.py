"""Fetching from real servers on this machine that behave in every way but well."""

import gzip
import http.server
import logging
import re
import socket
import ssl
import threading
from collections import Counter
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
import structlog
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import FetchFailed, InvalidUrl, SettingsError
from streams.images import network
from streams.images.fetcher import Fetcher, host_of
from streams.images.network import resolve
from streams.logs import configure_logging
from streams.settings import FetchSettings, LogSettings, Settings, child_environment

BODY = b"bytes of an image"
LIMIT = 100_000


class Handler(http.server.BaseHTTPRequestHandler):
    """What to do stands in the path."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("http://"):  # what a proxy is asked for
            path = "ok"
        name, _, argument = path.strip("/").partition("/")
        self.server.seen[self.path] += 1
        getattr(self, name)(argument)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def ok(self, _):
        self.answer(200, BODY)

    def status(self, code):
        self.answer(int(code))

    def to(self, target):
        self.answer(302, Location=target)

    def loop(self, _):
        self.answer(302, Location="/loop")

    def large(self, _):
        self.answer(200, b"x" * (LIMIT + 1))

    def plain(self, encoding):
        """As it is, whatever the header says."""
        self.answer(200, BODY, Content_Encoding=encoding)

    def wait(self, when):
        """Busy the first time; when to come again is said as seconds, or as a date."""
        if self.server.seen[self.path] > 1:
            return self.ok(when)
        self.answer(503, Retry_After=when if when.isdigit() else format_datetime(datetime.now(UTC)))

    def agent(self, _):
        self.answer(200, self.headers["User-Agent"].encode())

    def bomb(self, encodings):
        """Compressed as often as there are encodings."""
        body = b"x" * (50 * LIMIT)
        for _ in encodings.split(","):
            body = gzip.compress(body)
        self.answer(200, body, Content_Encoding=encodings)

    def endless(self, _):
        self.send_response(200)
        self.send_endless()

    def talkative(self, target):
        """A redirect whose own answer has no end."""
        self.send_response(302)
        self.send_header("Location", target)
        self.send_endless()

    def send_endless(self):
        self.end_headers()
        while not self.server.over.is_set():
            self.wfile.write(b"x" * 10_000)

    def drip(self, _):
        """A byte of a header now and then, for ever."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.over.wait(0.05):
            self.wfile.write(b"x")

    def reset(self, _):
        self.connection.close()

    def garbage(self, _):
        self.wfile.write(b"\x00\xff no HTTP at all\r\n\r\n")

    def gather(self, count):
        """Stay for a moment; who is told the answer may ask again at once and counts as one."""
        with self.server.together():
            self.server.over.wait(0.3)
        self.answer(200, count.encode())

    def log_message(self, *_):
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = Counter()
        self.over = threading.Event()
        self.most = 0
        self._here = 0
        self._lock = threading.Lock()

    @contextmanager
    def together(self):
        """Count how many are in this context at once."""
        with self._lock:
            self._here += 1
            self.most = max(self.most, self._here)
        yield
        with self._lock:
            self._here -= 1

    def handle_error(self, *_):
        """A client that has gone is what is tested."""


@contextmanager
def serving(context=None):
    with Server() as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def fetcher(max_bytes=LIMIT, resolve=resolve, context=None, **settings):
    chosen = {"allow_hosts": "localhost", "max_seconds": 20, **settings}
    return Fetcher(FetchSettings(**chosen), max_bytes=max_bytes, resolve=resolve, context=context)


def url(server, path, host="localhost"):
    return f"http://{host}:{server.server_port}/{path}"


def test_bytes_behind_a_url_and_behind_redirects(server):
    assert fetcher().fetch(url(server, "ok")) == BODY
    assert fetcher().fetch(url(server, "to//ok")) == BODY


def test_what_a_redirect_says_is_not_read(server):
    """Fails with `follow_redirects=True`: httpx reads the answer to its end, which may be none."""
    assert fetcher().fetch(url(server, "talkative//ok")) == BODY


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "127.1"])
def test_local_addresses_are_refused(server, host):
    """Fails without `is_public` in `connect_tcp`."""
    before = server.seen.total()
    with pytest.raises(InvalidUrl, match=r"not public|cannot be fetched"):
        fetcher().fetch(url(server, "ok", host))
    assert server.seen.total() == before


def test_error_does_not_tell_the_address_of_an_internal_name():
    """It stands in the document of whoever gave the URL."""
    with pytest.raises(
        InvalidUrl, match=r"db\.internal has an address that is not public"
    ) as error:
        fetcher(resolve=lambda *_: ["10.1.2.3"]).fetch("http://db.internal/x")
    assert "10.1.2.3" not in str(error.value)


def test_redirect_to_a_local_address_is_refused(server):
    target = url(server, "ok", "127.0.0.1")
    with pytest.raises(InvalidUrl, match="not public"):
        fetcher().fetch(url(server, f"to/{target}"))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("to/file:///etc/passwd", "no http or https"),
        ("to/ftp://localhost/x", "no http or https"),
        ("to/http://user:secret@localhost/x", "user's name"),
        ("loop", "redirects more than"),
        ("large", "larger than"),
        ("bomb/gzip", "the encoding 'gzip'"),
        ("bomb/gzip,gzip", "the encoding 'gzip,gzip'"),
        ("to/http://xn--/x", "Malformed A-label"),
        ("endless", "larger than"),
        ("status/404", "answers 404"),
        ("status/410", "answers 410"),
        ("status/204", "answers 204"),
    ],
)
def test_what_no_second_try_would_mend_is_final(server, path, problem):
    """Fails without `_check` in the hook, UnicodeError in `fetch`, or the looks of `_read`."""
    with pytest.raises(InvalidUrl, match=problem) as caught:
        fetcher().fetch(url(server, path))
    assert not caught.value.is_retryable
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        *(f"status/{code}" for code in (408, 425, 429, 500, 502, 503, 507, 509, *range(520, 527))),
        *("reset", "garbage", "drip"),
    ],
)
def test_what_may_pass_is_tried_again_later(server, path):
    """`drip` fails without the deadline of each read in `_DeadlineStream`."""
    with pytest.raises(FetchFailed) as caught:
        fetcher(max_seconds=0.5).fetch(url(server, path))
    assert caught.value.is_retryable


def test_nobody_listening_and_unknown_names_may_pass():
    with pytest.raises(FetchFailed):
        fetcher().fetch("http://localhost:1/x")

    def unknown(host, port):
        raise socket.gaierror

    with pytest.raises(FetchFailed, match="cannot be resolved"):
        fetcher(resolve=unknown).fetch("http://nowhere.example/x")


def test_name_server_that_does_not_answer_is_given_up():
    """Fails without `_within` in `connect_tcp`: the fetch would end when the test lets it."""
    asked = threading.Event()

    def silent(host, port):
        asked.wait(60)
        raise socket.gaierror

    with pytest.raises(FetchFailed, match="took longer"):
        fetcher(resolve=silent, max_seconds=0.3).fetch("http://slow.example/x")
    assert not asked.is_set()
    asked.set()


@pytest.mark.parametrize(
    "given",
    [
        "file:///etc/passwd",
        "gopher://localhost",
        "http://",
        "",
        "localhost/x",
        "http://[::1",
        "\x00",
        "http://xn--/x",
        f"http://{'a' * 70}.example/x",
        f"http://127.0.0.1:{'9' * 30}/x",
    ],
)
def test_what_is_no_url_of_the_web_is_refused(given):
    """Fails without `UnicodeError` in `fetch`, or without `OverflowError`."""
    with pytest.raises(InvalidUrl):
        fetcher().fetch(given)


@pytest.mark.parametrize("given", ["/images/a@2x.jpg", "images/a.jpg", "//cdn.example/a.jpg", "a"])
def test_relative_url_is_refused_as_one_and_shown_whole(given):
    """Fails without the look at `scheme` in `_fetch`, or when `_USER` takes all before an @."""
    with pytest.raises(InvalidUrl, match="is a relative URL; a document needs the whole") as error:
        fetcher().fetch(given)
    assert repr(given) in str(error.value)


#: Made once: reading the well-known authorities takes longer than all else.
TRUSTING = ssl.create_default_context()
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(host=NAMES | st.builds("xn--{}.{}".format, NAMES, NAMES), rest=NAMES)
def test_any_text_as_a_url_gives_an_error_of_its_own(host, rest):
    """Fails without `UnicodeError` in `fetch` or `host_of`."""

    def unknown(host, port):
        raise socket.gaierror

    one = fetcher(resolve=unknown, context=TRUSTING)
    for text in (f"http://{host}/{rest}", host + rest):
        assert host_of(text) == host_of(text).lower()
        with pytest.raises((FetchFailed, InvalidUrl)):
            one.fetch(text)


def test_user_names_are_refused_and_not_shown():
    with pytest.raises(InvalidUrl) as caught:
        fetcher().fetch("http://user:secret@localhost/x?key=hidden")
    assert "secret" not in str(caught.value)


def test_keys_of_a_query_are_not_shown(server):
    with pytest.raises(InvalidUrl) as caught:
        fetcher().fetch(url(server, "status/404?key=hidden"))
    assert "hidden" not in str(caught.value)


def test_name_that_changes_its_address_after_the_check_is_not_asked_again(monkeypatch):
    """Loopback for whoever asks again. Fails when `connect_tcp` resolves once more to connect."""
    asked, public = [], "192.0.2.1"  # counts as public here, and leads nowhere

    def rebinding(host, port):
        asked.append(host)
        return [public if len(asked) == 1 else "127.0.0.1"]

    monkeypatch.setattr(network, "is_public", lambda address: address == public)
    with pytest.raises(FetchFailed):
        fetcher(resolve=rebinding, max_seconds=0.5).fetch("http://rebinding.example/x")
    assert asked == ["rebinding.example"]


def test_connection_goes_to_the_address_that_was_checked(server):
    """Fails when `connect_tcp` hands the name on instead of the address."""

    def local(host, port):
        return ["127.0.0.1"]

    named = fetcher(resolve=local, allow_hosts="images.example")
    assert named.fetch(url(server, "ok", "images.example")) == BODY


def test_one_private_address_among_public_ones_is_enough_to_refuse():
    def mixed(host, port):
        return ["93.184.215.14", "10.0.0.1"]

    with pytest.raises(InvalidUrl, match="not public"):
        fetcher(resolve=mixed).fetch("http://mixed.example/x")


def test_log_holds_no_keys_of_urls(server, capfd, restored_logging):
    """Fails without httpx in `_CHATTY`."""
    configure_logging(LogSettings(), process="clip")
    logging.getLogger("here").info("logged")
    assert fetcher().fetch(url(server, "ok?key=hidden")) == BODY
    logged = capfd.readouterr().err
    assert "logged" in logged
    assert "hidden" not in logged


@pytest.fixture
def restored_logging():
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_proxy_of_the_environment_is_not_asked(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetcher().fetch(url(server, "ok")) == BODY


def test_certificate_is_verified_against_the_name():
    """Fails with `verify=False`, or without `_certificate_problem`: no waiting mends it.

    The address that is connected to stands in no certificate.
    """
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.example").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)

    def local(host, port):
        return ["127.0.0.1"]

    with serving(theirs) as secured:
        allowed = {"allow_hosts": "images.example, other.example", "resolve": local}
        good = fetcher(context=ours, **allowed)
        assert good.fetch(f"https://images.example:{secured.server_port}/ok") == BODY
        with pytest.raises(InvalidUrl, match="certificate of https://other"):
            good.fetch(f"https://other.example:{secured.server_port}/ok")
        with pytest.raises(InvalidUrl, match=r"certificate .* is not valid: unable"):
            fetcher(**allowed).fetch(f"https://images.example:{secured.server_port}/ok")


def test_ca_of_a_company_is_trusted_beside_the_well_known_ones(tmp_path):
    """Fails without `ca_file` in `_verifying`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(theirs)
    with serving(theirs) as secured:
        good = fetcher(ca_file=str(tmp_path / "ca.pem"))
        assert good.fetch(f"https://localhost:{secured.server_port}/ok") == BODY
    with pytest.raises(SettingsError, match="CAPTIONSTREAM_FETCH__CA_FILE"):
        fetcher(ca_file=str(tmp_path / "none.pem"))


@pytest.mark.parametrize(
    "encoding", ["", "identity", "none", "binary", "UTF-8", "aws-chunked", "aws-chunked,identity"]
)
def test_bytes_that_are_called_plain_are_taken(server, encoding):
    """Fails without `_PLAIN`: object stores send what the upload said."""
    assert fetcher().fetch(url(server, f"plain/{encoding}")) == BODY


def test_second_address_is_tried_where_the_first_refuses(server):
    """Fails when `connect_tcp` takes the first alone. The server listens at 127.0.0.1 only."""
    both = fetcher(resolve=lambda *_: ["127.0.0.7", "127.0.0.1"])
    assert both.fetch(url(server, "ok")) == BODY


def test_second_address_is_tried_where_the_first_is_silent(server):
    """Fails when the first may take all the time."""
    with socket.create_server(("127.0.0.7", server.server_port), backlog=1) as full:
        full.listen(0)
        with closing(socket.socket()) as one, closing(socket.socket()) as other:
            for waiting in (one, other):  # Linux answers nobody beyond its backlog
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            both = fetcher(resolve=lambda *_: ["127.0.0.7", "127.0.0.1"], max_seconds=2)
            assert both.fetch(url(server, "ok")) == BODY


def test_servers_learn_who_asks(server):
    mine = fetcher(contact="https://example.org/bot").fetch(url(server, "agent")).decode()
    assert re.fullmatch(r"captionstream/\S+ \(\+https://example.org/bot\)", mine)
    assert fetcher(user_agent="mine/1").fetch(url(server, "agent")) == b"mine/1"


def test_proxy_is_asked_for_what_may_be_fetched_and_for_nothing_else(server, monkeypatch):
    """Fails without `checked_addresses` in `_check`: the proxy connects wherever it is told to."""
    monkeypatch.setattr(network, "is_public", lambda address: address == "192.0.2.1")
    names = {"images.example": ["192.0.2.1"], "inner.example": ["192.0.2.1", "10.0.0.1"]}

    def known(host, port):
        return names.get(host) or resolve(host, port)

    proxied = fetcher(
        allow_hosts="", resolve=known, proxy=f"http://me:secret@localhost:{server.server_port}"
    )
    assert proxied.fetch("http://images.example/x") == BODY
    for refused in ("http://inner.example/x", "http://localhost/x", "http://169.254.169.254/x"):
        with pytest.raises(InvalidUrl, match="not public"):
            proxied.fetch(refused)
        assert server.seen[refused] == 0
    assert server.seen["http://images.example/x"] == 1


def test_allowed_hosts_survive_the_way_to_a_child(monkeypatch):
    settings = Settings(fetch=FetchSettings(allow_hosts="A.example, b.example"))
    for name, value in child_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings().fetch.allowed == {"a.example", "b.example"}
