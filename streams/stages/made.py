"""What an output was made of, and the event that carries it on. Pure."""

from collections.abc import Mapping

import numpy as np
from bson.timestamp import Timestamp

from streams.contract.documents import Output, is_stored_for, lineage, lookup, stored_output
from streams.contract.events import ModelApplied
from streams.contract.manifest import Feature
from streams.contract.pipeline import IMAGE, Model, Pipeline
from streams.errors import FeatureMismatch
from streams.images.find import Arrived, FoundInputs


def outputs_of(event: Arrived) -> Mapping[str, Output]:
    """Return the outputs that an event carries; a change carries none."""
    return event.outputs if isinstance(event, ModelApplied) else {}


def misfit(features: Mapping[str, Feature], event: Arrived) -> FeatureMismatch | bool:
    """Return whether a version cannot read what an event carries; an error if none ever could.

    Args:
        features: What the version reads, by name of the upstream model.
        event: The event.
    """
    outputs = outputs_of(event)
    problem: FeatureMismatch | bool = False
    for name, wanted in features.items():
        made = outputs.get(name)
        if made is None:  # it failed, or awaits a version itself
            return True
        is_wanted = made.version == wanted.version
        if wanted.version is not None and not is_wanted:
            return True
        shape = made.value.shape if isinstance(made.value, np.ndarray) else None
        if wanted.dimension is not None and shape != (wanted.dimension,):
            if not is_wanted:  # a version that takes any of its length takes no other
                return True
            msg = f"{name!r} has shape {shape}, expected ({wanted.dimension},)"
            problem = FeatureMismatch(msg)
    return problem


def lineage_of(model: Model, event: Arrived) -> dict[str, str]:
    """Return the version of every upstream model. See `lineage`."""
    return lineage(model, outputs_of(event))


def inputs_of(model: Model, event: Arrived, found: FoundInputs | None) -> dict[str, str] | None:
    """Return the fingerprint of every field that an output depends on.

    Those of the features, and those that were found now; None if two of them are of different
    contents of one field. The image behind a URL counts as the one that another model has fetched
    from there for this event: each fetch may bring another one.
    """
    outputs = outputs_of(event)
    inputs: dict[str, str] = {}
    parts = [outputs[name].inputs for name in model.reads]
    if found is not None:
        fetched = (o.inputs.get(IMAGE) for o in outputs.values() if o.url and o.url == found.url)
        known = next(filter(None, fetched), None)
        parts.append({**found.inputs, **({IMAGE: known} if known is not None else {})})
    for part in parts:
        if any(inputs.get(name, made_of) != made_of for name, made_of in part.items()):
            return None
        inputs |= part
    return inputs


def own_output(
    model: Model, event: Arrived, found: FoundInputs | None, inputs: Mapping[str, str]
) -> Output | None:
    """Return what the model made before of the same inputs; None if nothing is known of that."""
    carried = outputs_of(event).get(model.name)
    if carried is not None and carried.inputs == inputs:
        return carried
    return stored_output(found.document, model, inputs) if found is not None else None


def applied(
    model: Model,
    pipeline: Pipeline,
    event: Arrived,
    output: Output,
    found: FoundInputs | None,
    *,
    is_reused: bool,
) -> ModelApplied:
    """Return the event that carries an output on, made now or before.

    The first model of a document adds what is stored downstream for the same inputs.
    """
    source = _source(model, event, found)
    outputs = dict(outputs_of(event))
    stored: frozenset[str] = frozenset()
    if isinstance(event, ModelApplied) and source == event.source:
        stored = event.stored
    if found is not None and not isinstance(event, ModelApplied):
        models = pipeline.models.items()
        before = {name: stored_output(found.document, m, output.inputs) for name, m in models}
        outputs = {name: known for name, known in before.items() if known is not None}
        stored = frozenset(
            name for name in outputs if is_stored_for(found.document, pipeline.models[name], source)
        )
    return ModelApplied(
        document_id=event.document_id,
        source=source,
        origin=event.origin,
        model=model.name,
        outputs={**outputs, model.name: output},
        changed_at=event.changed_at,
        stored=stored if is_reused else stored - {model.name},
    )


def _source(model: Model, event: Arrived, found: FoundInputs | None) -> Timestamp:
    """Return the change that was read: that of the event, or the earliest that may follow it.

    If what is stored was made for the event's change of another content, there is a later change,
    whose event is lost or still to come. A late record of the other content must not win over this
    one, nor this one over what is made for the later change.
    """
    if found is None:
        return event.source
    stored = lookup(found.document, model.path) or {}
    made_of = {name: lookup(stored, f"input.{name}") for name in found.inputs}
    is_other = any(made_of[name] not in (None, now) for name, now in found.inputs.items())
    if lookup(stored, "source") != event.source or not is_other:
        return event.source
    return Timestamp(event.source.time, event.source.inc + 1)
