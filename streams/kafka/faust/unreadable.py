"""Batches that aiokafka cannot read: another client gave a header a name that is not UTF-8.

The error would end the process, again and again, as the batch comes first after every start.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from structlog import get_logger

log = get_logger(__name__)

Skipped = dict[tuple[Any, int], int]
"""Offset behind records that were left out, by partition and first offset."""


class Fetched(OrderedDict[Any, Any]):
    """What the client has fetched and not yet given out, by partition.

    Takes the place of aiokafka's own; the versions of both libraries are pinned, and a test notices
    when its names change.
    """

    def __init__(self, skipped: Skipped) -> None:
        """Keep where to note what is left out."""
        super().__init__()
        self._skipped = skipped

    def __setitem__(self, partition: Any, fetched: Any) -> None:
        if isinstance(fetched, FetchResult):
            records = fetched._partition_records  # noqa: SLF001 - read when the first is asked for
            records._records = _Batches(records._records, partition, self._skipped)  # noqa: SLF001
        super().__setitem__(partition, fetched)


class _Batches:
    """What a fetch has brought for a partition."""

    def __init__(self, records: Any, partition: Any, skipped: Skipped) -> None:
        self._records = records
        self._partition = partition
        self._skipped = skipped

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> "_Batch":
        return _Batch(self._records.next_batch(), self._partition, self._skipped)


class _Batch:
    """A batch that ends before the first record that cannot be read; nobody knows where it ends."""

    def __init__(self, batch: Any, partition: Any, skipped: Skipped) -> None:
        self._batch = batch
        self._partition = partition
        self._skipped = skipped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        begin = None
        try:
            for record in self._batch:
                begin = record.offset + 1
                yield record
        except UnicodeDecodeError as exc:
            if begin is None:
                begin = self._batch.base_offset
            end = self._batch.next_offset
            self._skipped[self._partition, begin] = end
            log.error(
                "records cannot be read, the rest of their batch is left out",
                topic=self._partition.topic,
                partition=self._partition.partition,
                offsets=f"{begin}-{end - 1}",
                error=str(exc),
            )
