"""Sees to it that the projection that serves fits the CLIP that serves."""

from collections.abc import Mapping, Sequence
from typing import Final

from structlog import get_logger

from streams.contract.pipeline import Model
from streams.contract.versions import VersionInfo
from streams.errors import PointerConflict, StoreUnavailable
from streams.models.kinds.linear import Linear
from streams.registry.pointers import Pointer
from streams.registry.versions import Registry

log = get_logger(__name__)

_Seen = tuple[str | None, tuple[int, bool] | None]

#: Begins the reason of every move that is made here; the version of CLIP follows.
_FOR: Final = "fits clip "


class SeededProjection:
    """Lets the projection serve that served last with this CLIP, or else a seeded one."""

    def __init__(self, registry: Registry, model: Model) -> None:
        """Keep the registry, and which model it is."""
        self._registry = registry
        self._declaration = model.declaration
        self._name = model.name
        self._upstream = model.reads[0]
        self._seen: _Seen | None = None

    def ensure(self) -> None:
        """Look at both pointers; move the projection's if what serves is not what fits.

        A projection fits if it reads CLIP's vectors in their length, of this CLIP or of any. Of
        those in the history of the pointer the last one serves, so that a trained one comes back
        with the CLIP that it was trained on; where there is none, the seeded orthogonal one.

        Raises:
            UnknownFormat: One of them is of another format.
            StoreUnavailable: MongoDB does not answer, or no CLIP is announced yet.
        """
        clip = self._registry.pointer(self._upstream)
        pointer = self._registry.pointer(self._name)
        if clip is None:
            msg = (
                f"no version of {self._upstream} is announced yet; start"
                f" `captionstream run {self._upstream}`"
            )
            raise StoreUnavailable(msg)
        seen = (clip.version, pointer.state if pointer else None)
        if seen == self._seen:
            return
        dimension = int(self._registry.describe(self._upstream, clip.version).details["dimension"])
        moves = self._registry.history(self._name)
        infos = {info.version: info for info in self._registry.versions(self._name)}
        wanted = _last_that_fits(moves, infos, (self._upstream, clip.version, dimension))
        if wanted is None:
            wanted = self._publish_seeded(dimension, moves)
        if wanted is not None and (pointer is None or pointer.serving != wanted):
            self._promote(pointer, wanted, clip.version)
        self._seen = seen

    def _publish_seeded(self, dimension: int, moves: Sequence[Pointer]) -> str | None:
        """Return the seeded projection; None if it was tried and refused."""
        bundle = Linear().default_bundle(self._declaration, {self._upstream: dimension})
        version = self._registry.publish(bundle)
        is_refused = any(m.version == version and m.refusal is not None for m in moves)
        return None if is_refused else version

    def _promote(self, pointer: Pointer | None, version: str, clip_version: str) -> None:
        try:
            self._registry.promote(
                self._name,
                version,
                reason=f"{_FOR}{clip_version}",
                expected_revision=pointer.revision if pointer else 0,
            )
        except PointerConflict:  # another process was first
            return
        log.info("projection promoted", version=version, clip=clip_version)


def _last_that_fits(
    moves: Sequence[Pointer],
    infos: Mapping[str, VersionInfo],
    read: tuple[str, str, int],
) -> str | None:
    """Return the version that served last and fits; None when there is none.

    What was chosen here for another CLIP says nothing about this one, even if it would fit: a
    seeded projection takes any CLIP of its length. One that was refused does not come back, unless
    it served again later. One whose manifest cannot be read is left alone until it is refused.
    """
    refused: set[str] = set()
    reason = f"{_FOR}{read[1]}"
    for move in reversed(moves):
        if move.refusal is not None:
            refused.add(move.version)
            continue
        if move.reason.startswith(_FOR) and move.reason != reason:
            continue
        info = infos.get(move.version)
        if info is None or move.version in refused:
            continue
        is_unreadable = info.manifest is None and move is moves[-1]
        if is_unreadable or _fits(info, *read):
            return move.version
    return None


def _fits(info: VersionInfo, upstream: str, version: str, dimension: int) -> bool:
    feature = info.manifest.features.get(upstream) if info.manifest is not None else None
    if feature is None:
        return False
    return feature.dimension == dimension and feature.version in (None, version)
