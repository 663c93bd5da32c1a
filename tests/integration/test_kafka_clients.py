"""Clients that find a broker are the caller's to close, as ever."""

import threading

from streams.kafka.topics import connect_admin
from streams.settings import KafkaSettings


def test_connected_client_works_until_it_is_closed(kafka):
    """Fails without `pop_all` in `open_client`: it comes with a closed network."""
    before = set(threading.enumerate())
    admin = connect_admin(KafkaSettings(bootstrap_servers=kafka))
    assert set(threading.enumerate()) > before
    assert isinstance(admin.list_topics(), list)
    admin.close()
    assert set(threading.enumerate()) <= before
