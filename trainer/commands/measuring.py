"""Options of the commands about versions, and how a version is found and measured."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from streams.contract.kinds import is_class
from streams.contract.manifest import Bundle
from streams.contract.pipeline import Model, Pipeline
from streams.errors import ModelNotFound, SettingsError
from streams.registry.versions import Registry
from trainer.commands.context import Place
from trainer.fit.options import Device, PlugName
from trainer.job.publish import Evaluate
from trainer.snapshot.columns import Reads
from trainer.snapshot.validation_set import ValidationSet

Name = Annotated[str, typer.Argument(help="Name of a model of the pipeline.")]
SetName = Annotated[str, typer.Option("--validation-set", help="Name of the validation set.")]
Learn = Annotated[
    list[str] | None,
    typer.Option(
        "--learn",
        help="A field that is learned beside captions, or _outputs.MODEL; repeat it for more.",
        show_default=False,
    ),
]
_CODE: Final = "`package.module:function` instead of the kind's own."
Target = Annotated[
    str | None,
    typer.Option(help=f"What is to be learned of a document: {_CODE}", show_default=False),
]
Loss = Annotated[
    str | None, typer.Option(help=f"Loss of (outputs, targets): {_CODE}", show_default=False)
]
Splitter = Annotated[
    str | None,
    typer.Option(
        help=f"Which document meets which target in an epoch: {_CODE}", show_default=False
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(help=f"What else is measured on (values, targets): {_CODE}", show_default=False),
]
Where = Annotated[
    Device, typer.Option("--device", help="Where to compute; auto takes a GPU where there is one.")
]
Asked = Annotated[
    list[str] | None,
    typer.Option(
        "--ask",
        metavar="NAME=VALUE",
        help="Measure with this option instead of the declared one; repeat it for more.",
        show_default=False,
    ),
]


def named_plugs(**names: str | None) -> dict[PlugName, str]:
    """Return the plugs that are named."""
    return {cast("PlugName", plug): name for plug, name in names.items() if name is not None}


def values_of(given: list[str] | None, option: str) -> dict[str, Any]:
    """Return NAME=VALUE as names and JSON values; a value that is no JSON is a text.

    Raises:
        SettingsError: One has no name or no value.
    """
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            msg = f"{option} {text[:80]!r}: write NAME=VALUE"
            raise SettingsError(msg)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def reads_of(pipeline: Pipeline, learn: list[str] | None) -> Reads:
    """Return whose inputs are read, and what is learned: what is asked for, and what kinds say.

    Built-in kinds learn from captions alone. A user's class is imported, and torch with it.
    """
    own: tuple[str, ...] = ()
    if any(is_class(model.declaration.kind) for model in pipeline.models.values()):
        from trainer.fit.kinds import learned_by

        own = learned_by(pipeline)
    return Reads(pipeline=pipeline, learned=tuple(dict.fromkeys([*own, *(learn or ())])))


def asked_model(pipeline: Pipeline, name: str, ask: list[str] | None = None) -> Model:
    """Return a model that can be fitted, with the options that it is to be asked with.

    Raises:
        ModelNotFound: There is none of this name.
        InvalidPipeline: Its kind has no such option.
        SettingsError: An option has no name or no value.
    """
    from streams.models.kinds.find import kind_of
    from trainer.fit.kinds import model_of

    model = model_of(pipeline, name)
    options = {**model.declaration.options, **values_of(ask, "--ask")}
    declaration = model.declaration.model_copy(update={"options": options})
    kind_of(declaration.kind).check(declaration)
    return replace(model, declaration=declaration)


def evaluator(
    place: Place,
    pipeline: Pipeline,
    model: Model,
    validation_set: ValidationSet,
    *,
    plugs: Mapping[PlugName, str],
    device: Device = Device.AUTO,
) -> Evaluate:
    """Return how every version is measured: on this set, with a text tower if it is needed."""
    from trainer.evaluate.evaluate import evaluate_bundle
    from trainer.evaluate.measuring import Measuring
    from trainer.fit.device import device_of
    from trainer.fit.kinds import plugs_of
    from trainer.fit.text_encoder import text_encoder

    measuring = Measuring(
        model=model,
        validation_set=validation_set,
        plugs=plugs_of(model, plugs),
        encode_texts=text_encoder(place.settings.clip, pipeline, model, validation_set.versions),
        device=device_of(device),
    )
    return partial(evaluate_bundle, measuring=measuring)


def bundle_of(directory: Path, name: str) -> Bundle:
    """Return the bundle in a directory, or in the `bundle` of a run's directory.

    Raises:
        InvalidBundle: There is none, or it is damaged.
        SettingsError: It is of another model.
    """
    from streams.models.bundle import from_directory

    inner = directory / "bundle"
    bundle = from_directory(inner if inner.is_dir() else directory)
    if bundle.manifest.name != name:
        msg = f"the bundle in {directory} is one of {bundle.manifest.name}, not of {name}"
        raise SettingsError(msg)
    return bundle


def history_beside(directory: Path) -> Path | None:
    """Return the history of the run that a bundle's directory belongs to, if it is there."""
    from trainer.fit.fitting import HISTORY

    places = (directory / HISTORY, directory.resolve().parent / HISTORY)
    return next((place for place in places if place.is_file()), None)


def stored_bundle(registry: Registry, name: str, version: str | None) -> Bundle:
    """Return a version from the registry: by a unique beginning, or the one that serves.

    Raises:
        ModelNotFound: There is no such version.
        InvalidBundle: It is damaged.
        StoreUnavailable: MongoDB does not answer.
    """
    if version is not None:
        return registry.fetch(name, registry.describe(name, version).version)
    pointer = registry.pointer(name)
    serving = pointer.serving if pointer else None
    if serving is None:
        msg = f"no version of {name} serves; name one by --version or --bundle"
        raise ModelNotFound(msg)
    return registry.fetch(name, serving)
