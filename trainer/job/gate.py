"""Whether a candidate may serve: a pure decision over measured values."""

import math
from dataclasses import dataclass
from typing import Final

from streams.errors import SettingsError
from trainer.evaluate.evaluation import COUNTS, LOWER_IS_BETTER, Evaluation

#: Share of empty captions that a candidate may have. A document with one is as good as lost: it
#: has its output, and the output says nothing.
_MOST_EMPTY: Final = 0.1


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
        value: Its value of the metric on the same validation set; None when it has none.
        problem: Why it has none.
    """

    version: str
    value: float | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether the pointer is to move, and why in one line."""

    is_promoted: bool
    reason: str


def decide(
    gate: Gate,
    *,
    candidate: str,
    value: float,
    serving: Opponent | None,
    empty_captions: float = 0.0,
) -> Verdict:
    """Compare a candidate with the version that serves.

    One whose captions are empty does not pass, and is not to be forced either.

    Args:
        gate: What it must reach.
        candidate: Version of the candidate.
        value: Its value of the gate's metric.
        serving: The version that serves; None when none does.
        empty_captions: Share of its captions that are empty.
    """
    if serving is not None and serving.version == candidate:
        return Verdict(is_promoted=False, reason="it serves already")
    if empty_captions > _MOST_EMPTY:
        reason = (
            f"{empty_captions:.0%} of its captions are empty; look at the captions that it was"
            " fitted on, and at --min-count and --normalization"
        )
        return Verdict(is_promoted=False, reason=reason)
    verdict = _compare(gate, value, serving)
    if gate.is_forced and not verdict.is_promoted:
        return Verdict(is_promoted=True, reason=f"forced, though {verdict.reason}")
    return verdict


def metric_value(evaluation: Evaluation, metric: str) -> float:
    """Return the value that decides.

    Raises:
        SettingsError: The evaluation has no such metric, or it is a count.
    """
    if metric not in evaluation.metrics or metric in COUNTS:
        known = ", ".join(name for name in evaluation.metrics if name not in COUNTS)
        msg = (
            f"--metric {metric} was not measured on validation set"
            f" {evaluation.validation_set!r}; there is {known}"
        )
        raise SettingsError(msg)
    return evaluation.metrics[metric]


def _compare(gate: Gate, value: float, serving: Opponent | None) -> Verdict:
    name = gate.metric
    if not math.isfinite(value):
        return Verdict(is_promoted=False, reason=f"its {name} is {value}")
    if serving is None:
        return Verdict(is_promoted=True, reason=f"nothing served; {name} {value:.4f}")
    if serving.value is None:
        reason = f"the serving version cannot be compared: {serving.problem}"
        return Verdict(is_promoted=True, reason=f"{reason}; {name} {value:.4f}")
    gain = serving.value - value if name in LOWER_IS_BETTER else value - serving.value
    # Values are rounded to six digits; the difference of two of them is not.
    is_better = gain > 0 and gain >= gate.min_gain - 1e-9
    needed = f"at least {gate.min_gain:g}" if gate.min_gain else "any gain"
    compared = f"{name} {value:.4f} against {serving.value:.4f}: a gain of {gain:.4f}"
    return Verdict(is_promoted=is_better, reason=f"{compared}, {needed} was needed")
