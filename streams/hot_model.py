"""The serving version of one model in memory: polled, verified, swapped between batches.

A version that does not hold is refused and counted; the one before serves on.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from structlog import get_logger

from streams import metrics
from streams.documents import MODEL_BY_NAME
from streams.errors import InvalidBundle, ModelError, StoreUnavailable, Unavailable
from streams.models.manifest import Bundle, Manifest
from streams.registry import Registry
from streams.settings import ModelSettings

log = get_logger(__name__)

#: How long `stop` waits for a load that is under way.
_STOP_SECONDS: Final = 5.0

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[M]):
    """A version that serves. A batch takes it once and uses nothing else.

    Attributes:
        version: Id of the version.
        model: The model, ready.
        manifest: What it is.
    """

    version: str
    model: M
    manifest: Manifest


class HotModel(Generic[M]):
    """Follows the pointer of one model."""

    def __init__(
        self,
        name: str,
        load: Callable[[Bundle], M],
        check: Callable[[M, Bundle], None],
        registry: Registry,
        settings: ModelSettings,
    ) -> None:
        """Keep what is needed; nothing is loaded yet.

        Args:
            name: Name of the model.
            load: Makes a model of a bundle, and checks its golden output.
            check: Checks the golden output of a model that serves; raises `InvalidBundle`.
            registry: Where versions are.
            settings: How often the pointer is read.
        """
        self._name = name
        self._load = load
        self._check = check
        self._registry = registry
        self._settings = settings
        self._current: tuple[Loaded[M], Bundle] | None = None
        self._seen_revision = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"{name}-reload", daemon=True)

    def current(self) -> Loaded[M] | None:
        """Return the version that serves; None while there is none."""
        current = self._current
        return current[0] if current else None

    def start(self) -> None:
        """Load the serving version if there is one, then follow the pointer.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the version in memory stays."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def refresh(self) -> None:
        """Look at the pointer once; if it moved, load that version aside and swap it in.

        A refused version is not tried again until the pointer moves.

        Raises:
            StoreUnavailable: MongoDB does not answer; the version in memory stays.
        """
        pointer = self._registry.pointer(self._name)
        if pointer is None or pointer.revision == self._seen_revision:
            return
        current = self.current()
        if current is None or current.version != pointer.version:
            try:
                self._swap(self._registry.fetch(self._name, pointer.version))
            except Unavailable:
                raise
            except Exception as exc:  # whatever a version breaks, the one before serves on
                metrics.REFUSED_RELOADS.labels(self._name, type(exc).__name__).inc()
                log.error(
                    "model version refused",
                    model=self._name,
                    version=pointer.version,
                    serving=current.version if current else None,
                    error=str(exc),
                )
        self._seen_revision = pointer.revision

    def self_test(self) -> bool:
        """Whether the serving version still computes its golden output; true when there is none."""
        current = self._current
        if current is None:
            return True
        try:
            self._check(current[0].model, current[1])
        except (ModelError, RuntimeError):
            return False
        return True

    def _swap(self, bundle: Bundle) -> None:
        self._check_features(bundle.manifest)
        before = self.current()
        loaded = Loaded(version=bundle.version, model=self._load(bundle), manifest=bundle.manifest)
        self._current = (loaded, bundle)  # one assignment: a batch sees the old or the new one
        metrics.RELOADS.labels(self._name).inc()
        if before is not None:
            metrics.MODEL_VERSION.remove(self._name, before.version)
        metrics.MODEL_VERSION.labels(self._name, loaded.version).set(1)
        log.info("model version serves", model=self._name, version=loaded.version)

    def _check_features(self, manifest: Manifest) -> None:
        """A version may read one output that is made before it."""
        made = MODEL_BY_NAME[self._name].reads
        for feature in manifest.features:
            if feature not in made:
                msg = f"{self._name} reads {feature!r}, which no stage makes before it"
                raise InvalidBundle(msg)
        if len(manifest.features) != 1:
            msg = f"{self._name} reads {len(manifest.features)} features, expected 1 of {made}"
            raise InvalidBundle(msg)

    def _poll(self) -> None:
        while not self._stop.wait(self._settings.poll_interval_seconds):
            try:
                self.refresh()
            except StoreUnavailable as exc:
                log.warning("pointer not read", model=self._name, error=str(exc))
            except Exception:  # a thread that ends would follow the pointer never again
                log.exception("pointer not followed", model=self._name)
