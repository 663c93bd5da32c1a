"""What happens when another pipeline is declared: known before it is. Pure.

It asks the same rules that the reconciler and the stages ask, so that what happens is what was
said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from streams.contract.declaration import ModelState
from streams.contract.documents import lookup
from streams.contract.pipeline import Model, Pipeline
from streams.contract.states import Recaption, Serving, is_good_enough

#: What nothing stored was made by.
_UNKNOWN: Final = "?"


class Action(StrEnum):
    """What a pipeline that replaces another one means for the processes of a model."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    GO_ON = "go on"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredOutputs:
    """Documents whose outputs are of the same versions.

    Attributes:
        document: Versions, features and errors, where they stand in a document.
        count: How many such documents there are.
    """

    document: Mapping[str, Any]
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPlan:
    """What it means for one model.

    Attributes:
        name: Name of the model.
        action: What its processes do.
        reason: Why they restart or stop; empty otherwise.
        missing: Documents that get a first output.
        stale: Documents whose output, or error, is made again.
        reused: Documents whose output stays.
        failed: Documents that get none: they hold an error of it, or of what it reads.
        has_version: Whether a version serves; without one the model waits for its first.
        seconds: How long it has to run at the rate that was measured; None where none was.
    """

    name: str
    action: Action
    reason: str = ""
    missing: int = 0
    stale: int = 0
    reused: int = 0
    failed: int = 0
    has_version: bool = True
    seconds: float | None = None

    @property
    def made(self) -> int:
        """How many documents it runs for."""
        return self.missing + self.stale


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What happens when one pipeline replaces another.

    Attributes:
        is_same: Whether nothing is declared otherwise; else `publisher` and `sink` start again.
        models: Those that run afterwards, in topological order, then those that stop.
        added: Pairs (model, follows) that the compiler adds so that every event carries what its
            consumers read, and that were not there before.
        new_topics: Topics that are created, without prefix.
        unused_topics: Topics that nobody writes or reads any more, without prefix.
        new_groups: Consumer groups that appear, by the name of their stage.
        unused_groups: Consumer groups that are no longer used, by the name of their stage.
    """

    is_same: bool
    models: tuple[ModelPlan, ...]
    added: tuple[tuple[str, str], ...] = ()
    new_topics: tuple[str, ...] = ()
    unused_topics: tuple[str, ...] = ()
    new_groups: tuple[str, ...] = ()
    unused_groups: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """How long all of it takes, models side by side; None where a rate is not known."""
        times = [model.seconds for model in self.models if model.made]
        known = [seconds for seconds in times if seconds is not None]
        return max(known, default=0.0) if len(known) == len(times) else None


def plan(
    before: Pipeline,
    serving: Serving,
    stored: Iterable[StoredOutputs],
    rates: Mapping[str, float],
) -> Plan:
    """Return what happens when another pipeline replaces the one before.

    Args:
        before: The pipeline of now.
        serving: The pipeline that is to be, and the versions that will serve in it.
        stored: All documents, by what stands at its `state_paths`.
        rates: Documents a second of each model, where that was measured.
    """
    after = serving.pipeline
    kinds = {declaration.name: declaration.kind for declaration in before.declarations}
    versions = {
        # No version of another kind is one of this.
        n: _UNKNOWN if kinds.get(n, kind) != kind else serving.versions.get(n)
        for n, kind in ((n, model.declaration.kind) for n, model in after.models.items())
    }
    counts = _counts(after, stored, versions, serving)
    running = [
        _running(name, before, after, counts[name], versions[name], rates.get(name))
        for name in after.models
    ]
    gone = [name for name in before.models if name not in after.models]
    states = {declaration.name: declaration.state for declaration in after.declarations}
    topics_before, topics = before.all_topics, after.all_topics
    return Plan(
        is_same=before == after,
        models=(*running, *(_stopping(name, states.get(name)) for name in gone)),
        added=tuple(edge for edge in after.added if edge not in before.added),
        new_topics=tuple(topic for topic in topics if topic not in topics_before),
        unused_topics=tuple(topic for topic in topics_before if topic not in topics),
        new_groups=tuple(name for name in after.models if name not in before.models),
        unused_groups=tuple(gone),
    )


def _counts(
    after: Pipeline,
    stored: Iterable[StoredOutputs],
    versions: Mapping[str, str | None],
    serving: Serving,
) -> dict[str, dict[str, int]]:
    counts = {name: dict.fromkeys(("missing", "stale", "reused", "failed"), 0) for name in versions}
    for group in stored:
        fate: dict[str, str] = {}
        for name, model in after.models.items():
            fate[name] = _fate(group.document, model, versions, serving)
            if any(fate[read] == "failed" for read in model.reads):
                fate[name] = "failed"
            counts[name][fate[name]] += group.count
    return counts


def _fate(
    document: Mapping[str, Any],
    model: Model,
    versions: Mapping[str, str | None],
    serving: Serving,
) -> str:
    """Return what becomes of a model's output in a document, if what it reads is there."""
    version = lookup(document, f"{model.path}.version")
    if version is None:
        return "missing"
    if versions[model.name] is None:
        return "reused"
    recaption = serving.recaption.get(model.name, Recaption.ALL)
    is_serving = version == versions[model.name]
    if lookup(document, f"{model.path}.error.retryable") is not None:
        return "failed" if is_serving or recaption is Recaption.NONE else "stale"
    made_from = [lookup(document, f"{model.path}.features.{name}") for name in model.reads]
    is_good = is_good_enough(
        recaption,
        is_serving_version=is_serving,
        is_of_current_features=made_from == [versions[name] for name in model.reads],
    )
    return "reused" if is_good else "stale"


def _running(
    name: str,
    before: Pipeline,
    after: Pipeline,
    counts: Mapping[str, int],
    version: str | None,
    rate: float | None,
) -> ModelPlan:
    action, reason = Action.GO_ON, ""
    if name not in before.models:
        action = Action.START
    elif not before.does_the_same(after, name):
        action = Action.RESTART
        reason = _difference(before.models[name], after.models[name])
    made = counts["missing"] + counts["stale"]
    return ModelPlan(
        name=name,
        action=action,
        reason=reason,
        **counts,
        has_version=version is not None,
        seconds=0.0 if not made else made / rate if rate else None,
    )


def _difference(before: Model, after: Model) -> str:
    """Return why the processes of a model cannot go on as they are."""
    if before.declaration != after.declaration:
        one, other = before.declaration.model_dump(), after.declaration.model_dump()
        return "declared with other " + ", ".join(name for name in one if one[name] != other[name])
    if before.source_topic != after.source_topic:
        return f"follows {after.source_topic} instead of {before.source_topic}"
    if before.way != after.way:
        return f"behind {', '.join(after.way)} instead of {', '.join(before.way)}"
    if (before.ancestors, before.inputs) != (after.ancestors, after.inputs):
        return "what it reads is made of something else"
    return "other models stand behind it"


def _stopping(name: str, state: ModelState | None) -> ModelPlan:
    reason = "no longer declared" if state is None else "inactive"
    return ModelPlan(name=name, action=Action.STOP, reason=f"{reason}; its outputs stay")
