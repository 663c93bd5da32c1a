"""A step whose model is only announced: it runs while the version that this process has serves.

Which version serves is an operator's word (`captionstream models promote`), so wrong settings move
no pointer. A process with another version waits. One whose version serves no longer ends in good
order: its partitions then belong to processes that have the right one. Started again, it waits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from structlog import get_logger

from streams import metrics
from streams.errors import StoreUnavailable, Unavailable, UnknownFormat
from streams.following import Follower, end_in_good_order
from streams.registry.versions import Registry
from streams.settings import ModelSettings
from streams.stages.outcome import Input, Outcome, Step

log = get_logger(__name__)


class AnnouncedStep:
    """A step, and whether the version of its model serves."""

    def __init__(
        self,
        name: str,
        step: Step,
        registry: Registry,
        settings: ModelSettings,
        *,
        details: Mapping[str, Any],
        compare: Callable[[Mapping[str, Any]], str],
        remedy: str,
        leave: Callable[[], None] = end_in_good_order,
    ) -> None:
        """Keep what is needed; nothing is announced yet.

        Args:
            name: Name of the model.
            step: The step; `versions` has the version of this process.
            registry: Where it is announced, and who serves.
            settings: How often the pointer is read.
            details: What is announced with the version.
            compare: Gets the details with which the version was announced first; returns why this
                process does not compute the same, "" if it does.
            remedy: What to do if another version was meant.
            leave: Called once, when the version no longer serves.
        """
        self._name = name
        self._step = step
        self._version = step.versions()[name]
        self._registry = registry
        self._details = details
        self._compare = compare
        self._remedy = remedy
        self._leave = leave
        self._difference: str | None = None
        self._reason = "not known yet which version serves"
        self._follower = Follower(self.look, name=name, seconds=settings.poll_interval_seconds)

    def start(self) -> None:
        """Look once, then again and again. While MongoDB is away, the step waits."""
        try:
            self.look()
        except StoreUnavailable as exc:
            self._reason = str(exc)
        self._follower.start()

    def stop(self) -> None:
        """Stop looking at the pointer."""
        self._follower.stop()

    def waits_for(self) -> str:
        """Return why the step does not run, with the remedy; "" while it does."""
        return self._reason

    def look(self) -> None:
        """Announce the version if that is still to be done, and see which one serves.

        Raises:
            StoreUnavailable: MongoDB does not answer; what was known stays.
        """
        try:
            pointer = self._registry.pointer(self._name)
            if self._difference is None or pointer is None:
                first = self._registry.announce(self._name, self._version, self._details)
                self._difference = self._compare(first.details)
                pointer = self._registry.pointer(self._name)
        except UnknownFormat as exc:
            self._settle(str(exc))
            return
        serving = pointer.serving if pointer else None
        self._settle(self._why_not(serving))

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`.

        Raises:
            Unavailable: Another version serves.
        """
        reason = self._reason
        if reason:
            raise Unavailable(reason)
        return self._step.run(events)

    def self_test(self) -> bool:
        """Whether the step's model computes what it should."""
        return self._step.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version that this process has."""
        return self._step.versions()

    def _why_not(self, serving: str | None) -> str:
        if serving != self._version:
            return (
                f"this process has {self._name} {self._version}, but {serving or 'none'} serves:"
                f" promote it with `captionstream models promote {self._name} {self._version}`,"
                f" or {self._remedy}"
            )
        return self._difference or ""

    def _settle(self, reason: str) -> None:
        before, self._reason = self._reason, reason
        if reason == before:
            return
        gauge = metrics.MODEL_VERSION
        if not reason:
            gauge.labels(self._name, self._version).set(1)
            log.info("model version serves", model=self._name, version=self._version)
            return
        log.error("model version does not serve", model=self._name, reason=reason)
        if not before:
            gauge.remove(self._name, self._version)
            self._leave()
