"""Names of topics and groups, and their creation on the broker."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from streams.contract.pipeline import Pipeline, is_dead_letter_topic
from streams.errors import BrokerUnavailable
from streams.kafka.clients import open_client
from streams.settings import KafkaSettings

_HOUR_MS: Final = 3_600_000
_DEFAULT_OF_BROKER: Final = -1


def topic_name(topic: str, settings: KafkaSettings) -> str:
    """Return the name of a topic on the broker."""
    return settings.prefix + topic


def group_name(stage: str, settings: KafkaSettings) -> str:
    """Return the consumer group of a stage, which is also its Faust application id."""
    return f"{settings.prefix}captionstream-{stage}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicStates:
    """What a broker says of the topics that must exist. Names are those on the broker.

    Attributes:
        missing: Topics that do not exist.
        leaderless: Partitions, as `topic[number]`, that no broker leads: nothing is written there
            and nothing is read.
        single: Topics with a partition of one copy: it stands still while its broker is away.
    """

    missing: Sequence[str]
    leaderless: Sequence[str]
    single: Sequence[str]


def topic_states(names: Sequence[str], described: Iterable[Mapping[str, Any]]) -> TopicStates:
    """Return the states of topics out of a broker's answer to a question for metadata.

    Args:
        names: Topics that must exist.
        described: One row for each topic, as `KafkaAdminClient.describe_topics` gives them.
    """
    partitions = {row["name"]: row["partitions"] for row in described if row["partitions"]}
    found = [(name, row) for name in names for row in partitions.get(name, ())]
    leaderless = [(name, row["partition_index"]) for name, row in found if row["leader_id"] < 0]
    single = {name: None for name, row in found if len(row["replica_nodes"]) == 1}
    return TopicStates(
        missing=[name for name in names if name not in partitions],
        leaderless=[f"{name}[{number}]" for name, number in sorted(leaderless)],
        single=list(single),
    )


def warning_of_copies(states: TopicStates) -> str:
    """Return what is to be said of topics with one copy of a partition; empty if there are none."""
    if not states.single:
        return ""
    return (
        f"warning: {len(states.single)} topics have one copy of a partition; while its broker is"
        " away everything stands still, and with its disk the records are lost. Give the topics"
        " more copies (kafka-reassign-partitions), or set CAPTIONSTREAM_KAFKA__REPLICATION_FACTOR"
        " before they are created"
    )


def shown(partitions: Sequence[str]) -> str:
    """Return the first of some partitions, and how many more there are."""
    more = f" and {len(partitions) - 1} more" if len(partitions) > 1 else ""
    return f"{partitions[0]}{more}"


def read_topic_states(settings: KafkaSettings, pipeline: Pipeline) -> TopicStates:
    """Return the states of now.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    with _admin(settings, "look at") as admin:
        return _states(admin, settings, pipeline)


def create_topics(settings: KafkaSettings, pipeline: Pipeline) -> list[str]:
    """Create the topics that are missing; return the names of those that were created.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    with _admin(settings, "create") as admin:
        missing = _states(admin, settings, pipeline).missing
        topics = [t for t in pipeline.all_topics if topic_name(t, settings) in missing]
        _create(admin, topics, settings)
    return [*missing]


def delete_topics(
    topics: Sequence[str], groups: Sequence[str], settings: KafkaSettings
) -> list[str]:
    """Delete those of some topics that are there, and what the broker keeps of consumer groups.

    Args:
        topics: Without prefix.
        groups: Names of stages.
        settings: Where the broker is.

    Returns:
        Names of the topics that were deleted, as they were on the broker.

    Raises:
        BrokerUnavailable: The broker does not answer, or refuses.
    """
    names = [topic_name(topic, settings) for topic in topics]
    with _admin(settings, "delete") as admin:
        missing = topic_states(names, admin.describe_topics(names)).missing
        there = [name for name in names if name not in missing]
        if there:
            admin.delete_topics(there)
        for group in groups:
            admin.delete_groups([group_name(group, settings)])
    return there


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


@contextmanager
def _admin(settings: KafkaSettings, doing: str) -> Iterator[KafkaAdminClient]:
    admin = connect_admin(settings)
    try:
        yield admin
    except KafkaError as exc:
        msg = f"cannot {doing} topics on {settings.bootstrap_servers}: {exc}"
        raise BrokerUnavailable(msg) from exc
    finally:
        admin.close()


def _states(admin: KafkaAdminClient, settings: KafkaSettings, pipeline: Pipeline) -> TopicStates:
    names = [topic_name(topic, settings) for topic in pipeline.all_topics]
    return topic_states(names, admin.describe_topics(names))


def _create(admin: KafkaAdminClient, topics: Iterable[str], settings: KafkaSettings) -> None:
    for topic in topics:
        hours = (
            settings.dead_letter_retention_hours
            if is_dead_letter_topic(topic)
            else settings.retention_hours
        )
        new = NewTopic(
            name=topic_name(topic, settings),
            num_partitions=settings.partitions,
            replication_factor=settings.replication_factor or _DEFAULT_OF_BROKER,
            topic_configs={"retention.ms": str(int(hours * _HOUR_MS))},
        )
        try:
            admin.create_topics([new])
        except TopicAlreadyExistsError:  # somebody was faster
            continue
