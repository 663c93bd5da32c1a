"""The serving version of one model in memory: polled, verified, swapped between batches.

A version whose content does not hold is refused, counted and noted beside the pointer; the one
before serves on, in every process: in those that had taken the refused one and in those that start
later. Any other trouble with it is this process's own: it says nothing about the version, so this
process alone keeps what it has, is not ready, and tries again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from structlog import get_logger

from streams import metrics
from streams.backoff import Backoff
from streams.contract.manifest import Bundle, Manifest
from streams.contract.states import Recaption
from streams.errors import (
    InvalidBundle,
    ModelError,
    ModelNotFound,
    Unavailable,
    UnknownFormat,
    bounded,
)
from streams.following import Follower
from streams.registry.pointers import Pointer
from streams.registry.versions import Registry
from streams.settings import ModelSettings

log = get_logger(__name__)

#: What shows that a version's content is wrong. All else (memory, files, a driver) is our own.
_REFUSALS: Final = (InvalidBundle, ModelNotFound)
#: State of a pointer that this process cannot read.
_UNREADABLE: Final = (0, False)
#: Longest pause before a version is tried again by a process that has trouble of its own.
_LONGEST_PAUSE_SECONDS: Final = 60.0
#: Longest text of an error in a reason.
_MOST_CHARACTERS: Final = 300

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[M]):
    """A version that serves. A batch takes it once and uses nothing else.

    Attributes:
        version: Id of the version.
        model: The model, ready.
        manifest: What it is.
        recaption: What its promotion means for outputs that are stored.
    """

    version: str
    model: M
    manifest: Manifest
    recaption: Recaption = Recaption.ALL


class _OwnTrouble(Exception):
    """This process cannot load a version, which may be as it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trouble:
    """What keeps this process from a move of the pointer, and when it is tried again."""

    state: tuple[int, bool]
    reason: str
    attempts: int
    again_at: float


