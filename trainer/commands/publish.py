"""`captionstream-trainer publish` and `decisions`: the gate before a version may serve."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from streams.contract.default_pipeline import (
    CONDITIONAL_LM,
)
from streams.contract.states import Recaption
from streams.registry.versions import Registry
from trainer.commands.context import AsJson, DataDir, out, place_of
from trainer.commands.measuring import Beam, Name, SetName, bundle_of, evaluator
from trainer.job.decisions import Decision, Decisions
from trainer.job.gate import Gate
from trainer.job.publish import publish as publish_bundle
from trainer.snapshot.validation_set import ValidationSets

_USUAL_METRIC: Final = {CONDITIONAL_LM.name: "cider"}

Metric = Annotated[
    str | None,
    typer.Option(
        help="What decides: a name that `evaluate --json` prints. Default: cider for captions,"
        " recall10 for the projection.",
        show_default=False,
    ),
]
MinGain = Annotated[
    float, typer.Option(help="By how much it must be better; equal is never enough.")
]
Again = Annotated[
    Recaption, typer.Option("--recaption", help="What a promotion means for stored captions.")
]


def usual_metric(name: str, metric: str | None) -> str:
    """Return the metric that decides."""
    return metric or _USUAL_METRIC.get(name, "recall10")


def publish(  # noqa: PLR0913 - each is an option of the command
    name: Name,
    *,
    bundle: Annotated[Path, typer.Option(help="Directory of a bundle, or of a run.")],
    validation_set: SetName = "default",
    metric: Metric = None,
    min_gain: MinGain = 0.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Let it serve even if worse, unless its captions are empty."),
    ] = False,
    beam: Beam = None,
    recaption: Again = Recaption.ALL,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Store a bundle, and let it serve if it beats what serves on the same frozen set.

    Example: captionstream-trainer publish conditional_lm --bundle .captionstream/trainer/runs/3f2a
    """
    place = place_of(data_dir)
    _, state = place.connect()
    frozen = ValidationSets(state).get(validation_set)
    publication = publish_bundle(
        bundle_of(bundle, name),
        frozen,
        evaluate=evaluator(place.settings, frozen, beam=beam),
        registry=Registry(state),
        decisions=Decisions(state),
        gate=Gate(metric=usual_metric(name, metric), min_gain=min_gain, is_forced=force),
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

    Example: captionstream-trainer decisions conditional_lm
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
