"""Options of the commands about versions, and how a version is found and measured."""

# ruff: noqa: PLC0415 - torch is loaded by the commands that need it

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from streams.contract.manifest import Bundle
from streams.errors import ModelNotFound, SettingsError
from streams.registry.versions import Registry
from streams.settings import Settings
from trainer.job.publish import Evaluate
from trainer.snapshot.validation_set import ValidationSet

Name = Annotated[str, typer.Argument(help="conditional_lm or clip_projection.")]
SetName = Annotated[str, typer.Option("--validation-set", help="Name of the validation set.")]
Beam = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        help="Width of the search; 1 is greedy. Default: CAPTIONSTREAM_MODELS__BEAM_WIDTH.",
        show_default=False,
    ),
]


def evaluator(settings: Settings, validation_set: ValidationSet, *, beam: int | None) -> Evaluate:
    """Return how every version is measured: on this set, with CLIP at hand if it is needed.

    And with the beam width that the stages decode with, if no other is given.
    """
    from trainer.evaluate.evaluate import evaluate_bundle
    from trainer.fit.text_encoder import text_encoder

    return partial(
        evaluate_bundle,
        validation_set=validation_set,
        beam=beam or settings.models.beam_width,
        encode_texts=text_encoder(settings.clip, validation_set.clip_version),
    )


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
