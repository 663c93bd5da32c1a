"""Sends that are not acknowledged yet, in order, bounded by count and bytes."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")


@dataclass(slots=True, eq=False)
class Slot(Generic[P]):
    """One send: the position behind it, its size in bytes, whether it is acknowledged."""

    position: P
    size: int
    sent_at: float = field(default_factory=time.monotonic)
    is_acknowledged: bool = False


class Window(Generic[P]):
    """Keeps the order in which changes were read, and knows how far all of them are safe.

    Thread-safe: slots are added by the reader and acknowledged by the producer's thread.
    """

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        """Keep the limits; one send is always admitted, however large."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._slots: deque[Slot[P]] = deque()
        self._bytes = 0
        self._safe: P | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def add(self, position: P, size: int) -> Slot[P]:
        """Append a send that stands before `position`."""
        slot = Slot(position, size)
        with self._changed:
            self._slots.append(slot)
            self._bytes += size
        return slot

    def acknowledge(self, slot: Slot[P]) -> None:
        """Note that the broker has it."""
        with self._changed:
            slot.is_acknowledged = True
            while self._slots and self._slots[0].is_acknowledged:
                first = self._slots.popleft()
                self._bytes -= first.size
                self._safe = first.position
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Note that a send was lost; later ones may be there, so the reader must start again."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def take_safe(self) -> P | None:
        """Return the position up to which all is acknowledged, if it moved since the last call."""
        with self._changed:
            safe, self._safe = self._safe, None
            return safe

    @property
    def error(self) -> Exception | None:
        """The first send that was lost."""
        return self._error

    @property
    def is_full(self) -> bool:
        """Whether no more may be sent now."""
        return len(self._slots) >= self._max_events or self._bytes >= self._max_bytes

    @property
    def events(self) -> int:
        """Sends that are not acknowledged, or stand behind one that is not."""
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """Their size."""
        return self._bytes

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest of them; 0 when there is none."""
        with self._changed:
            return time.monotonic() - self._slots[0].sent_at if self._slots else 0.0

    def wait_for_room(self, seconds: float) -> None:
        """Return when there is room, a send was lost, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_full or self._error is not None, seconds)

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is in flight; False when a send was lost or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._slots or self._error is not None, seconds)
            return not self._slots
