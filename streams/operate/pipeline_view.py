"""How a pipeline, and what a change of it means, is shown to people and programs. No I/O."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from streams.contract.declaration import Declaration
from streams.contract.pipeline import CHANGES, Model, Pipeline, dead_letter_topic
from streams.contract.plan import ModelPlan, Plan
from streams.kafka.topics import group_name, topic_name
from streams.mongo.declarations import Stored
from streams.settings import KafkaSettings


def pipeline_table(pipeline: Pipeline, versions: Mapping[str, str]) -> Table:
    """Return a drawing: each model below the one whose topic it consumes.

    Args:
        pipeline: What is drawn.
        versions: Version that serves of each model that has one.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in ("kind", "reads", "state", "version"):
        table.add_column(column, overflow="fold")
    table.add_row(CHANGES)
    for model, lead in _tree(pipeline, CHANGES, ""):
        table.add_row(*_row(model.declaration, lead, versions))
    for declaration in pipeline.declarations:
        if declaration.name not in pipeline.models:
            table.add_row(*_row(declaration, "", versions))
    return table


def _tree(pipeline: Pipeline, topic: str, lead: str) -> Iterator[tuple[Model, str]]:
    """Yield the models behind a topic, each with the lines that lead to it."""
    models = pipeline.consumers(topic)
    for model in models:
        is_last = model is models[-1]
        yield model, lead + ("└─ " if is_last else "├─ ")
        yield from _tree(pipeline, model.name, lead + ("   " if is_last else "│  "))


def _row(declaration: Declaration, lead: str, versions: Mapping[str, str]) -> list[str]:
    reads = [f"{field}={upstream}" for field, upstream in declaration.features.items()]
    return [
        lead + declaration.name,
        declaration.kind,
        ", ".join((*reads, *declaration.raw_fields)),
        declaration.state.value,
        versions.get(declaration.name) or "-",
    ]


def pipeline_json(
    stored: Stored, versions: Mapping[str, str], kafka: KafkaSettings
) -> dict[str, Any]:
    """Return all that follows from a pipeline, in topological order; names are the broker's."""
    pipeline = stored.pipeline
    order = {name: place for place, name in enumerate(pipeline.models)}
    return {
        "revision": stored.revision,
        "reason": stored.reason,
        "at": stored.at.isoformat() if stored.at else None,
        "models": [
            d.model_dump(mode="json")
            | {"version": versions.get(d.name)}
            | (_place(pipeline, d.name, kafka) if d.name in order else {})
            for d in sorted(pipeline.declarations, key=lambda d: order.get(d.name, len(order)))
        ],
        "added": [list(edge) for edge in pipeline.added],
    }


def _place(pipeline: Pipeline, name: str, kafka: KafkaSettings) -> dict[str, Any]:
    model = pipeline.models[name]
    return {
        "consumes": topic_name(model.source_topic, kafka),
        "topic": topic_name(name, kafka),
        "dead_letters": topic_name(dead_letter_topic(name), kafka),
        "group": group_name(name, kafka),
        "ancestors": list(model.ancestors),
        "inputs": list(model.inputs),
    }


def plan_table(plan: Plan) -> Table:
    """Return what happens to each model: its processes, its outputs, and how long that takes.

    Outputs are counted in documents: those that get a first one, those where it is made again,
    those where it stays, and those that get none because of an error.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("first", "again", "stay", "errors", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in plan.models:
        counts = (model.missing, model.stale, model.reused, model.failed)
        table.add_row(model.action.value, model.name, *map(str, counts), _time(model))
    return table


def plan_lines(plan: Plan, kafka: KafkaSettings) -> Iterator[str]:
    """Yield what is to be said beside the table."""
    if plan.is_same:
        yield "nothing is declared otherwise"
    else:
        yield "publisher and sink start again, too: they know all models"
    for model in plan.models:
        if remark := _remark(model):
            yield f"{model.name}: {remark}"
    for name, follows in plan.added:
        yield f"{name} follows {follows}, so that an event carries all that its readers read"
    yield from _names("topics", (plan.new_topics, plan.unused_topics), topic_name, kafka)
    yield from _names("groups", (plan.new_groups, plan.unused_groups), group_name, kafka)
    if not any(model.made for model in plan.models):
        yield "no output is made"
    elif plan.seconds is None:
        yield "time not known: not every model has finished documents in the last half minute"
    else:
        yield f"about {plan.seconds:.0f} s, models side by side, at the rates of now"


def _names(
    what: str,
    new_and_unused: tuple[tuple[str, ...], tuple[str, ...]],
    on_the_broker: Callable[[str, KafkaSettings], str],
    kafka: KafkaSettings,
) -> Iterator[str]:
    for doing, names in zip(("created", "no longer used"), new_and_unused, strict=True):
        if names:
            yield f"{what} {doing}: {', '.join(on_the_broker(name, kafka) for name in names)}"


def plan_json(plan: Plan, kafka: KafkaSettings) -> dict[str, Any]:
    """Return the same for programs; names are the broker's."""
    topics = {name: getattr(plan, name) for name in ("new_topics", "unused_topics")}
    groups = {name: getattr(plan, name) for name in ("new_groups", "unused_groups")}
    return {
        "is_same": plan.is_same,
        "models": [asdict(model) for model in plan.models],
        "added": [list(edge) for edge in plan.added],
        **{name: [topic_name(t, kafka) for t in found] for name, found in topics.items()},
        **{name: [group_name(g, kafka) for g in found] for name, found in groups.items()},
        "seconds": plan.seconds,
    }


def _time(model: ModelPlan) -> str:
    if not model.made:
        return "-"
    return "unknown" if model.seconds is None else f"{model.seconds:.0f} s"


def _remark(model: ModelPlan) -> str:
    waits = "" if model.has_version else "no version serves yet: it waits for its first"
    return "; ".join(filter(None, (model.reason, waits)))
