"""The command `reconcile`: documents whose outputs are missing or stale go through again."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from streams.capture.copies import CopyRequests
from streams.logs import configure_command_logging
from streams.mongo.processes import Report, read_reports
from streams.operate.commands.context import (
    DataDir,
    declared_pipeline,
    open_documents,
    open_state,
    out,
    settings_of,
)
from streams.operate.status import read_status
from streams.reconcile.reconciler import ReconcilePlan, Reconciler
from streams.registry.versions import Registry


def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Look at every document: after Kafka lost its log."),
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Publish again every document whose outputs are missing or to be made again.

    The last promotion of a model says what is made again, see `models promote --recaption`.

    A change without an event (made by the command applyOps, or lost with Kafka's log) leaves
    outputs of the fields before: a thousand documents, chosen by chance, are looked at for that.
    With --all the publisher looks at every document, and leaves out what is done already.

    Example: captionstream reconcile --dry-run
    """
    settings = settings_of(data_dir)
    configure_command_logging("reconcile")
    client, state = open_state(settings)
    pipeline = declared_pipeline(settings, client)
    store = open_documents(settings, client, pipeline)
    if everything:
        out.print(f"{read_status(store, state).total} documents")
        if not dry_run:
            CopyRequests(state).ask()
            out.print("the publisher was asked for them; watch `captionstream status`")
        return
    registry = Registry(state)
    reconciler = Reconciler(settings, client, pipeline, serving=lambda: registry.serving(pipeline))
    plan = reconciler.plan()
    for line in describe(plan, next(iter(pipeline.models)), read_reports(state)):
        out.print(line, markup=False)
    if not dry_run and plan.total:
        out.print(f"{reconciler.reconcile_now(plan.changed)} documents published")


def describe(plan: ReconcilePlan, first: str, reports: Sequence[Report]) -> Iterator[str]:
    """Yield the lines that say what is to be done, and how long it may take.

    Of the stages that a document passes, the first is the one that has to run its model; what has
    to be read again begins with the model `first`.
    """
    yield f"{plan.total} documents"
    for model, count in plan.by_model.items():
        yield f"  {count:8d} from {model} on, {_estimate(count, model, reports)}"
    if plan.retries:
        time = _estimate(plan.retries, first, reports)
        yield f"  {plan.retries:8d} with an error that may pass, {time}"
    if changed := len(plan.changed):
        time = _estimate(changed, first, reports)
        yield f"  {changed:8d} whose fields were changed without an event, {time}"
        yield f"  {plan.looked_at:8d} were looked at for that; `reconcile --all` looks at every one"


def _estimate(count: int, stage: str, reports: Sequence[Report]) -> str:
    rate = sum(report.rate for report in reports if report.stage == stage)
    if not rate:
        return f"time not known: {stage} has finished nothing in the last half minute"
    return f"about {count / rate:.0f} s at the {rate:.2f} documents/s that {stage} does now"
