"""Whose turn it is to be fetched, of real servers on this machine."""

from concurrent.futures import wait

import pytest

from streams.errors import FetchFailed, InvalidUrl
from streams.images import turns
from streams.images.turns import FetchQueue
from streams.settings import FetchSettings
from tests.integration.test_fetcher import BODY, fetcher, server, serving, url
from tests.waiting import DEADLINE_SECONDS

__all__ = ["server"]

LOCAL = {"resolve": lambda *_: ["127.0.0.1"], "allow_hosts": "localhost,other.localhost"}


def queue(**settings):
    chosen = {"concurrency": 6, "per_host": 2, **settings}
    limits = {name: chosen[name] for name in ("concurrency", "per_host")}
    return FetchQueue(fetcher(**LOCAL, **settings), FetchSettings(**limits))


def results(futures):
    _, pending = wait(futures, DEADLINE_SECONDS)
    assert not pending
    return [future.result() for future in futures]


def test_each_url_gets_its_bytes_or_its_error(server):
    fetches = queue()
    found = results([fetches.start(url(server, path)) for path in ("ok", "status/404")])
    assert found[0] == BODY
    assert isinstance(found[1], InvalidUrl)


def test_one_host_is_not_asked_for_more_at_once_than_allowed():
    """Fails without `turns` of a host."""
    with serving() as own:
        fetches = queue()
        results([fetches.start(url(own, f"gather/{number}")) for number in range(6)])
        assert own.most == 2


def test_silent_host_is_left_alone_and_the_others_are_not(server):
    """Fails without `is_silent`: each of the twenty would be asked."""
    with serving() as silent:
        fetches = queue(max_seconds=1)
        urls = [url(silent, f"drip?{number}") for number in range(10)]
        first = [fetches.start(one) for one in urls]
        other = fetches.start(url(server, "ok", host="other.localhost"))
        found = results(first)
        again = results([fetches.start(one) for one in urls])  # a later batch
    assert sum("took longer" in str(one) for one in found) <= 4, "two at once, twice"
    assert all(isinstance(one, FetchFailed) for one in [*found, *again])
    assert all("its host is silent" in str(one) for one in again)
    assert results([other]) == [BODY]


def test_image_that_nobody_has_taken_yet_keeps_others_from_memory(server):
    """Fails without the look at `_images`: what is fetched would pile up before a slow model."""
    fetches = queue(concurrency=1)
    first = fetches.start(url(server, "ok?first"))
    assert results([first]) == [BODY]
    second = fetches.start(url(server, "ok?second"))
    wait([second], 0.3)
    assert server.seen["/ok?second"] == 0
    del first
    assert results([second]) == [BODY]


@pytest.mark.parametrize("when", ["1", "date"])
def test_server_that_says_when_to_come_again_is_asked_then(when):
    with serving() as own:
        assert results([queue().start(url(own, f"wait/{when}"))]) == [BODY]
        assert own.seen.total() == 2


def test_server_that_wants_to_be_left_alone_for_long_is():
    """Fails without `_not_before`: the second would be asked."""
    with serving() as own:
        fetches = queue(per_host=1)
        found = results([fetches.start(url(own, f"wait/3600?{number}")) for number in range(2)])
        assert own.seen.total() == 1
    assert found[0].retry_after_seconds == 3600
    assert "asks to be left alone, for 3" in str(found[1])


def test_who_gets_no_turn_in_time_is_to_ask_again(monkeypatch):
    """Fails without `timeout_at` in `_once`: an event would be held for as long as others take."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.2)
    with serving() as own:
        fetches = queue(per_host=1)
        running = fetches.start(url(own, "drip"))
        assert results([fetches.start(url(own, "ok"))]) == [None]
        assert not running.done()
        assert own.seen["/ok"] == 0
