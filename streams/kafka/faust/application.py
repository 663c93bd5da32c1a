"""The Faust application of a stage: the settings that lost nothing under SIGKILL."""

from collections.abc import Awaitable
from typing import Any, Final

import faust

from streams.kafka.faust.overrides import App, PromptTransport
from streams.kafka.security import client_arguments
from streams.kafka.topics import group_name
from streams.settings import KafkaSettings

#: Longest produce request: vectors of one batch, with room.
_MAX_REQUEST_BYTES: Final = 8 << 20
#: A consumer that does not fetch for its poll interval leaves the group, and never joins again:
#: aiokafka waits for a fetch first, and Faust fetches nothing while it joins. A stage fetches
#: nothing while it holds a batch, for as long as a neighbour is away. Who hangs is found by
#: `/healthz`, so the interval has no end (1,000 years).
_NEVER_SECONDS: Final = 3e10


def build_app(name: str, kafka: KafkaSettings) -> faust.App:
    """Return the Faust application of a stage; its id is the consumer group."""
    servers = ";".join(f"kafka://{server}" for server in kafka.bootstrap_servers.split(","))
    app = App(
        group_name(name, kafka),
        broker=servers,
        broker_credentials=credentials(kafka),
        store="memory://",
        broker_session_timeout=kafka.session_timeout_seconds,
        broker_heartbeat_interval=kafka.session_timeout_seconds / 5,
        broker_rebalance_timeout=max(60.0, 2 * kafka.session_timeout_seconds),
        broker_max_poll_interval=_NEVER_SECONDS,
        broker_request_timeout=max(kafka.request_timeout_seconds, kafka.session_timeout_seconds),
        broker_commit_interval=0.5,
        broker_commit_every=512,  # else every interval; what is in between may come twice
        broker_max_poll_records=256,
        consumer_max_fetch_size=1 << 20,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,
        stream_publish_on_commit=False,
        stream_recovery_delay=0.0,
        producer_acks=-1,
        producer_linger=0.005,
        producer_request_timeout=kafka.request_timeout_seconds,
        producer_max_request_size=_MAX_REQUEST_BYTES,
        key_serializer="raw",
        value_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        agent_supervisor="mode.CrashingSupervisor",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    app.transport = PromptTransport(app, fetch_wait_seconds=kafka.fetch_wait_seconds)
    return app


def credentials(kafka: KafkaSettings) -> Any:
    """Return how Faust proves who it is and checks the broker; None without TLS and user.

    Raises:
        SettingsError: A certificate file is missing or wrong.
    """
    arguments = client_arguments(kafka)
    context = arguments.get("ssl_context")
    if "sasl_mechanism" in arguments:
        return faust.SASLCredentials(
            mechanism=arguments["sasl_mechanism"],
            username=arguments["sasl_plain_username"],
            password=arguments["sasl_plain_password"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


class Topic:
    """Where records are sent: straight to the client, as nothing of Faust's own way is needed."""

    def __init__(self, app: faust.App, name: str) -> None:
        """Keep the application, and the name on the broker."""
        self._app = app
        self._name = name

    async def send(
        self, *, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> Awaitable[Any]:
        """Return when the record waits for its turn; what is returned is done by the broker."""
        producer = await self._app.maybe_start_producer()
        sent: Awaitable[Any] = await producer.send(self._name, key, value, None, None, headers)
        return sent
