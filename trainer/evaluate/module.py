"""How good a version of a user's kind is: its loss, its own metrics, and what it fails at."""

from collections.abc import Sequence
from typing import Any

import torch

from streams.contract.manifest import Bundle
from streams.errors import DocumentError
from streams.models.bundle import tensors_of
from streams.models.kinds.find import load
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import Made
from trainer.evaluate.cases import Case, Measured, cases_of
from trainer.evaluate.measuring import Measuring
from trainer.fit.dataset import take
from trainer.fit.device import moved
from trainer.fit.module import made, preprocessed

#: The share of cases that it made nothing of.
FAILED = "failed"


def measure(bundle: Bundle, measuring: Measuring) -> Measured:
    """Apply a version as a stage would, and compare what it makes with the targets.

    Metrics: `loss` (a mean over all targets, where the kind has a loss), `failed` (share of cases
    that it raises an error at), `n`, and what the kind's `metrics` says of all others.

    Raises:
        InvalidBundle: It cannot be loaded.
        SettingsError: No entry has what it reads and a target.
        TrainerError: A plug fails.
    """
    model, plugs = measuring.model, measuring.plugs
    cases = cases_of(measuring.validation_set, model, plugs.target)
    results = _applied(bundle, cases, measuring)
    good = [(c, r.value) for c, r in zip(cases, results, strict=True) if isinstance(r, Made)]
    metrics: dict[str, float] = {"n": len(cases), FAILED: 1 - len(good) / len(cases)}
    if plugs.has_loss and good:
        metrics["loss"] = _loss(bundle, [case for case, _ in good], measuring)
    return Measured(
        metrics=metrics, cases=[case for case, _ in good], values=[value for _, value in good]
    )


def _applied(
    bundle: Bundle, cases: Sequence[Case], measuring: Measuring
) -> list[Made | DocumentError]:
    declaration = measuring.model.declaration
    predictor = load(declaration, bundle, str(measuring.device))
    results: list[Made | DocumentError] = []
    for start in range(0, len(cases), measuring.batch_size):
        part = cases[start : start + measuring.batch_size]
        items: list[Any] = []
        for case in part:
            try:
                items.append(predictor.preprocess(item_of(declaration, case.inputs)))
            except DocumentError as exc:
                items.append(exc)
        good = iter(predictor.predict([i for i in items if not isinstance(i, DocumentError)]))
        results += [i if isinstance(i, DocumentError) else next(good) for i in items]
    return results


@torch.inference_mode()
def _loss(bundle: Bundle, cases: Sequence[Case], measuring: Measuring) -> float:
    """Return the mean of the loss over all targets of these cases."""
    model, plugs, device = measuring.model, measuring.plugs, measuring.device
    module = made(model.declaration.kind, model)
    module.load_state_dict(tensors_of(bundle))
    module.to(device).eval()
    inputs = [preprocessed(module, model, case.inputs) for case in cases]
    pairs = [(row, target) for row, case in enumerate(cases) for target in case.targets]
    total = 0.0
    for start in range(0, len(pairs), measuring.batch_size):
        batch = pairs[start : start + measuring.batch_size]
        rows = torch.tensor([row for row, _ in batch])
        targets = [target for _, target in batch]
        whole = moved(take(targets, torch.arange(len(batch))), device)
        loss = plugs.objective(module, moved(take(inputs, rows), device), whole)
        total += float(loss) * len(batch)
    return total / len(pairs)
