"""How many records wait for a stage, and whether that is known at all.

What is not known must not pass for nothing: a consumer that hangs while it joins its group, or
fetches nothing from a partition after a rebalance, has no lag that could be counted.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from streams.kafka.faust.overrides import Skipped

#: Measured every second; a value older than this comes from a loop or a consumer that hangs.
_FRESH_SECONDS: Final = 10.0


class Lag:
    """The last count. Read by other threads."""

    def __init__(self) -> None:
        """Begin without a count."""
        self._value: int | None = None
        self._noted_at = time.monotonic()

    @property
    def value(self) -> int | None:
        """Records that wait; None while that is unknown."""
        is_fresh = time.monotonic() - self._noted_at < _FRESH_SECONDS
        return self._value if is_fresh else None

    def note(self, value: int | None) -> None:
        """Say how many there are now; None for unknown."""
        self._value, self._noted_at = value, time.monotonic()


async def count_waiting(
    consumer: Any, next_offsets: Mapping[Any, int], skipped: Skipped
) -> int | None:
    """Return how many records wait in the assigned partitions; None while one is not fetched.

    High watermarks come with fetches; the broker's own LATEST is not right everywhere.

    Args:
        consumer: Faust's consumer; without partitions (more processes than partitions) none wait.
        next_offsets: The next offset to handle, of partitions that had any record.
        skipped: What was left out, and so does not wait.
    """
    lag = 0
    for partition in consumer.assignment():
        end = consumer.highwater(partition)
        if end is None:
            return None
        begin = next_offsets.get(partition)
        if begin is None:
            begin = await consumer.position(partition)
        if begin is None:
            return None
        while (behind := skipped.get((partition, begin))) is not None:
            begin = behind
        lag += max(0, end - begin)
    return lag
