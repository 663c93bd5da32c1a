"""How far a document has come: follows from its outputs and the versions that serve. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from streams.documents import CLIP, MODELS, Model, lookup


class DocumentState(StrEnum):
    """How far one document has come."""

    CAPTIONED = "captioned"
    AWAITING_MODEL = "awaiting_model"
    PENDING = "pending"
    FAILED = "failed"


#: Paths (below the document) that decide a document's state; all of them are in the state index.
STATE_PATHS: Final = tuple(
    f"{model.path}.{name}"
    for model in MODELS
    for name in (
        "version",
        "error.retryable",
        *(f"features.{upstream}" for upstream in model.reads),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """The version that serves for each model, and the upstream versions that it was fitted on.

    Attributes:
        versions: Version by model name; a model without a version is absent.
        requires: For each model the upstream versions that it accepts, by upstream name.
    """

    versions: Mapping[str, str]
    requires: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def can_run(self, model: Model) -> bool:
        """Whether the model has a version that fits the serving versions of what it reads."""
        if model.name not in self.versions:
            return False
        wanted = self.requires.get(model.name, {})
        return all(self.versions.get(name) == version for name, version in wanted.items())


def document_state(document: Mapping[str, Any], serving: Serving) -> DocumentState:
    """Classify a document by its `_outputs` and the serving versions.

    Pending means that running the pipeline again would change something. A final error of an
    upstream model makes the document failed, whatever stands downstream.
    """
    if pending_model(document, serving) is not None:
        return DocumentState.PENDING
    runnable = [model for model in MODELS if serving.can_run(model)]
    if any(_has_error(document, model) for model in runnable):
        return DocumentState.FAILED
    is_complete = len(runnable) == len(MODELS)
    return DocumentState.CAPTIONED if is_complete else DocumentState.AWAITING_MODEL


def pending_model(document: Mapping[str, Any], serving: Serving) -> Model | None:
    """Return the first model that has to run for the document; None when none has to."""
    for model in MODELS:
        if not serving.can_run(model):
            continue
        if lookup(document, f"{model.path}.version") != serving.versions[model.name]:
            return model
        if _has_error(document, model):
            if model is CLIP:  # nothing downstream can have been made
                return None
            continue
        for upstream in model.reads:
            made_from = lookup(document, f"{model.path}.features.{upstream}")
            if made_from != serving.versions.get(upstream):
                return model
    return None


def _has_error(document: Mapping[str, Any], model: Model) -> bool:
    return lookup(document, f"{model.path}.error.retryable") is not None
