"""Applies a hot-reloaded model to features that events carry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from streams import metrics
from streams.contract.dead_letters import DeadLetter
from streams.contract.documents import (
    Output,
)
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.manifest import Manifest
from streams.contract.pipeline import (
    Model,
)
from streams.contract.states import Recaption, is_good_enough
from streams.contract.versions import output_version
from streams.errors import FeatureMismatch, InvalidEvent, ModelFailed
from streams.registry.hot_model import Loaded
from streams.stages.outcome import Failed, Input, Ok, Outcome, Result

M = TypeVar("M")

Compute = Callable[[np.ndarray], Sequence[Output]]
"""From features of shape (B, D) to B outputs whose `features` are still empty."""


def apply_model(
    model: Model,
    loaded: Loaded[M] | None,
    events: Sequence[Input],
    compute: Compute,
) -> list[Outcome]:
    """Return one outcome for each event; every output comes from the one version in `loaded`.

    A stored output of the same version and the same upstream versions is sent on as it is. So is
    one that the newest promotion leaves alone, unless the change is a live one.
    Without a version, or with one that was fitted on other features, the document awaits a model:
    while CLIP changes, vectors of either meet either projection, and the reconciler repeats them.
    So it does where what is read was not made: why, is said at the model that did not make it.
    """
    outcomes = [_without_model(model, loaded, event) for event in events]
    todo = [i for i, outcome in enumerate(outcomes) if outcome is None]
    if todo and loaded is not None:
        chosen = [event for event in (events[i] for i in todo) if isinstance(event, ModelApplied)]
        feature = _feature(loaded.manifest)
        vectors = np.stack([np.asarray(event.outputs[feature].value) for event in chosen])
        metrics.MODEL_CALLS.labels(model.name).inc(len(chosen))
        for i, event, output in zip(todo, chosen, compute(vectors), strict=True):
            outcomes[i] = _made(model, loaded, event, output)
    return [outcome for outcome in outcomes if outcome is not None]


def _without_model(model: Model, loaded: Loaded[M] | None, event: Input) -> Outcome | None:
    """Return the outcome if no model is needed for it, else None."""
    if isinstance(event, DocumentDeleted):
        return Ok(event=event, result=Result.DELETED)
    if isinstance(event, DeadLetter):
        return Failed(error=InvalidEvent(f"{model.name} got a {type(event).__name__}"))
    # A change: it went past a model that made nothing, and carries nothing.
    if isinstance(event, DocumentChanged) or loaded is None or not _accepts(loaded.manifest, event):
        return Ok(event=None, result=Result.AWAITING_MODEL)
    version = output_version(model.declaration, loaded.version)
    problem = _mismatch(loaded.manifest, event)
    if problem is not None:
        return Failed(error=FeatureMismatch(problem), version=version)
    stored = event.outputs.get(model.name)
    if stored is not None and is_good_enough(
        Recaption.ALL if event.origin is Origin.LIVE else loaded.recaption,
        is_serving_version=stored.version == version,
        is_of_current_features=dict(stored.features) == _lineage(loaded.manifest, event),
    ):
        return Ok(event=_applied(model, event, stored), result=Result.REUSED)
    return None


def _made(model: Model, loaded: Loaded[M], event: ModelApplied, output: Output) -> Outcome:
    version = output_version(model.declaration, loaded.version)
    numbers = output.value if isinstance(output.value, np.ndarray) else output.score
    if numbers is not None and not np.isfinite(numbers).all():
        error = ModelFailed(f"{model.name} {loaded.version} gave numbers that are not finite")
        return Failed(error=error, version=version)
    made = replace(
        output,
        version=version,
        features=_lineage(loaded.manifest, event),
        inputs=_inputs(loaded.manifest, event),
    )
    return Ok(event=_applied(model, event, made), result=Result.DONE)


def _feature(manifest: Manifest) -> str:
    return next(iter(manifest.features))


def _accepts(manifest: Manifest, event: ModelApplied) -> bool:
    """Whether every output is there, and every vector is one that the model can read."""
    for name, wanted in manifest.features.items():
        made = event.outputs.get(name)
        if made is None:
            return False
        if not isinstance(made.value, np.ndarray) or made.version == wanted.version:
            continue
        # A version that takes any CLIP still takes only those of its dimension.
        if wanted.version is not None or made.value.shape != (wanted.dimension,):
            return False
    return True


def _mismatch(manifest: Manifest, event: ModelApplied) -> str | None:
    for name, wanted in manifest.features.items():
        made = event.outputs[name]
        if not isinstance(made.value, np.ndarray):
            return f"the event carries no vector of {name!r}"
        if made.value.shape != (wanted.dimension,):
            return f"{name!r} has shape {made.value.shape}, expected ({wanted.dimension},)"
    return None


def _lineage(manifest: Manifest, event: ModelApplied) -> Mapping[str, str]:
    """Return the version of every upstream model, those of the features' own features included."""
    versions: dict[str, str] = {}
    for name in manifest.features:
        made = event.outputs[name]
        versions.update(made.features)
        versions[name] = made.version
    return versions


def _inputs(manifest: Manifest, event: ModelApplied) -> Mapping[str, str]:
    """Return the fingerprints of all that the features were made from."""
    return {k: v for name in manifest.features for k, v in event.outputs[name].inputs.items()}


def _applied(model: Model, event: ModelApplied, output: Output) -> ModelApplied:
    return replace(event, model=model.name, outputs={**event.outputs, model.name: output})
