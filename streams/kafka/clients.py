"""Clients of kafka-python that leave nothing behind when no broker answers."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, TypeVar

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from streams.kafka.security import broker_unavailable, client_arguments
from streams.settings import KafkaSettings

Client = TypeVar("Client")


def open_client(client: Callable[..., Client], settings: KafkaSettings, **options: Any) -> Client:
    """Return a connected client; the caller closes it. Nothing is left open when it fails.

    Args:
        client: A class of kafka-python.
        settings: Where the broker is.
        options: More arguments of the class.

    Raises:
        BrokerUnavailable: The broker does not answer.
        SettingsError: A certificate file is missing or wrong.
    """
    with ExitStack() as failed:

        def network(**configuration: Any) -> KafkaNetClient:
            return failed.enter_context(closing(KafkaNetClient(**configuration)))

        try:
            # It opens the network, with a thread, before it looks for a broker; when none answers,
            # it leaves both to whoever has made the network.
            connected = client(**client_arguments(settings), kafka_client=network, **options)
        except (KafkaError, OSError) as exc:
            raise broker_unavailable(settings, exc) from exc
        failed.pop_all()  # the client's own `close` closes it
    return connected
