"""What a model is measured on: the entries of a validation set that have all it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from streams.contract.documents import CAPTIONS
from streams.contract.pipeline import Model
from streams.errors import FeatureMismatch, SettingsError
from trainer.evaluate.evaluation import GeneratedCaption
from trainer.fit.dataset import Target, document_of, targets_of
from trainer.snapshot.columns import from_json, inputs_of
from trainer.snapshot.validation_set import Entry, ValidationSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One entry, for one model.

    Attributes:
        entry: The entry.
        inputs: What the model sees, by field.
        targets: What would be right; not empty.
    """

    entry: Entry
    inputs: Mapping[str, Any]
    targets: Sequence[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What came out.

    Attributes:
        metrics: Figures by name, `n` among them: how many cases were scored.
        cases: These cases.
        values: What the model made of each, as it would be stored.
        captions: The same for people, where it makes captions.
    """

    metrics: Mapping[str, float]
    cases: Sequence[Case]
    values: Sequence[Any]
    captions: tuple[GeneratedCaption, ...] = ()


def cases_of(
    validation_set: ValidationSet,
    model: Model,
    target: Target,
    *,
    is_usable: Callable[[Any], bool] = lambda _: True,
) -> list[Case]:
    """Return the entries that have all that a model reads, and a usable target.

    Raises:
        SettingsError: There is none.
        TrainerError: `target` failed.
    """
    found = []
    for entry in validation_set.entries:
        values = {
            CAPTIONS: list(entry.captions),
            **{c: from_json(v) if isinstance(v, str) else v for c, v in entry.values.items()},
        }
        columns = inputs_of(model)
        if not all(column in values for column in columns.values()):
            continue
        targets = targets_of(document_of(values), target)
        if any(map(is_usable, targets)):
            inputs = {field: values[column] for field, column in columns.items()}
            found.append(Case(entry=entry, inputs=inputs, targets=targets))
    if not found:
        msg = (
            f"no entry of validation set {validation_set.name!r} has all that {model.name} reads"
            " and something to compare with (a caption with a word, for one that makes captions):"
            " take another set, or `captionstream-trainer validation-set create --refresh`"
        )
        raise SettingsError(msg)
    return found


def vectors_in(cases: Sequence[Case], dimension: int, model: Model) -> torch.Tensor:
    """Return the vectors that a model reads which reads nothing else, of shape (N, D).

    Raises:
        FeatureMismatch: They have another length than it reads, or are no vectors.
    """
    inputs = [value for case in cases for value in case.inputs.values()]
    lengths = {value.size if isinstance(value, np.ndarray) else None for value in inputs}
    if lengths != {dimension}:
        found = ", ".join(sorted(map(str, lengths)))
        msg = f"{model.name} reads vectors of length {dimension}, the set's have {found}"
        raise FeatureMismatch(msg)
    return torch.from_numpy(np.stack(inputs).astype(np.float32))
