"""Connections to MongoDB as long as there is none."""

import pytest
from dns.resolver import NoNameservers

from streams.errors import StoreUnavailable
from streams.mongo import cluster_time, connect
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
