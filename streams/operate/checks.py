"""What is wrong with one document: outputs that are not what their models compute, false errors.

Knows documents, models and dead letters; `verify` reads them.

Equal means: texts letter by letter; vectors and scores but for their last digits, which depend on
how many were computed together. CLIP is deep, so more digits of an embedding do.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import torch

from streams.contract.documents import (
    Output,
    current_inputs,
    lookup,
    stored_output,
    unread_format,
)
from streams.contract.ids import document_key
from streams.contract.pipeline import Model, Pipeline
from streams.contract.states import Serving, pending_model
from streams.contract.versions import output_version, weights_version
from streams.errors import DocumentError, InvalidImage, ModelError, UnknownFormat, WriteRejected
from streams.models.clip import ClipEncoder
from streams.models.kinds.find import kind_of, load
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import Made, Predictor
from streams.models.kinds.results import difference
from streams.mongo.client import Document
from streams.operate.dead_letter_log import DeadLetterLog, Failure
from streams.registry.versions import Registry
from streams.settings import Settings

#: Errors that the publisher writes itself: there is no record that could become a dead letter.
_WITHOUT_LETTER: Final = frozenset({"InvalidId"})
#: What may keep an image without an embedding although it can be decoded.
_NOT_THE_IMAGE: Final = frozenset(
    {"ModelFailed", "ModelHung", "ModelCrashed", "WriteRejected", *_WITHOUT_LETTER}
)


class Recomputer:
    """Computes outputs again and compares them with stored ones. One thread at a time."""

    def __init__(self, settings: Settings, registry: Registry, pipeline: Pipeline) -> None:
        """Keep what is needed; a version is loaded when it is asked for."""
        self._settings = settings
        self._registry = registry
        self._pipeline = pipeline
        self._root = root_of(pipeline)
        self._predictors: dict[tuple[str, str], Predictor] = {}

    @cached_property
    def encoder(self) -> ClipEncoder:
        """The CLIP of the settings.

        Raises:
            SettingsError: It cannot be had.
        """
        return ClipEncoder(self._settings.clip)

    def compare_embeddings(
        self, pixels: Sequence[torch.Tensor], stored: Sequence[Output]
    ) -> list[str]:
        """Return for each image what is wrong with its stored embedding; "" when it is right.

        Args:
            pixels: Preprocessed images, each of shape (3, H, W).
            stored: The embedding that its document holds, for each.

        Raises:
            SettingsError: CLIP cannot be had.
        """
        if not pixels:
            return []
        expected = self.encoder.encode(torch.stack(list(pixels)))  # (B, D)
        version = self.encoder.version
        return [
            _compare(self._root, output, Made(value=row))
            if output.version == version
            else f"{self._root.name} is of {output.version}, the settings give {version}"
            for output, row in zip(stored, expected, strict=True)
        ]

    def compare(self, model: Model, stored: Mapping[str, Output]) -> str:
        """Return what is wrong with the stored output of another model; "" when it is right.

        It is computed with the version that made it, from the stored output that it was made of.
        One that was made of a feature that is gone by now cannot be computed again, and is right if
        a promotion said that it stays: the caller knows that.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        name, [upstream] = model.name, model.reads
        output, feature = stored[name], stored.get(upstream)
        if feature is None:
            return f"{name} is there without {upstream}"
        if output.features.get(upstream) != feature.version:
            return ""
        if output.version != output_version(model.declaration, weights_version(output.version)):
            return ""  # with options that are no longer declared
        try:
            predictor = self._predictor(model, output)
        except (ModelError, UnknownFormat) as exc:
            return f"{name} was made by a version that cannot be loaded: {exc}"
        fields = dict.fromkeys(model.declaration.features, feature.value)
        [made] = predictor.predict([predictor.preprocess(item_of(model.declaration, fields))])
        return _compare(model, output, made)

    def problem_of_outputs(self, document: Document) -> str:
        """Return what is wrong with a document's outputs, the embedding's numbers aside.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        errors, root = errors_of(document, self._pipeline), self._root
        # What was made of an embedding that finds no room is right, and cannot be computed again.
        is_refused = errors.get(root) == WriteRejected.__name__
        is_there = is_refused or root not in errors
        outputs = current_outputs(document, self._pipeline) if is_there else {}
        for model in self._pipeline.models.values():
            if model in errors or lookup(document, model.path) is None:
                continue
            if model.name not in outputs:
                return f"{model.name} was made from another image"
            problem = model.reads and not is_refused and self.compare(model, outputs)
            if problem:
                return problem
        return ""

    def _predictor(self, model: Model, output: Output) -> Predictor:
        key = (model.name, weights_version(output.version))
        if key not in self._predictors:
            self._predictors[key] = load(model.declaration, self._registry.fetch(*key))
        return self._predictors[key]


def unreadable(document: Document, pipeline: Pipeline) -> str:
    """Return which output or error is of another format, with the remedy; "" when none is."""
    return next(filter(None, (unread_format(document, m) for m in pipeline.models.values())), "")


def unfinished(document: Document, serving: Serving) -> str:
    """Return which model has to run yet; "" when none has."""
    model = pending_model(document, serving)
    return f"{model.name} has to run" if model is not None else ""


def root_of(pipeline: Pipeline) -> Model:
    """Return the model that reads the image."""
    return next(model for model in pipeline.models.values() if model.has_image)


def current_outputs(document: Document, pipeline: Pipeline) -> dict[str, Output]:
    """Return the outputs that were made from the fields that the document holds or names now."""
    inputs = current_inputs(document, pipeline)
    found = {m.name: stored_output(document, m, inputs) for m in pipeline.models.values()}
    return {name: output for name, output in found.items() if output is not None}


def errors_of(document: Mapping[str, Any], pipeline: Pipeline) -> dict[Model, str]:
    """Return the type of the stored error of each model that failed."""
    models = pipeline.models.values()
    found = {model: lookup(document, f"{model.path}.error.type") for model in models}
    return {model: str(error) for model, error in found.items() if error is not None}


def problem_of_errors(
    document: Document,
    image: torch.Tensor | InvalidImage | None,
    letters: DeadLetterLog,
    pipeline: Pipeline,
    *,
    kept_hours: float,
) -> str:
    """Return what is wrong with the errors that a document carries, or does not carry.

    Args:
        document: The document with its outputs.
        image: What came of decoding its image; None when nobody tried.
        letters: The dead letters.
        pipeline: What is declared.
        kept_hours: How long dead letters are kept; of an older error there may be none.
    """
    errors = errors_of(document, pipeline)
    error = errors.get(root_of(pipeline))
    if isinstance(image, InvalidImage) and error not in (InvalidImage.__name__, *_WITHOUT_LETTER):
        return f"it has {error or 'outputs'}, and yet: {image}"
    if isinstance(image, torch.Tensor) and error is not None and error not in _NOT_THE_IMAGE:
        return f"it carries {error}, and yet its image can be decoded"
    oldest = datetime.now(UTC) - timedelta(hours=kept_hours)
    for model, kind in errors.items():
        at = lookup(document, f"{model.path}.at")
        is_kept = isinstance(at, datetime) and at > oldest
        if (
            is_kept
            and kind not in _WITHOUT_LETTER
            and not _is_reported(document, model, kind, letters)
        ):
            return f"{model.name} failed, and no dead letter says so"
    return ""


def _is_reported(document: Document, model: Model, kind: str, letters: DeadLetterLog) -> bool:
    """Whether a dead letter is about this error; the sink's names no model."""
    key = document_key(document["_id"]).decode()
    source = lookup(document, f"{model.path}.source")
    return any(letters.reports(Failure(key, n, kind, source)) for n in (model.name, ""))


def _compare(model: Model, output: Output, made: Made | DocumentError) -> str:
    if isinstance(made, DocumentError):
        return f"{model.name} is there, and yet its version gives none: {made}"
    tolerance = kind_of(model.declaration.kind).tolerance
    problem = difference(output.value, made.value, tolerance)
    if problem:
        return f"{model.name} {problem} (compared with what its version gives)"
    found, expected = output.score, made.score
    is_right = found is expected
    if found is not None and expected is not None:
        is_right = abs(found - expected) <= tolerance.score
    return "" if is_right else f"{model.name} has score {found}, its version gives {expected}"
