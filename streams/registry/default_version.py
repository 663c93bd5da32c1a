"""Sees to it that what serves fits what it reads, for a kind that has a version before any fit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from structlog import get_logger

from streams.contract.manifest import Feature
from streams.contract.pipeline import Model, Pipeline
from streams.contract.versions import VersionInfo, output_version
from streams.errors import ModelError, PointerConflict
from streams.models.kinds.kind import StoredKind
from streams.registry.pointers import Pointer
from streams.registry.versions import Registry

log = get_logger(__name__)

_Seen = tuple[Mapping[str, Feature], tuple[int, bool] | None]

#: Begins the reason of every move that is made here; what it is made for follows.
_FOR: Final = "fits "


class DefaultVersion:
    """Lets the version serve that served last with what serves upstream, or else the default."""

    def __init__(
        self, registry: Registry, model: Model, kind: StoredKind, pipeline: Pipeline
    ) -> None:
        """Keep the registry, which model it is and where it stands."""
        self._registry = registry
        self._model = model
        self._kind = kind
        self._pipeline = pipeline
        self._seen: _Seen | None = None

    def ensure(self) -> None:
        """Look at the pointers; move the model's if what serves is not what fits.

        A version fits if it is of this kind, and reads vectors in the length in which they are made
        now, of what serves upstream or of any. Of those in the history of the pointer the last one
        serves, so that a fitted one comes back with what it was fitted on; where there is none, the
        default. While nothing serves upstream, nothing is done.

        Raises:
            InvalidPipeline: There can be no default version of what is read.
            StoreUnavailable: MongoDB does not answer.
        """
        pointers, problems = self._registry.pointers()
        if self._model.name in problems:  # another release has moved it
            return
        pointer = pointers.get(self._model.name)
        reads = self._reads(pointers)
        seen = (reads, pointer.state if pointer else None)
        if seen == self._seen or reads.keys() != {*self._model.reads}:
            return
        moves = self._registry.history(self._model.name)
        infos = {info.version: info for info in self._registry.versions(self._model.name)}
        if not self._is_of_other_code(pointer, moves, infos):
            wanted = self._last_that_fits(moves, infos, reads) or self._default(reads, moves)
            if wanted is not None and (pointer is None or pointer.serving != wanted):
                self._promote(pointer, wanted, _reason(reads))
        self._seen = seen

    def _reads(self, pointers: Mapping[str, Pointer]) -> dict[str, Feature]:
        """Return what serves of each model that is read: its version as outputs name it."""
        found: dict[str, Feature] = {}
        for name in self._model.reads:
            version = pointers[name].serving if name in pointers else None
            if version is None:
                continue
            declaration = self._pipeline.models[name].declaration
            try:
                info = self._registry.describe(name, version)
            except ModelError:  # its own processes say so
                continue
            found[name] = Feature(
                dimension=info.dimension, version=output_version(declaration, version)
            )
        return found

    def _is_of_other_code(
        self,
        pointer: Pointer | None,
        moves: Sequence[Pointer],
        infos: Mapping[str, VersionInfo],
    ) -> bool:
        """Whether the pointer is none of this process's business.

        While a release is rolled out, processes with two files of one class run. Each file is let
        serve once, when it is new; a process with the one that served before waits, so they do not
        take the pointer from each other. What was fitted or given is given up by people only.
        """
        manifest = infos[pointer.version].manifest if pointer and pointer.version in infos else None
        if manifest is None or manifest.kind != self._kind.name or self._kind.is_code_of(manifest):
            return False
        served = (infos[move.version].manifest for move in moves if move.version in infos)
        was_here = any(m is not None and self._kind.is_code_of(m) for m in served)
        return was_here or not manifest.is_initial

    def _default(self, reads: Mapping[str, Feature], moves: Iterable[Pointer]) -> str | None:
        """Return the default version; None if it was tried and refused."""
        dimensions = {n: f.dimension for n, f in reads.items() if f.dimension is not None}
        bundle = self._kind.default_bundle(self._model.declaration, dimensions)
        if bundle is None:
            return None
        version = self._registry.publish(bundle)
        is_refused = any(m.version == version and m.refusal is not None for m in moves)
        return None if is_refused else version

    def _promote(self, pointer: Pointer | None, version: str, reason: str) -> None:
        name = self._model.name
        try:
            self._registry.promote(
                name, version, reason=reason, expected_revision=pointer.revision if pointer else 0
            )
        except PointerConflict:  # another process was first
            return
        log.info("default version promoted", model=name, version=version, reason=reason)

    def _last_that_fits(
        self,
        moves: Sequence[Pointer],
        infos: Mapping[str, VersionInfo],
        reads: Mapping[str, Feature],
    ) -> str | None:
        """Return the version that served last and fits; None when there is none.

        What was chosen here for others says nothing about these, even if it would fit: a default
        takes any vectors of its length. One that was refused does not come back, unless it served
        again later. One whose manifest cannot be read is left alone until it is refused.
        """
        refused: set[str] = set()
        for move in reversed(moves):
            if move.refusal is not None:
                refused.add(move.version)
                continue
            if move.reason.startswith(_FOR) and move.reason != _reason(reads):
                continue
            info = infos.get(move.version)
            if info is None or move.version in refused:
                continue
            is_unreadable = info.manifest is None and move is moves[-1]
            if is_unreadable or self._fits(info, reads):
                return move.version
        return None

    def _fits(self, info: VersionInfo, reads: Mapping[str, Feature]) -> bool:
        manifest = info.manifest
        if manifest is None or manifest.kind != self._kind.name:
            return False
        if manifest.features.keys() != reads.keys() or not self._kind.is_code_of(manifest):
            return False
        return all(_is_read(manifest.features[name], now) for name, now in reads.items())


def _is_read(wanted: Feature, now: Feature) -> bool:
    lengths = (wanted.dimension, now.dimension)
    return wanted.version in (None, now.version) and (None in lengths or lengths[0] == lengths[1])


def _reason(reads: Mapping[str, Feature]) -> str:
    return _FOR + (", ".join(f"{n} {f.version}" for n, f in reads.items()) or "what it reads")
