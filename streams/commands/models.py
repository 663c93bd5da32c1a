"""Commands about model versions: list, show, promote, rollback."""

import json
from typing import Annotated

import typer

from streams.commands.context import AsJson, DataDir, open_state, out, settings_of
from streams.errors import SettingsError
from streams.registry import Registry
from streams.states import Recaption

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


def _registry(data_dir: DataDir) -> Registry:
    return Registry(open_state(settings_of(data_dir))[1])


@models.command("list")
def models_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List every version; a star marks the one that serves.

    Example: captionstream models list
    """
    registry = _registry(data_dir)
    pointers = registry.pointers()
    for info in registry.versions():
        pointer = pointers.get(info.name)
        is_serving = pointer is not None and pointer.serving == info.version
        if as_json:
            row = {"name": info.name, "version": info.version, "serving": is_serving}
            typer.echo(json.dumps({**row, "created_at": info.created_at.isoformat()}))
            continue
        mark = "*" if is_serving else " "
        created = f"{info.created_at:%Y-%m-%d %H:%M:%S}"
        out.print(f"{mark} {info.name:16s} {info.version:40s} {created}", markup=False)


@models.command("show")
def models_show(
    name: Name,
    version: Annotated[str | None, typer.Argument(help="Default: the one that serves.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Show a version's manifest and the history of the model's pointer.

    Example: captionstream models show conditional_lm
    """
    registry = _registry(data_dir)
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
    registry = _registry(data_dir)
    _check_is_movable(registry, name)
    pointer = registry.promote(name, version, reason=reason, recaption=recaption)
    out.print(f"{name} now serves {pointer.version} (before: {pointer.previous or 'none'})")


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
    registry = _registry(data_dir)
    _check_is_movable(registry, name)
    pointer = registry.rollback(name, reason=reason, recaption=recaption)
    out.print(f"{name} now serves {pointer.version} (before: {pointer.previous or 'none'})")


def _check_is_movable(registry: Registry, name: str) -> None:
    """A process announces what it has loaded; to move that pointer would load nothing else."""
    pointer = registry.pointer(name)
    if pointer is not None and registry.describe(name, pointer.version).manifest is None:
        msg = (
            f"the weights of {name} are not in the registry: set CAPTIONSTREAM_CLIP__MODEL and"
            " CAPTIONSTREAM_CLIP__PRETRAINED, and start `featurize` again"
        )
        raise SettingsError(msg)
