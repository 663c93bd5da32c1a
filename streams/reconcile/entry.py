"""Where a document that is published again enters the pipeline: before the models that have to run.

What stands before them is right by its versions, so the event carries the stored outputs, no model
before them runs, and no image is read. A document without them begins at the beginning.
"""

from collections.abc import Iterable, Sequence

from bson.timestamp import Timestamp

from streams.contract.documents import Output, is_stored_for, lookup, stored_output
from streams.contract.events import DocumentChanged, ModelApplied, Origin
from streams.contract.ids import DocumentId
from streams.contract.pipeline import CHANGES, Model, Pipeline
from streams.contract.states import Serving, failed_models, pending_models
from streams.mongo.client import Document

Entry = tuple[str, DocumentChanged | ModelApplied]
"""A topic, and the event that is published there."""


def entry_of(document: Document, serving: Serving, before: Timestamp) -> Entry:
    """Return where a document enters, and with what.

    The event carries the newest source of what is stored, so that it can never beat a newer change.
    A document without any output gets the time before the scan: every change that the scan could
    not see is newer.

    Args:
        document: With its outputs.
        serving: The versions that serve.
        before: clusterTime from before the document was chosen.
    """
    pipeline = serving.pipeline
    source = stored_source(document, pipeline) or before
    models = pending_models(document, serving) or failed_models(document, serving)
    way = _common_way(models)
    outputs = _consistent_outputs(document, pipeline)
    made = [name for name in way if name in outputs]
    read = {name for model in models for name in model.ancestors if name in way}
    if not made or not read <= outputs.keys():
        return CHANGES, change_of(document["_id"], source)
    return way[-1], ModelApplied(
        document_id=document["_id"],
        source=source,
        origin=Origin.RECONCILE,
        model=made[-1],
        outputs=outputs,
        stored=frozenset(n for n in outputs if is_stored_for(document, pipeline.models[n], source)),
    )


def change_of(document_id: DocumentId, source: Timestamp) -> DocumentChanged:
    """Return the event with which a document begins at the beginning."""
    return DocumentChanged(document_id=document_id, source=source, origin=Origin.RECONCILE)


def stored_source(document: Document, pipeline: Pipeline) -> Timestamp | None:
    """Return the newest change that something stored is of; None when nothing is stored."""
    found = (lookup(document, f"{model.path}.source") for model in pipeline.models.values())
    return max((source for source in found if isinstance(source, Timestamp)), default=None)


def _common_way(models: Iterable[Model]) -> Sequence[str]:
    """Return the way that is common to events for all these models."""
    ways = [model.way for model in models]
    return [names[0] for names in zip(*ways, strict=False) if len({*names}) == 1]


def _consistent_outputs(document: Document, pipeline: Pipeline) -> dict[str, Output]:
    """Return the stored outputs, upstream first, up to those of other inputs than one before."""
    inputs: dict[str, str] = {}
    outputs: dict[str, Output] = {}
    for model in pipeline.models.values():
        output = stored_output(document, model, inputs)
        if output is not None:
            outputs[model.name] = output
            inputs |= output.inputs
    return outputs
