"""How the figures of two versions compare: a kind's own word. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How two versions compare.

    Attributes:
        decides: Name of the metric that decides, if nobody names another.
        lower_is_better: Metrics of which less is better; of all others more is.
        must_not_fall: Metrics that must not get worse, whatever the one that decides does.
        at_most: Largest value of a metric with which a version may serve at all.
    """

    decides: str
    lower_is_better: frozenset[str] = frozenset({"loss"})
    must_not_fall: tuple[str, ...] = ()
    at_most: Mapping[str, float] = field(default_factory=dict)
