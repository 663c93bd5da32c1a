"""What is wrong with one document: outputs that are not what their models compute, false errors.

Knows documents, models and dead letters; `verify` reads them.

Equal means: texts letter by letter; vectors and scores but for their last digits, which depend on
how many were computed together. CLIP is deep, so more digits of an embedding do.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch

from streams.contract.default_pipeline import (
    CLIP,
    MODELS,
)
from streams.contract.documents import (
    Output,
    fingerprint,
    lookup,
    stored_image,
    stored_output,
    url_of,
)
from streams.contract.ids import document_key
from streams.contract.pipeline import (
    Model,
)
from streams.contract.states import Serving, pending_model
from streams.errors import InvalidImage, ModelError, WriteRejected
from streams.models.clip import ClipEncoder
from streams.mongo.client import Document
from streams.operate.dead_letter_log import DeadLetterLog, Failure
from streams.registry.computations import Compute, computation
from streams.registry.versions import Registry
from streams.settings import Settings

#: Largest difference of two vectors, as a share of the largest number in them. Measured: 7e-7 of a
#: projection from 1024 numbers, alone and among 64.
_TOLERANCE: Final = 1e-5
_CLIP_TOLERANCE: Final = 1e-3
#: Largest difference of two scores.
_SCORE_TOLERANCE: Final = 1e-4
#: Errors that the publisher writes itself: there is no record that could become a dead letter.
_WITHOUT_LETTER: Final = frozenset({"InvalidId"})
#: What may keep an image without an embedding although it can be decoded.
_NOT_THE_IMAGE: Final = frozenset(
    {"ModelFailed", "ModelHung", "ModelCrashed", "WriteRejected", *_WITHOUT_LETTER}
)


class Recomputer:
    """Computes outputs again and compares them with stored ones. One thread at a time."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Keep what is needed; a version is loaded when it is asked for."""
        self._settings = settings
        self._registry = registry
        self._computations: dict[tuple[str, str, int], Compute] = {}

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
            _compare(CLIP.name, output, row, _CLIP_TOLERANCE)
            if output.version == version
            else f"clip is of {output.version}, the settings give {version}"
            for output, row in zip(stored, expected, strict=True)
        ]

    def compare(self, model: Model, stored: Mapping[str, Output]) -> str:
        """Return what is wrong with the stored output of another model; "" when it is right.

        It is computed with the version and the beam width that made it, from the stored output that
        it was made of. One that was made of a feature that is gone by now cannot be computed again,
        and is right if a promotion said that it stays: the caller knows that.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        name, [upstream] = model.name, model.reads
        output, feature = stored[name], stored.get(upstream)
        if feature is None:
            return f"{name} is there without {upstream}"
        if output.features.get(upstream) != feature.version:
            return ""
        try:
            compute = self._computation(name, output)
        except ModelError as exc:
            return f"{name} was made by a version that cannot be loaded: {exc}"
        [(value, score)] = compute(np.asarray(feature.value)[np.newaxis])
        return _compare(name, output, value, _TOLERANCE) or _compare_scores(name, output, score)

    def problem_of_outputs(self, document: Document) -> str:
        """Return what is wrong with a document's outputs, the embedding's numbers aside.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        errors = errors_of(document)
        # What was made of an embedding that finds no room is right, and cannot be computed again.
        is_refused = errors.get(CLIP) == WriteRejected.__name__
        outputs = current_outputs(document) if is_refused or CLIP not in errors else {}
        for model in MODELS:
            if model in errors or lookup(document, model.path) is None:
                continue
            if model.name not in outputs:
                return f"{model.name} was made from another image"
            problem = model.reads and not is_refused and self.compare(model, outputs)
            if problem:
                return problem
        return ""

    def _computation(self, name: str, output: Output) -> Compute:
        key = (name, output.version, output.beam_width)
        if key not in self._computations:
            bundle = self._registry.fetch(name, output.version)
            self._computations[key] = computation(name, bundle, output.beam_width)
        return self._computations[key]


def unfinished(document: Document, serving: Serving) -> str:
    """Return which model has to run yet; "" when none has."""
    model = pending_model(document, serving)
    return f"{model.name} has to run" if model is not None else ""


def current_outputs(document: Document) -> dict[str, Output]:
    """Return the outputs that were made from the image that the document holds or names now."""
    url = url_of(document)
    if url is None:
        digest = fingerprint(stored_image(document))
    else:
        digest = str(lookup(document, f"{CLIP.path}.input"))
    found = {model.name: stored_output(document, model, digest) for model in MODELS}
    if url is not None and lookup(document, f"{CLIP.path}.url") != url:
        return {}
    return {name: output for name, output in found.items() if output is not None}


def errors_of(document: Mapping[str, Any]) -> dict[Model, str]:
    """Return the type of the stored error of each model that failed."""
    found = {model: lookup(document, f"{model.path}.error.type") for model in MODELS}
    return {model: str(error) for model, error in found.items() if error is not None}


def problem_of_errors(
    document: Document,
    image: torch.Tensor | InvalidImage | None,
    letters: DeadLetterLog,
    *,
    kept_hours: float,
) -> str:
    """Return what is wrong with the errors that a document carries, or does not carry.

    Args:
        document: The document with its outputs.
        image: What came of decoding its image; None when nobody tried.
        letters: The dead letters.
        kept_hours: How long dead letters are kept; of an older error there may be none.
    """
    errors = errors_of(document)
    error = errors.get(CLIP)
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


def _compare(name: str, output: Output, expected: np.ndarray | str, tolerance: float) -> str:
    if isinstance(expected, str) or isinstance(output.value, str):
        is_right = output.value == expected
        return "" if is_right else f"{name} is {output.value!r}, its version gives {expected!r}"
    if output.value.shape != expected.shape:
        return f"{name} has shape {output.value.shape}, its version gives {expected.shape}"
    difference = float(np.abs(output.value - expected).max(initial=0))
    largest = float(np.abs(expected).max(initial=0))
    if not difference <= tolerance * largest:  # so that NaN is a difference, too
        return f"{name} differs by up to {difference:.2g} from what its version gives"
    return ""


def _compare_scores(name: str, output: Output, expected: float | None) -> str:
    found = output.score
    if found is None or expected is None:
        is_right = found is expected
    else:
        is_right = abs(found - expected) <= _SCORE_TOLERANCE
    return "" if is_right else f"{name} has score {found}, its version gives {expected}"
