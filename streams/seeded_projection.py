"""Sees to it that the projection that serves fits the CLIP that is announced."""

from structlog import get_logger

from streams.documents import CLIP, CLIP_PROJECTION
from streams.errors import ModelError, PointerConflict, StoreUnavailable
from streams.models import projection
from streams.pointers import Pointer
from streams.registry import Registry

log = get_logger(__name__)

_Seen = tuple[str | None, tuple[int, bool] | None]


class SeededProjection:
    """Lets the seeded orthogonal projection serve where no other fits."""

    def __init__(self, registry: Registry, dimension: int) -> None:
        """Keep the registry and the size of the projection's vectors."""
        self._registry = registry
        self._dimension = dimension
        self._seen: _Seen | None = None

    def ensure(self) -> None:
        """Look at both pointers; promote the seeded projection if what serves does not fit.

        A projection fits if it reads CLIP's vectors in their length, of this CLIP or of any. One
        whose manifest cannot be read is left alone until it is refused; then counts what serves
        in its place.

        Raises:
            StoreUnavailable: MongoDB does not answer, or no CLIP is announced yet.
        """
        pointers = self._registry.pointers()
        clip, pointer = pointers.get(CLIP.name), pointers.get(CLIP_PROJECTION.name)
        if clip is None:
            msg = "no CLIP version is announced yet; start `captionstream run featurize`"
            raise StoreUnavailable(msg)
        seen = (clip.serving, pointer.state if pointer else None)
        if seen == self._seen:
            return
        dimension = int(self._registry.describe(CLIP.name, clip.version).details["dimension"])
        if not self._fits(pointer, clip.version, dimension):
            self._promote(pointer, clip.version, dimension)
        self._seen = seen

    def _fits(self, pointer: Pointer | None, clip_version: str, dimension: int) -> bool:
        if pointer is None or pointer.serving is None:
            return False
        try:
            manifest = self._registry.describe(pointer.name, pointer.serving).manifest
        except ModelError:  # whoever loads it refuses it
            return True
        feature = manifest.features.get(CLIP.name) if manifest is not None else None
        if feature is None:
            return False
        return feature.dimension == dimension and feature.version in (None, clip_version)

    def _promote(self, pointer: Pointer | None, clip_version: str, dimension: int) -> None:
        made = projection.orthogonal_projection(dimension, self._dimension, seed=0)
        version = self._registry.publish(projection.to_bundle(made))
        if pointer is not None and pointer.version == version:  # it was tried and refused
            return
        try:
            self._registry.promote(
                CLIP_PROJECTION.name,
                version,
                reason=f"seeded projection for clip {clip_version}, {dimension} dimensions",
                expected_revision=pointer.revision if pointer else 0,
            )
        except PointerConflict:  # another process of `project` was first
            return
        log.info("seeded projection promoted", version=version, clip=clip_version)
