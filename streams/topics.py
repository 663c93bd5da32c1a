"""Names of topics and groups, and their creation on the broker."""

from collections.abc import Iterable
from typing import Final

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from streams import events
from streams.errors import BrokerUnavailable
from streams.kafka_clients import open_client
from streams.settings import KafkaSettings

#: Topics in the order in which a document passes them.
TOPICS: Final = (
    events.IMAGE_CHANGED,
    events.IMAGE_FEATURIZED,
    events.IMAGE_PROJECTED,
    events.CAPTION_GENERATED,
)

_HOUR_MS: Final = 3_600_000


def topic_name(topic: str, settings: KafkaSettings) -> str:
    """Return the name of a topic on the broker."""
    return settings.prefix + topic


def dead_letter_topic(topic: str) -> str:
    """Return the topic that receives what cannot be processed from `topic`."""
    return f"{topic}.dlq"


def group_name(stage: str, settings: KafkaSettings) -> str:
    """Return the consumer group of a stage, which is also its Faust application id."""
    return f"{settings.prefix}captionstream-{stage}"


def all_topics() -> tuple[str, ...]:
    """Return every topic that must exist, without prefix."""
    return (*TOPICS, *(dead_letter_topic(topic) for topic in TOPICS))


def create_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics that are missing; return the names of those that were created.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    admin = connect_admin(settings)
    try:
        present = set(admin.list_topics())
        missing = [name for name in all_topics() if topic_name(name, settings) not in present]
        _create(admin, missing, settings)
    except KafkaError as exc:
        msg = f"cannot create topics on {settings.bootstrap_servers}: {exc}"
        raise BrokerUnavailable(msg) from exc
    finally:
        admin.close()
    return [topic_name(name, settings) for name in missing]


def missing_topics(settings: KafkaSettings) -> list[str]:
    """Return the names of the topics that do not exist.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    admin = connect_admin(settings)
    try:
        present = set(admin.list_topics())
    except KafkaError as exc:
        msg = f"cannot list topics on {settings.bootstrap_servers}: {exc}"
        raise BrokerUnavailable(msg) from exc
    finally:
        admin.close()
    names = (topic_name(name, settings) for name in all_topics())
    return [name for name in names if name not in present]


def connect_admin(settings: KafkaSettings) -> KafkaAdminClient:
    """Return an admin client; the caller closes it.

    Raises:
        BrokerUnavailable: The broker does not answer.
        SettingsError: A certificate file is missing or wrong.
    """
    return open_client(
        KafkaAdminClient,
        settings,
        request_timeout_ms=int(settings.request_timeout_seconds * 1000),
    )


def _create(admin: KafkaAdminClient, topics: Iterable[str], settings: KafkaSettings) -> None:
    for topic in topics:
        is_dead_letter = topic not in TOPICS
        hours = settings.dead_letter_retention_hours if is_dead_letter else settings.retention_hours
        new = NewTopic(
            name=topic_name(topic, settings),
            num_partitions=settings.partitions,
            replication_factor=settings.replication_factor,
            topic_configs={"retention.ms": str(int(hours * _HOUR_MS))},
        )
        try:
            admin.create_topics([new])
        except TopicAlreadyExistsError:  # somebody was faster
            continue
