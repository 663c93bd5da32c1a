"""Records that no client of ours can read: Kafka lets a header's name be any bytes."""

from kafka import KafkaProducer


class _Name(str):
    """A header's name that is not UTF-8."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        """Return what other clients may write."""
        return b"\xff\xfe"


UNREADABLE = [(_Name("name"), b"value")]


def send(bootstrap_servers, topic, records, partition=0):
    """Send `(value, headers)` to a partition, all in one batch; return their offsets."""
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=60_000)
    sent = [
        producer.send(topic, key=b"k", value=value, headers=headers, partition=partition)
        for value, headers in records
    ]
    producer.flush()
    producer.close()
    return [each.get(timeout=60).offset for each in sent]
