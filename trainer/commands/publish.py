"""`captionstream-trainer publish` and `decisions`: the gate before a version may serve."""

import json
from pathlib import Path
from typing import Annotated

import typer

from streams.contract.pipeline import Model
from streams.contract.states import Recaption
from streams.registry.versions import Registry
from trainer.commands.context import AsJson, DataDir, out, place_of
from trainer.commands.measuring import (
    Asked,
    Metrics,
    Name,
    SetName,
    Target,
    Where,
    asked_model,
    bundle_of,
    evaluator,
    named_plugs,
)
from trainer.fit.options import Device
from trainer.job.decisions import Decision, Decisions
from trainer.job.gate import Gate
from trainer.job.publish import check_current
from trainer.job.publish import publish as publish_bundle
from trainer.snapshot.validation_set import ValidationSets
from trainer.snapshot.writer import serving_versions

Metric = Annotated[
    str | None,
    typer.Option(
        help="What decides: a name that `evaluate --json` prints. Default: what the model's"
        " kind says.",
        show_default=False,
    ),
]
MinGain = Annotated[
    float, typer.Option(help="By how much it must be better; equal is never enough.")
]
Again = Annotated[
    Recaption, typer.Option("--recaption", help="What a promotion means for stored outputs.")
]


def gate_of(model: Model, metric: str | None, *, min_gain: float, is_forced: bool) -> Gate:
    """Return what a candidate must reach; the kind's metric decides, if no other is named."""
    from trainer.fit.kinds import plugs_of  # noqa: PLC0415 - loads torch

    decides = metric or plugs_of(model).rules.decides
    return Gate(metric=decides, min_gain=min_gain, is_forced=is_forced)


def publish(  # noqa: PLR0913 - each is an option of the command
    name: Name,
    *,
    bundle: Annotated[Path, typer.Option(help="Directory of a bundle, or of a run.")],
    validation_set: SetName = "default",
    metric: Metric = None,
    min_gain: MinGain = 0.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Let it serve even if worse, within the limits of its kind."),
    ] = False,
    ask: Asked = None,
    target: Target = None,
    metrics: Metrics = None,
    device: Where = Device.AUTO,
    recaption: Again = Recaption.ALL,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Store a bundle, and let it serve if it beats what serves on the same frozen set.

    Example: captionstream-trainer publish MODEL --bundle .captionstream/trainer/runs/3f2a
    """
    place = place_of(data_dir)
    _, state = place.connect()
    frozen = ValidationSets(state).get(validation_set)
    pipeline = place.pipeline
    model, named = asked_model(pipeline, name, ask), named_plugs(target=target, metrics=metrics)
    registry = Registry(state)
    candidate = bundle_of(bundle, name)
    check_current(candidate, frozen, serving_versions(registry, pipeline))
    publication = publish_bundle(
        candidate,
        frozen,
        evaluate=evaluator(place, pipeline, model, frozen, plugs=named, device=device),
        registry=registry,
        decisions=Decisions(state),
        gate=gate_of(model, metric, min_gain=min_gain, is_forced=force),
        recaption=recaption,
    )
    if as_json:
        typer.echo(json.dumps(publication.decision.as_json()))
    else:
        out.print(line_of(publication.decision), markup=False)


def decisions(
    name: Annotated[str | None, typer.Argument(help="Name of a model; all without it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the latest so many.")] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what the gate decided, oldest first.

    Example: captionstream-trainer decisions --limit 5
    """
    _, state = place_of(data_dir).connect()
    for decision in Decisions(state).list(name, limit=limit):
        if as_json:
            typer.echo(json.dumps(decision.as_json()))
        else:
            out.print(f"{decision.at:%Y-%m-%d %H:%M:%S}  {line_of(decision)}", markup=False)


def line_of(decision: Decision) -> str:
    """Return a decision as people read it."""
    if decision.outcome == "promoted":
        now = f"now serves {decision.candidate} (before: {decision.serving or 'none'})"
    else:
        now = f"keeps {decision.serving}, not {decision.candidate}"
    return f"{decision.model} {now}: {decision.reason}"
