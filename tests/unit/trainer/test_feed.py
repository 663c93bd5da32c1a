"""The demo's view of its captions when MongoDB is away."""

import threading

import pytest
from pymongo import MongoClient

from streams.errors import StoreUnavailable
from tests.waiting import wait_until
from trainer.demo.feed import Feed


@pytest.fixture
def feed():
    """A feed of a MongoDB that is not there."""
    with MongoClient("mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=50) as client:
        yield Feed(client["captions"]["documents"])


def test_captions_that_cannot_be_watched_end_the_demo(feed):
    """Fails without the `done` callback in `watching`: it waited for ever."""
    raised = []

    def watch():
        with pytest.raises(StoreUnavailable, match="watching captions") as caught, feed.watching():
            pass
        raised.append(caught.value)

    threading.Thread(target=watch, daemon=True).start()
    wait_until(lambda: raised, 60, doing="the failure")


def test_captions_that_are_watched_no_longer_are_told_at_the_end(feed, monkeypatch):
    """Fails without the last `result` in `watching`."""
    goes = threading.Event()

    def watch(ready):
        ready.set()
        goes.wait()
        raise StoreUnavailable

    monkeypatch.setattr(feed, "_watch", watch)
    with pytest.raises(StoreUnavailable), feed.watching():
        goes.set()
