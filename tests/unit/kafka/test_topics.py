"""What a broker says of our topics."""

import pytest

from streams.kafka.topics import _create, topic_states, warning_of_copies
from streams.settings import KafkaSettings


def row(name, *partitions):
    """Describe a topic by leader and replicas of each partition, as Apache Kafka answers."""
    return {
        "name": name,
        "error_code": 0 if partitions else 3,
        "partitions": [
            {"partition_index": number, "leader_id": leader, "replica_nodes": replicas}
            for number, (leader, replicas) in enumerate(partitions)
        ],
    }


@pytest.mark.parametrize(
    ("described", "missing", "leaderless", "single"),
    [
        ([row("a", (1, [1, 2, 3]), (2, [2, 3, 1])), row("b", (3, [3, 1]))], [], [], []),
        ([row("b", (1, [1])), row("a")], ["a"], [], ["b"]),
        ([row("a", (1, [1]), (-1, [2])), row("b", (1, [1, 2]))], [], ["a[1]"], ["a"]),
        ([row("a", (-1, [2, 3])), row("b", (-1, [3, 2]))], [], ["a[0]", "b[0]"], []),
        ([], ["a", "b"], [], []),
    ],
    ids=["well", "missing", "one broker of one copy", "two of three brokers", "nothing"],
)
def test_states_of_topics(described, missing, leaderless, single):
    """Fails when a topic that exists counts as one that works."""
    states = topic_states(["a", "b"], described)
    assert (states.missing, states.leaderless, states.single) == (missing, leaderless, single)
    assert bool(warning_of_copies(states)) is bool(single)


class Admin:
    """Takes what is to be created."""

    def create_topics(self, topics):
        [self.asked] = topics


@pytest.mark.parametrize(("given", "asked"), [(None, -1), (1, 1), (3, 3)])
def test_number_of_copies_is_the_brokers_unless_it_is_set(given, asked):
    """Fails when a topic on a cluster whose default is 3 gets one copy."""
    settings = KafkaSettings() if given is None else KafkaSettings(replication_factor=given)
    _create(admin := Admin(), ["a"], settings)
    assert admin.asked.replication_factor == asked
