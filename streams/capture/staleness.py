"""Which unfinished documents to repeat at once, and which may simply be on their way. Pure."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from streams.documents import Model, document_key, lookup
from streams.states import STATE_PATHS, Serving

State = tuple[Any, ...]


class Staleness:
    """Remembers, from scan to scan, which documents look unfinished and since when."""

    def __init__(
        self, *, grace_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the grace: how long a document may look unfinished without being repeated."""
        self._grace = grace_seconds
        self._clock = clock
        self._since: dict[bytes, tuple[State, float]] = {}
        self._seen: dict[bytes, tuple[State, float]] = {}
        self._serving: Serving | None = None
        self._changed: frozenset[str] = frozenset()

    def notice(self, serving: Serving) -> bool:
        """Compare the serving versions with those of the last call; whether they differ.

        The first call says no: what was promoted while nobody looked shows as missing or stale.
        """
        before, self._serving = self._serving, serving
        if before is None or before == serving:
            return False
        self._changed = frozenset(
            name
            for name, version in serving.versions.items()
            if before.versions.get(name) != version
        )
        return True

    def is_due(self, document: Mapping[str, Any], model: Model, serving: Serving) -> bool:
        """Whether to repeat a document for which `model` has to run.

        At once if its output was made by another version, or a new version has just come. An
        output that is missing may be on its way: it must be missing in an unchanged document for
        the whole grace.
        """
        stored = lookup(document, f"{model.path}.version")
        if isinstance(stored, str) and stored not in ("", serving.versions[model.name]):
            return True
        if model.name in self._changed:
            return True
        key = document_key(document["_id"])
        state = tuple(lookup(document, path) for path in STATE_PATHS)
        now = self._clock()
        before = self._since.get(key)
        since = before[1] if before is not None and before[0] == state else now
        self._seen[key] = (state, since)
        if now - since < self._grace or since == now:
            return False
        self._seen[key] = (state, now)  # repeated now: the next repeat needs another grace
        return True

    def end_scan(self) -> None:
        """Forget documents that no longer look unfinished."""
        self._since, self._seen = self._seen, {}
        self._changed = frozenset()
