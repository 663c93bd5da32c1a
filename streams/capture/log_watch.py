"""Whether Kafka still has what it has acknowledged: a broker may lose its log, or a part of it."""

import time
from collections.abc import Mapping
from typing import Final

from structlog import get_logger

from streams import metrics
from streams.contract.pipeline import CHANGES
from streams.kafka.offsets import is_cut
from streams.kafka.producer import EventProducer
from streams.kafka.topics import topic_name
from streams.settings import KafkaSettings

log = get_logger(__name__)

#: A new leader of a partition may for a moment know of less than is there.
_CONFIRM_SECONDS: Final = 1.0


class LogWatch:
    """Knows how far the log of changes was acknowledged."""

    def __init__(self, settings: KafkaSettings, producer: EventProducer) -> None:
        """Keep what is needed."""
        self._settings = settings
        self._producer = producer
        self._before: Mapping[int, int] = {}

    def begin(self, acknowledged: Mapping[int, int]) -> None:
        """Go on from what is kept: before this term, or by a copy."""
        self._before = acknowledged

    def forget(self) -> None:
        """Begin anew: everything is going to be published again."""
        self._before = {}
        self._producer.forget_acknowledged()

    @property
    def acknowledged(self) -> dict[int, int]:
        """Offset of the last record that Kafka has acknowledged, by partition."""
        offsets = dict(self._before)
        for number, offset in self._producer.acknowledged(CHANGES).items():
            offsets[number] = max(offset, offsets.get(number, offset))
        return offsets

    def is_cut(self) -> bool:
        """Whether the log does not reach so far any more; counted, and said in the log.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        if not self._is_shorter():
            return False
        time.sleep(_CONFIRM_SECONDS)
        if not self._is_shorter():
            return False
        metrics.LOG_LOST.inc()
        log.error("Kafka lost records that it had acknowledged", acknowledged=self.acknowledged)
        return True

    def _is_shorter(self) -> bool:
        topic = topic_name(CHANGES, self._settings)
        return is_cut(topic, self.acknowledged, self._settings)
