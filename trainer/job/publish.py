"""From a fitted bundle to the version that serves, if it is better than the one that does.

Both are measured on the same frozen set at the same moment, by the same code; what was measured
once and elsewhere is not believed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.contract.states import Recaption
from streams.errors import FeatureMismatch, ModelError, PointerConflict, SettingsError
from streams.registry.pointers import Pointer
from streams.registry.versions import Registry
from trainer.evaluate.evaluation import Evaluation
from trainer.job.decisions import Decision, Decisions
from trainer.job.gate import Gate, Opponent, Verdict, decide, metric_value
from trainer.snapshot.validation_set import ValidationSet

log = get_logger(__name__)

#: Comparisons when somebody else moves the pointer during the first.
_ATTEMPTS: Final = 2
_MEASURED: Final = "; measured on "

Evaluate = Callable[[Bundle], Evaluation]
"""A bundle to what was measured on the validation set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What came of publishing a bundle.

    Attributes:
        decision: What the gate decided, as it was recorded.
        candidate: What was measured for the candidate.
        bundle: The candidate as it was stored, with its metrics.
    """

    decision: Decision
    candidate: Evaluation
    bundle: Bundle

    @property
    def is_promoted(self) -> bool:
        """Whether the candidate serves now."""
        return self.decision.outcome == "promoted"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A bundle that was measured and stored.

    Attributes:
        bundle: The bundle as it was stored, with its metrics.
        version: Its id.
        measured: What was measured for it.
        value: Its value of the gate's metric.
    """

    bundle: Bundle
    version: str
    measured: Evaluation
    value: float

    @property
    def model(self) -> str:
        return self.bundle.manifest.name


@dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """A candidate against what served at that moment.

    Attributes:
        revision: Revision of the pointer then; 0 when there was none.
        serving: The version that served; None when none did.
        verdict: What the gate says.
    """

    revision: int
    serving: Opponent | None
    verdict: Verdict


def check_current(
    bundle: Bundle, validation_set: ValidationSet, versions: Mapping[str, str]
) -> None:
    """Make sure that a set holds what a version would be fed now: one that fits an old set may not.

    Args:
        bundle: The version.
        validation_set: The set.
        versions: The version of the outputs that each model makes now.

    Raises:
        FeatureMismatch: The set holds outputs of another version.
    """
    for name in bundle.manifest.features:
        serving, held = versions.get(name), validation_set.versions.get(name)
        if serving is not None and serving != held:
            msg = (
                f"validation set {validation_set.name!r} holds outputs of {name} {held}, {serving}"
                " serves; refresh it by `captionstream-trainer validation-set create --refresh`"
            )
            raise FeatureMismatch(msg)


def publish(
    bundle: Bundle,
    validation_set: ValidationSet,
    *,
    evaluate: Evaluate,
    registry: Registry,
    decisions: Decisions,
    gate: Gate,
    recaption: Recaption = Recaption.ALL,
    before_promotion: Callable[[], None] = lambda: None,
) -> Publication:
    """Store a candidate, and let it serve if it passes the gate.

    1. Measure the candidate. Its metrics become part of its manifest, and so of its id: the same
       bundle measured on the same set has the same id.
    2. Upload it. It stays in the registry whatever is decided.
    3. Measure the version that serves, and decide.
    4. Move the pointer, if it still is where it was; if not, go back to 3 once.
    5. Record the decision.

    Args:
        bundle: The candidate.
        validation_set: The set that `evaluate` measures on.
        evaluate: How to measure.
        registry: Where versions and pointers live.
        decisions: Where decisions are kept.
        gate: What the candidate must reach.
        recaption: What a promotion means for outputs that are stored.
        before_promotion: Called just before the pointer is moved; what it raises prevents that.

    Raises:
        InvalidBundle: The candidate is damaged.
        FeatureMismatch: It was fitted on other versions of what it reads than are in the set.
        SettingsError: The gate's metric was not measured.
        PointerConflict: The pointer was moved during both comparisons.
        StoreUnavailable: MongoDB does not answer.
    """
    candidate = _measure_and_store(bundle, evaluate, registry, gate.metric)  # 1, 2
    for attempt in range(_ATTEMPTS):
        comparison = _compare(candidate, evaluate, registry, gate)  # 3
        if not comparison.verdict.is_promoted:
            break
        before_promotion()
        try:
            _promote(candidate, comparison, registry, recaption)  # 4
            break
        except PointerConflict:
            if attempt + 1 == _ATTEMPTS:
                raise
            log.warning("pointer moved during the comparison", model=candidate.model)
    decision = _decision(candidate, comparison, gate, validation_set)
    decisions.record(decision)  # 5
    return Publication(decision=decision, candidate=candidate.measured, bundle=candidate.bundle)


