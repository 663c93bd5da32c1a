"""What a process answers over HTTP."""

import json
import socket
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from streams import metrics
from streams.endpoints import Answers, Check, serve_endpoints
from streams.errors import SettingsError
from streams.settings import HttpSettings


@pytest.fixture
def served():
    checks = {"health": Check(is_ok=True), "ready": Check(is_ok=False, reason="loading")}
    answers = Answers(health=lambda: checks["health"], readiness=lambda: checks["ready"])
    endpoints = serve_endpoints(HttpSettings(), answers)
    yield endpoints, checks
    endpoints.close()


def get(url):
    try:
        with urllib.request.urlopen(url) as reply:  # noqa: S310 - our own server
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_checks_answer_200_or_503_with_the_reason(served):
    endpoints, checks = served
    assert get(f"{endpoints.url}/healthz")[0] == 200
    status, body = get(f"{endpoints.url}/readyz")
    assert (status, json.loads(body)) == (503, {"ok": False, "reason": "loading"})
    checks["health"] = Check(is_ok=False, reason="stuck")
    assert get(f"{endpoints.url}/healthz")[0] == 503


def test_who_answers_is_replaced_as_the_process_comes_up():
    """Fails when the server keeps the functions that it was started with."""
    answers = Answers(
        health=lambda: Check(is_ok=True),
        readiness=lambda: Check(is_ok=False, reason="waits for MongoDB"),
    )
    endpoints = serve_endpoints(HttpSettings(), answers)
    try:
        assert "waits for MongoDB" in get(f"{endpoints.url}/readyz")[1]
        answers.readiness = lambda: Check(is_ok=True)
        answers.health = lambda: Check(is_ok=False, reason="broken")
        assert [get(f"{endpoints.url}/{name}")[0] for name in ("readyz", "healthz")] == [200, 503]
    finally:
        endpoints.close()


def test_metrics_are_served(served):
    metrics.DOCUMENTS.labels("sink", "done").inc(0)
    status, body = get(f"{served[0].url}/metrics")
    assert status == 200
    assert "# TYPE captionstream_documents_total counter" in body


@pytest.fixture
def everywhere():
    """Serve on all addresses, with settings of their own."""
    with ExitStack() as opened:

        def serve(**settings):
            settings = HttpSettings(host="0.0.0.0", **settings)  # noqa: S104 - a moment
            ok = Check(is_ok=True)
            made = serve_endpoints(settings, Answers(health=lambda: ok, readiness=lambda: ok))
            opened.callback(made.close)
            return made.url

        yield serve


@pytest.mark.parametrize("own", ["127.0.0.1", "127.0.1.1", "192.0.2.1"])
def test_url_of_all_addresses_leads_here_or_there_is_none(everywhere, monkeypatch, own):
    """Fails when the bound address is reported: all containers have http://0.0.0.0:PORT.

    A name may lead to the loopback, which others cannot reach, or to another machine.
    """
    assert (url := everywhere()) == "" or get(f"{url}/healthz")[0] == 200
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", (own, 0))])
    assert everywhere() == ""


@pytest.mark.parametrize(
    ("host", "start"),
    [("captions.internal", "http://captions.internal:"), ("::1", "http://[::1]:")],
)
def test_advertised_host_is_reported(everywhere, host, start):
    assert everywhere(advertised_host=host).startswith(start)


def test_other_paths_are_not_found(served):
    assert get(f"{served[0].url}/etc/passwd")[0] == 404


def test_taken_port_names_the_setting(served):
    port = int(served[0].url.rsplit(":", 1)[1])
    with pytest.raises(SettingsError, match="CAPTIONSTREAM_HTTP__PORT"):
        serve_endpoints(HttpSettings(port=port), Answers(health=Check, readiness=Check))
