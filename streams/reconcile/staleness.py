"""Which unfinished documents to repeat at once, and which may simply be on their way. Pure."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from streams.backoff import Backoff
from streams.contract.documents import (
    lookup,
)
from streams.contract.ids import DocumentId, document_key
from streams.contract.pipeline import (
    Model,
)
from streams.contract.states import Serving

#: A document that was repeated in vain waits twice as long each time, up to so many graces.
_MOST_GRACES: Final = 64
#: Most documents that are remembered, about 1 kB each.
_MOST_SIGHTS: Final = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sight:
    """What is remembered of an unfinished document.

    Attributes:
        state: Its state fields; a change of them is progress.
        since: When it was first seen in that state, or last repeated; monotonic seconds.
        repeats: How often it was repeated in that state.
    """

    state: tuple[Any, ...]
    since: float
    repeats: int = 0


class Staleness:
    """Remembers, from scan to scan, which documents look unfinished and since when."""

    def __init__(
        self, *, grace_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the grace: how long a document may look unfinished without being repeated."""
        self._patience = Backoff(grace_seconds, _MOST_GRACES * grace_seconds)
        self._clock = clock
        self._before: dict[bytes, _Sight] = {}
        self._seen: dict[bytes, _Sight] = {}
        self._serving: Serving | None = None
        self._changed: frozenset[str] = frozenset()

    def notice(self, serving: Serving) -> bool:
        """Compare what serves with what served at the last call; whether it differs.

        The first call says no: what was promoted while nobody looked shows as missing or stale.
        """
        before, self._serving = self._serving, serving
        if before is None or before == serving:
            return False
        self._changed = frozenset(
            name
            for name, version in serving.versions.items()
            if (before.versions.get(name), before.recaption.get(name))
            != (version, serving.recaption.get(name))
        )
        return True

    def is_due(self, document: Mapping[str, Any], model: Model, serving: Serving) -> bool:
        """Whether to repeat a document for which `model` has to run.

        At once if a new version has just come, or its output was made by another version and it
        was not repeated yet. An output that is missing may be on its way: it must be missing in an
        unchanged document for the whole grace. Whoever was repeated in vain waits ever longer.
        """
        key = document_key(document["_id"])
        state = tuple(lookup(document, path) for path in serving.pipeline.state_paths)
        now = self._clock()
        before = self._before.get(key)
        if before is None or before.state != state:
            before = _Sight(state=state, since=now)
        self._seen[key] = before
        if model.name in self._changed:
            return True
        stored = lookup(document, f"{model.path}.version")
        is_stale = isinstance(stored, str) and stored not in ("", serving.versions[model.name])
        if is_stale and before.repeats == 0:
            return True
        waited = now - before.since
        wanted = self._patience.pause(1 + before.repeats)
        return waited > 0 and waited >= wanted

    @property
    def is_full(self) -> bool:
        """Whether this scan is to end: the next ones get to the rest when these are done."""
        return len(self._seen) >= _MOST_SIGHTS

    def end_scan(self) -> None:
        """Forget documents that no longer look unfinished."""
        self._before, self._seen = self._seen, {}
        self._changed = frozenset()

    def note_repeated(self, document_ids: Iterable[DocumentId]) -> None:
        """Remember, after the scan, which documents were really repeated."""
        now = self._clock()
        for document_id in document_ids:
            key = document_key(document_id)
            sight = self._before.get(key)
            if sight is not None:
                self._before[key] = replace(sight, since=now, repeats=sight.repeats + 1)

    def repeats(self, document_id: DocumentId) -> int:
        """Return how often a document was repeated in vain."""
        sight = self._before.get(document_key(document_id))
        return sight.repeats if sight is not None else 0