def with_metrics(bundle: Bundle, evaluation: Evaluation) -> Bundle:
    """Return the bundle with what was measured beside the fit's own figures; its id is another."""
    note = bundle.manifest.note.split(_MEASURED)[0]
    measured = {
        "metrics": {**bundle.manifest.metrics, **evaluation.metrics},
        "note": f"{note}{_MEASURED}{evaluation.validation_set} {evaluation.digest[:16]}",
    }
    return Bundle(manifest=bundle.manifest.model_copy(update=measured), weights=bundle.weights)


def _measure_and_store(
    bundle: Bundle, evaluate: Evaluate, registry: Registry, metric: str
) -> _Candidate:
    """Measure a bundle and upload it; one without the metric that decides is not uploaded."""
    measured = evaluate(bundle)
    value = metric_value(measured, metric)
    bundle = with_metrics(bundle, measured)
    version = registry.publish(bundle)
    return _Candidate(bundle=bundle, version=version, measured=measured, value=value)


def _compare(
    candidate: _Candidate, evaluate: Evaluate, registry: Registry, gate: Gate
) -> _Comparison:
    pointer = registry.pointer(candidate.model)
    serving = _opponent(registry, pointer, evaluate, gate.metric)
    verdict = decide(
        gate,
        candidate.measured.rules,
        candidate=candidate.version,
        metrics=candidate.measured.metrics,
        serving=serving,
    )
    revision = pointer.revision if pointer else 0
    return _Comparison(revision=revision, serving=serving, verdict=verdict)


def _opponent(
    registry: Registry, pointer: Pointer | None, evaluate: Evaluate, metric: str
) -> Opponent | None:
    """Measure what serves. A version that cannot be loaded or fed now has no value."""
    if pointer is None or pointer.serving is None:
        return None
    try:
        measured = evaluate(registry.fetch(pointer.name, pointer.serving))
        metric_value(measured, metric)
    except (ModelError, FeatureMismatch, SettingsError) as exc:
        return Opponent(version=pointer.serving, problem=str(exc))
    return Opponent(version=pointer.serving, metrics=measured.metrics)


def _promote(
    candidate: _Candidate, comparison: _Comparison, registry: Registry, recaption: Recaption
) -> None:
    """Move the pointer, unless it was moved since the comparison."""
    registry.promote(
        candidate.model,
        candidate.version,
        reason=f"gate: {comparison.verdict.reason}",
        recaption=recaption,
        expected_revision=comparison.revision,
    )


def _decision(
    candidate: _Candidate, comparison: _Comparison, gate: Gate, validation_set: ValidationSet
) -> Decision:
    serving, verdict = comparison.serving, comparison.verdict
    return Decision(
        model=candidate.model,
        candidate=candidate.version,
        serving=serving.version if serving else None,
        metric=gate.metric,
        candidate_value=candidate.value,
        serving_value=serving.metrics.get(gate.metric) if serving else None,
        min_gain=gate.min_gain,
        validation_set=validation_set.name,
        digest=validation_set.digest,
        options=candidate.measured.options,
        outcome="promoted" if verdict.is_promoted else "kept",
        reason=verdict.reason,
        at=datetime.now(UTC),
    )
