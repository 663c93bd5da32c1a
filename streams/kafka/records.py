"""Records as a consumer takes and sends them, and what it asks of whoever handles them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from streams.contract.events import Headers, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A record as it was consumed; `topic` is without prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


Delivery = Sequence[tuple[str, Record]]
"""Records to send, in order, each with its topic (without prefix)."""


class Route(Protocol):
    """Where records come from and where they may go; topics are without prefix."""

    @property
    def name(self) -> str:
        """Name of the consumer; part of its group."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Topics that are consumed."""
        ...

    @property
    def output(self) -> str | None:
        """Topic for what is made of the records; None for nowhere."""
        ...


class Handler(Protocol):
    """Handles what was consumed. Everything is called on the event loop."""

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        ...

    def stop(self) -> None:
        """Give up waiting for neighbours: the process is to end."""
        ...

    async def handle(self, messages: Sequence[Message]) -> list[Message]:
        """Take a batch, and return the messages that are finished, of this one or of earlier ones.

        Raises:
            Unavailable: Nothing was finished; the process is to end and take the batch again.
            ProcessBroken: Likewise.
        """
        ...

    async def until_ready(self) -> None:
        """Wait until `handle` has something to finish without a new message."""
        ...

    def note_rebalance(self, *, is_under_way: bool) -> None:
        """Say whether partitions are to go; what is held of them is put back then."""
        ...

    def note_lag(self, lag: int | None, *, may_rest: bool) -> None:
        """Say how many records wait, None for unknown, and whether there is nothing to do."""
        ...
