"""How far a document has come: follows from its outputs and the versions that serve. Pure.

The one place that says which stored output is good enough: the reconciler, `status` and the stages
all ask here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from streams.contract.documents import (
    lookup,
)
from streams.contract.pipeline import (
    Model,
    Pipeline,
)


class DocumentState(StrEnum):
    """How far one document has come."""

    CAPTIONED = "captioned"
    AWAITING_MODEL = "awaiting_model"
    PENDING = "pending"
    FAILED = "failed"


class Recaption(StrEnum):
    """What a move of a model's pointer means for the outputs that are stored already.

    Missing outputs are made in any case, and every change that comes in gets the new version. The
    newest move decides about everything that is stored, whatever earlier moves said.
    """

    ALL = "all"  # every output and error of another version is made again
    STALE = "stale"  # so are errors, and outputs that were made from other features; others stay
    NONE = "none"  # outputs and errors of other versions stay as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A pipeline, the version that serves for each model, and the upstream versions it needs.

    Attributes:
        pipeline: What is declared.
        versions: Version by model name; a model without a version is absent.
        requires: For each model the upstream versions that it accepts, by upstream name.
        misfits: Models whose version reads vectors of another length than what serves makes.
        recaption: What the newest move of each model means for stored outputs; `all` when absent.
        problems: Why the version that a pointer names does not serve, by model name.
    """

    pipeline: Pipeline
    versions: Mapping[str, str]
    requires: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    misfits: frozenset[str] = frozenset()
    recaption: Mapping[str, Recaption] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    def can_run(self, model: Model) -> bool:
        """Whether the model has a version that fits the serving versions of what it reads."""
        if model.name not in self.versions or model.name in self.misfits:
            return False
        wanted = self.requires.get(model.name, {})
        return all(self.versions.get(name) == version for name, version in wanted.items())


def document_state(document: Mapping[str, Any], serving: Serving) -> DocumentState:
    """Classify a document by its `_outputs` and the serving versions.

    Pending means that running the pipeline again would change something. An error makes the
    document failed: those that read its output wait for nothing.
    """
    if pending_model(document, serving) is not None:
        return DocumentState.PENDING
    models = serving.pipeline.models.values()
    runnable = [model for model in models if serving.can_run(model)]
    if any(_has_error(document, model) for model in runnable):
        return DocumentState.FAILED
    is_complete = len(runnable) == len(models)
    return DocumentState.CAPTIONED if is_complete else DocumentState.AWAITING_MODEL


def pending_model(document: Mapping[str, Any], serving: Serving) -> Model | None:
    """Return the first model that has to run for the document; None when none has to."""
    return next(_pending(document, serving), None)


def pending_models(document: Mapping[str, Any], serving: Serving) -> list[Model]:
    """Return every model that has to run for the document, upstream first."""
    return list(_pending(document, serving))


def failed_models(document: Mapping[str, Any], serving: Serving) -> list[Model]:
    """Return the models whose error stands in the document, upstream first."""
    return [m for m in serving.pipeline.models.values() if _has_error(document, m)]


def _pending(document: Mapping[str, Any], serving: Serving) -> Iterator[Model]:
    """An error stops what reads it, directly or through others, and nothing else."""
    for model in serving.pipeline.models.values():
        if not serving.can_run(model) or not _has_to_run(document, model, serving):
            continue
        upstream = serving.pipeline.ancestors(model)
        if not any(serving.can_run(m) and _has_error(document, m) for m in upstream):
            yield model


def is_good_enough(
    recaption: Recaption, *, is_serving_version: bool, is_of_current_features: bool
) -> bool:
    """Whether a stored output, no error, may stay as it is.

    Args:
        recaption: What the newest move of the model's pointer said.
        is_serving_version: Whether the version that serves has made it.
        is_of_current_features: Whether it was made from what the model would read now.
    """
    if is_serving_version or recaption is Recaption.STALE:
        return is_of_current_features
    return recaption is Recaption.NONE


def _has_to_run(document: Mapping[str, Any], model: Model, serving: Serving) -> bool:
    version = lookup(document, f"{model.path}.version")
    if version is None:
        return True
    recaption = serving.recaption.get(model.name, Recaption.ALL)
    is_serving_version = version == serving.versions[model.name]
    if _has_error(document, model):
        return not is_serving_version and recaption is not Recaption.NONE
    made_from = (lookup(document, f"{model.path}.features.{name}") for name in model.reads)
    return not is_good_enough(
        recaption,
        is_serving_version=is_serving_version,
        is_of_current_features=list(made_from) == [serving.versions.get(n) for n in model.reads],
    )


def _has_error(document: Mapping[str, Any], model: Model) -> bool:
    return lookup(document, f"{model.path}.error.retryable") is not None