class HotModel(Generic[M]):
    """Follows the pointer of one model."""

    def __init__(
        self,
        name: str,
        load: Callable[[Bundle], M],
        check: Callable[[M, Bundle], None],
        registry: Registry,
        settings: ModelSettings,
        *,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is needed; nothing is loaded yet.

        Args:
            name: Name of the model.
            load: Makes a model of a bundle, and checks its golden output.
            check: Checks the golden output of a model that serves; raises `InvalidBundle`.
            registry: Where versions are.
            settings: How often the pointer is read.
            prepare: Called before each look at the pointer; may move it.
        """
        self._prepare = prepare
        self._name = name
        self._load = load
        self._check = check
        self._registry = registry
        self._settings = settings
        self._current: tuple[Loaded[M], Bundle] | None = None
        self._seen: tuple[int, bool] | None = None
        self._trouble: _Trouble | None = None
        self._follower = Follower(self.refresh, name=name, seconds=settings.poll_interval_seconds)

    def current(self) -> Loaded[M] | None:
        """Return the version that serves; None while there is none."""
        current = self._current
        return current[0] if current else None

    @property
    def _version(self) -> str | None:
        return self._current[0].version if self._current else None

    def waits_for(self) -> str:
        """Return what keeps this process from the version that serves; "" when nothing does."""
        trouble = self._trouble
        return trouble.reason if trouble else ""

    def start(self) -> None:
        """Load the serving version if there is one, then follow the pointer.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        self.refresh()
        self._follower.start()

    def stop(self) -> None:
        """Stop following; the version in memory stays."""
        self._follower.stop()

    def refresh(self) -> None:
        """Look at the pointer once; if it moved, load that version aside and swap it in.

        A pointer that another release has moved, in a format of its own, is this process's trouble.

        1. Nothing has changed since the last look, or a trouble has its pause: done.
        2. Take the version that the pointer names.
        3. It does not hold: say so beside the pointer, and which version serves on. It is not tried
           again until the pointer moves.
        4. It was refused, here or elsewhere: everywhere the same version serves on, or none.
        5. This process cannot load it: keep what is in memory and try again, ever more seldom.

        Raises:
            StoreUnavailable: MongoDB does not answer; the version in memory stays.
        """
        is_known = self._trouble is not None and self._trouble.state == _UNREADABLE
        try:
            self._prepare()
            pointer = self._registry.pointer(self._name)
            if is_known:  # no more; what is in memory is what it was
                self._trouble = None
            self._go_to(pointer)
        except UnknownFormat as exc:
            if not is_known:
                self._note_trouble(_UNREADABLE, str(exc))

    def _go_to(self, pointer: Pointer | None) -> None:
        while pointer is not None and self._is_due(pointer):  # 1
            try:
                problem = None if pointer.refusal is not None else self._take(pointer.version)  # 2
                if problem is None:
                    self._settle(pointer)
                    continue
                last = self._last_good(pointer)
            except _OwnTrouble as exc:  # 5
                # What is in memory stays, unless it is the very version that was refused.
                if pointer.refusal and self._version == pointer.version:
                    self._drop()
                self._note_trouble(pointer.state, str(exc))
                continue
            # What comes back may be a later move already, which is followed as well.
            pointer = self._registry.refuse(pointer, reason=problem, serving=last)  # 3

    def self_test(self) -> bool:
        """Whether the serving version still computes its golden output; true when there is none."""
        if self._current is None:
            return True
        loaded, bundle = self._current
        try:
            self._check(loaded.model, bundle)
        except (ModelError, RuntimeError):
            return False
        return True

    def _is_due(self, pointer: Pointer) -> bool:
        trouble = self._trouble
        if trouble is not None and trouble.state == pointer.state:
            return time.monotonic() >= trouble.again_at
        return self._seen != pointer.state

    def _settle(self, pointer: Pointer) -> None:
        """Serve what this move says, and remember that it was followed."""
        if pointer.refusal is not None:  # 4
            problem = self._take(pointer.serving) if pointer.serving else "nothing serves on"
            if problem is not None:
                self._drop()
        if self._current is not None:
            recaption = pointer.recaption if pointer.refusal is None else Recaption.NONE
            loaded, bundle = self._current
            self._current = (replace(loaded, recaption=recaption), bundle)
        self._seen, self._trouble = pointer.state, None

    def _note_trouble(self, state: tuple[int, bool], error: str) -> None:
        before = self._trouble
        attempts = 1 + (before.attempts if before is not None and before.state == state else 0)
        backoff = Backoff(self._settings.poll_interval_seconds, _LONGEST_PAUSE_SECONDS)
        self._trouble = _Trouble(
            state=state,
            reason=f"{error}; that is this process's own trouble: it tries again, and until then"
            f" serves {self._version or 'no version'}",
            attempts=attempts,
            again_at=time.monotonic() + backoff.pause(attempts),
        )
        log.error("model version not loaded", model=self._name, reason=self._trouble.reason)

    def _take(self, version: str) -> str | None:
        """Let a version serve if it does not already; return why it does not hold.

        A process whose own version computes something else by now is no judge of another one.

        Raises:
            _OwnTrouble: It cannot be loaded here, which says nothing about it.
        """
        if self._version == version:
            return None
        try:
            self._swap(self._registry.fetch(self._name, version))
        except Unavailable:
            raise
        except Exception as exc:
            if isinstance(exc, _REFUSALS) and self.self_test():
                metrics.REFUSED_RELOADS.labels(self._name, type(exc).__name__).inc()
                log.error("version refused", model=self._name, version=version, error=str(exc))
                return str(exc)
            metrics.FAILED_RELOADS.labels(self._name, type(exc).__name__).inc()
            what = bounded(f"{type(exc).__name__}: {exc}", _MOST_CHARACTERS)
            msg = f"{self._name} {version} cannot be loaded ({what})"
            raise _OwnTrouble(msg) from exc
        return None

    def _last_good(self, refused: Pointer) -> str | None:
        """Return the version that serves on: a process that has just started has none in memory."""
        if self._version is not None:
            return self._version
        tried = {refused.version}
        for move in reversed(self._registry.history(self._name)):
            version = move.serving
            if version is None or version in tried:
                continue
            if self._take(version) is None:
                return version
            tried.add(version)
        return None

    def _drop(self) -> None:
        if current := self.current():
            self._current = None
            metrics.MODEL_VERSION.remove(self._name, current.version)
            log.warning("no model version serves", model=self._name, before=current.version)

    def _swap(self, bundle: Bundle) -> None:
        before = self.current()
        loaded = Loaded(version=bundle.version, model=self._load(bundle), manifest=bundle.manifest)
        self._current = (loaded, bundle)  # one assignment: a batch sees the old or the new one
        metrics.RELOADS.labels(self._name).inc()
        if before is not None:
            metrics.MODEL_VERSION.remove(self._name, before.version)
        metrics.MODEL_VERSION.labels(self._name, loaded.version).set(1)
        log.info("model version serves", model=self._name, version=loaded.version)
