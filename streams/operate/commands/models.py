"""Commands about model versions: list, show, promote, rollback."""

import json
from collections import Counter
from typing import Annotated, Any

import typer
from pymongo.database import Database

from streams.contract.states import Recaption
from streams.mongo.processes import read_reports
from streams.operate.commands.context import AsJson, DataDir, err, open_state, out, settings_of
from streams.registry.pointers import Pointer
from streams.registry.versions import Registry

models = typer.Typer(help="Model versions in the registry.", no_args_is_help=True)

Again = Annotated[
    Recaption,
    typer.Option(
        "--recaption",
        help="Outputs of other versions: `all` makes every one again, `stale` those that failed or"
        " were made from other features, `none` leaves them. What is missing is always made.",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the model, for example conditional_lm.")]


@models.command("list")
def models_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List every version, and how many processes have it; a star marks the one that serves.

    Example: captionstream models list
    """
    _, state = open_state(settings_of(data_dir))
    registry = Registry(state)
    pointers, problems = registry.pointers()
    has = _processes_with(state)
    infos = registry.versions()
    for info in infos:
        pointer = pointers.get(info.name)
        is_serving = pointer is not None and pointer.serving == info.version
        if as_json:
            row = {"name": info.name, "version": info.version, "serving": is_serving}
            row |= {"created_at": info.created_at.isoformat(), "processes": has[info.key]}
            typer.echo(json.dumps(row))
            continue
        mark = "*" if is_serving else " "
        created = f"{info.created_at:%Y-%m-%d %H:%M:%S}"
        line = f"{mark} {info.name:16s} {info.version:40s} {created}  {_loaded_by(has[info.key])}"
        out.print(line.rstrip(), markup=False)
    for problem in (*problems.values(), *(info.problem for info in infos if info.problem)):
        err.print(str(problem), markup=False)


@models.command("show")
def models_show(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="Default: the one that serves.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Show a version's manifest and the history of the model's pointer.

    Example: captionstream models show conditional_lm
    """
    registry = Registry(open_state(settings_of(data_dir))[1])
    pointer = registry.pointer(name)
    # Where none serves, the refused one and its history say why.
    usual = (pointer.serving or pointer.version) if pointer else ""
    info = registry.describe(name, version or usual)
    typer.echo(json.dumps(info.as_json(), indent=2, default=str))
    for move in registry.history(name):
        typer.echo(
            f"{move.at:%Y-%m-%d %H:%M:%S}  {move.revision:4d}  {move.version}"
            f"  recaption {move.recaption.value}  {move.reason}"
        )
        if move.refusal is not None:
            typer.echo(f"{'refused:':>25s}  {move.refusal.reason}")


@models.command("promote")
def models_promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version, or a unique beginning of one.")],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "by hand",
    recaption: Again = Recaption.ALL,
    data_dir: DataDir = None,
) -> None:
    """Let a version serve; running processes swap it in within seconds.

    Example: captionstream models promote conditional_lm 3f2a --recaption stale
    """
    _, state = open_state(settings_of(data_dir))
    pointer = Registry(state).promote(name, version, reason=reason, recaption=recaption)
    _tell(pointer, state)


@models.command("rollback")
def models_rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "rollback by hand",
    recaption: Again = Recaption.ALL,
    data_dir: DataDir = None,
) -> None:
    """Let the version serve that served before.

    Example: captionstream models rollback conditional_lm
    """
    _, state = open_state(settings_of(data_dir))
    pointer = Registry(state).rollback(name, reason=reason, recaption=recaption)
    _tell(pointer, state)


def _tell(pointer: Pointer, state: Database[dict[str, Any]]) -> None:
    name, version = pointer.name, pointer.version
    out.print(f"{name} now serves {version} (before: {pointer.previous or 'none'})")
    is_elsewhere = Registry(state).describe(name, version).is_announced
    if is_elsewhere and not _processes_with(state)[name, version]:
        err.print(
            f"no running process has {name} {version}: start one with the settings that give it,"
            " for clip CAPTIONSTREAM_CLIP__MODEL and CAPTIONSTREAM_CLIP__PRETRAINED",
            markup=False,
        )


def _processes_with(state: Database[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Return how many processes that are alive have each version in memory, serving or not."""
    return Counter(item for report in read_reports(state) for item in report.versions.items())


def _loaded_by(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}" if processes else ""
