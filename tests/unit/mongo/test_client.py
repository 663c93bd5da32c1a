"""Connections to MongoDB as long as there is none."""

import pytest
from dns.resolver import NoNameservers
from pymongo.errors import AutoReconnect, OperationFailure

from streams.errors import StoreRefuses, StoreUnavailable
from streams.mongo.client import cluster_time, connect, mongo_errors
from streams.settings import MongoSettings


def test_a_moment_without_dns_is_waited_for(monkeypatch):
    """Fails without `connect=False` in `_client`: a SettingsError, which ends the process."""
    asked = []

    def resolve(name, *_, **__):
        asked.append(name)
        raise NoNameservers

    monkeypatch.setattr("dns.resolver.resolve", resolve)
    with connect(MongoSettings(uri="mongodb+srv://cluster.example.org/")) as client:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="that its host can be resolved"):
                cluster_time(client)
    assert asked == ["_mongodb._tcp.cluster.example.org"] * 2


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (AutoReconnect("connection refused"), StoreUnavailable, "replica set has a primary"),
        (OperationFailure("stepped down", 189), StoreUnavailable, "replica set has a primary"),
        (OperationFailure("not authorized", 13), StoreRefuses, "`captionstream roles`"),
        (OperationFailure("n is a view", 166), StoreRefuses, "name a collection, no view"),
        (OperationFailure("too many " * 999, 67), StoreRefuses, "it does not pass by itself"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_passes_is_told_apart_from_what_does_not(error, kind, remedy):
    """Fails without `passes`: everything was a replica set without a primary."""
    with pytest.raises(StoreUnavailable, match=f"while counting: .*{remedy}") as caught:
        with mongo_errors("counting"):
            raise error
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 700
