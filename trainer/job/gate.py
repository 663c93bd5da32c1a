"""Whether a candidate may serve: a pure decision over measured values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.errors import SettingsError
from trainer.evaluate.evaluation import Evaluation, is_count
from trainer.fit.rules import Rules


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a candidate must reach.

    Attributes:
        metric: Name of the metric that decides.
        min_gain: By how much it must be better than the serving version, in units of the metric.
            With 0 any improvement is enough; being equal never is.
        is_forced: Whether it may serve whatever the metric is.
    """

    metric: str
    min_gain: float = 0.0
    is_forced: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_gain) and self.min_gain >= 0):
            msg = f"--min-gain is {self.min_gain}, expected a number from 0 on"
            raise SettingsError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opponent:
    """The version that serves.

    Attributes:
        version: The version.
        metrics: Its figures on the same validation set; empty when there are none.
        problem: Why there are none, or not the one that decides.
    """

    version: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether the pointer is to move, and why in one line."""

    is_promoted: bool
    reason: str


def decide(
    gate: Gate,
    rules: Rules,
    *,
    candidate: str,
    metrics: Mapping[str, float],
    serving: Opponent | None,
) -> Verdict:
    """Compare a candidate with the version that serves.

    One that passes a limit of its kind does not serve, and is not to be forced either.

    Args:
        gate: What it must reach.
        rules: How the figures of its kind compare.
        candidate: Version of the candidate.
        metrics: Its figures, the gate's metric among them.
        serving: The version that serves; None when none does.
    """
    if serving is not None and serving.version == candidate:
        return Verdict(is_promoted=False, reason="it serves already")
    for name, limit in rules.at_most.items():
        if metrics.get(name, 0.0) > limit:
            reason = (
                f"its {name} is {metrics[name]:.4g}, at most {limit:g} may serve; look at what it"
                " was fitted on, and at the options of its kind"
            )
            return Verdict(is_promoted=False, reason=reason)
    verdict = _compare(gate, rules, metrics, serving)
    if gate.is_forced and not verdict.is_promoted:
        return Verdict(is_promoted=True, reason=f"forced, though {verdict.reason}")
    return verdict


def metric_value(evaluation: Evaluation, metric: str) -> float:
    """Return the value that decides.

    Raises:
        SettingsError: The evaluation has no such metric, or it is a count.
    """
    if metric not in evaluation.metrics or is_count(metric):
        known = ", ".join(name for name in evaluation.metrics if not is_count(name))
        msg = (
            f"--metric {metric} was not measured on validation set"
            f" {evaluation.validation_set!r}; there is {known}"
        )
        raise SettingsError(msg)
    return evaluation.metrics[metric]


def _compare(
    gate: Gate, rules: Rules, metrics: Mapping[str, float], serving: Opponent | None
) -> Verdict:
    name = gate.metric
    value = metrics[name]
    if not math.isfinite(value):
        return Verdict(is_promoted=False, reason=f"its {name} is {value}")
    if serving is None:
        return Verdict(is_promoted=True, reason=f"nothing served; {name} {value:.4f}")
    served = serving.metrics.get(name)
    if served is None:
        reason = f"the serving version cannot be compared: {serving.problem}"
        return Verdict(is_promoted=True, reason=f"{reason}; {name} {value:.4f}")
    gain = _gain(rules, name, value, served)
    # Values are rounded to six digits; the difference of two of them is not.
    is_better = gain > 0 and gain >= gate.min_gain - 1e-9
    needed = f"at least {gate.min_gain:g}" if gate.min_gain else "any gain"
    compared = f"{name} {value:.4f} against {served:.4f}: a gain of {gain:.4f}"
    fallen = _fallen(rules, metrics, serving.metrics)
    if is_better and fallen:
        return Verdict(is_promoted=False, reason=f"{compared}, but {fallen}")
    return Verdict(is_promoted=is_better, reason=f"{compared}, {needed} was needed")


def _gain(rules: Rules, name: str, value: float, served: float) -> float:
    return served - value if name in rules.lower_is_better else value - served


def _fallen(rules: Rules, metrics: Mapping[str, float], served: Mapping[str, float]) -> str:
    """Return the first metric that got worse and must not, in words; "" when there is none."""
    for name in rules.must_not_fall:
        if name not in served:
            continue
        value = metrics.get(name, math.nan)
        if not _gain(rules, name, value, served[name]) >= 0:  # NaN is no gain
            return f"{name} must not get worse: {value:.4f} against {served[name]:.4f}"
    return ""
