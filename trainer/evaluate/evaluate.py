"""How good a model is on a frozen validation set. Pure: reads no database, writes nothing."""

from collections.abc import Callable, Mapping
from typing import Final

from streams.contract.kinds import GRU, LINEAR
from streams.contract.manifest import Bundle, Manifest
from streams.errors import FeatureMismatch, TrainerError, bounded
from trainer.evaluate import captioner, module, projection
from trainer.evaluate.cases import Measured
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.measuring import Measuring
from trainer.snapshot.validation_set import ValidationSet

Measure = Callable[[Bundle, Measuring], Measured]

_DIGITS: Final = 6
#: How versions of each built-in kind are measured; all others are a user's.
_MEASURES: Final[Mapping[str, Measure]] = {GRU: captioner.measure, LINEAR: projection.measure}


def evaluate_bundle(bundle: Bundle, measuring: Measuring) -> Evaluation:
    """Load a bundle of any trained model, and measure it.

    Raises:
        InvalidBundle: It cannot be loaded.
        FeatureMismatch: It was fitted on outputs of other versions than the set's.
        SettingsError: No entry can be used, or what the kind needs was not given.
        TrainerError: A plug fails.
    """
    model, validation_set = measuring.model, measuring.validation_set
    check_versions(bundle.manifest, validation_set)
    measure = _MEASURES.get(model.declaration.kind, module.measure)
    measured = measure(bundle, measuring)
    metrics = {**_own_metrics(measured, measuring), **measured.metrics}
    return Evaluation(
        model=model.name,
        validation_set=validation_set.name,
        digest=validation_set.digest,
        options=dict(model.declaration.options),
        metrics={name: round(float(value), _DIGITS) for name, value in metrics.items()},
        rules=measuring.plugs.rules,
        captions=measured.captions,
    )


def check_versions(manifest: Manifest, validation_set: ValidationSet) -> None:
    """Compare the versions that a model was fitted on with the validation set's.

    Raises:
        FeatureMismatch: They differ.
    """
    for name, feature in manifest.features.items():
        found = validation_set.versions.get(name)
        if feature.version not in (None, found):
            msg = (
                f"{manifest.name} was fitted on {name} {feature.version}, the outputs of"
                f" validation set {validation_set.name!r} are of {found}"
            )
            raise FeatureMismatch(msg)


def _own_metrics(measured: Measured, measuring: Measuring) -> Mapping[str, float]:
    """Return what a user's `metrics` says."""
    metrics = measuring.plugs.metrics
    if metrics is None or not measured.values:
        return {}
    targets = [list(case.targets) for case in measured.cases]
    try:
        found = metrics(list(measured.values), targets)
        return {str(name): float(value) for name, value in found.items()}
    except Exception as exc:  # a user's function
        name = getattr(metrics, "__qualname__", "metrics")
        msg = f"{name} failed ({type(exc).__name__}: {exc}): it returns a dict of numbers"
        raise TrainerError(bounded(msg)) from exc
