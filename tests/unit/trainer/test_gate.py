"""The gate's decisions."""

import pytest

from streams.errors import SettingsError
from trainer.evaluate.evaluation import Evaluation
from trainer.fit.rules import Rules
from trainer.job.gate import Gate, Opponent, decide, metric_value

RULES = Rules(
    decides="cider",
    lower_is_better=frozenset({"loss", "median_rank"}),
    must_not_fall=("recall", "delay"),
    at_most={"empty_captions": 0.1},
)


def verdict(value, served, *, metric="cider", min_gain=0.0, forced=False):
    gate = Gate(metric=metric, min_gain=min_gain, is_forced=forced)
    serving = Opponent(version="old", metrics={metric: served})
    return decide(gate, RULES, candidate="new", metrics={metric: value}, serving=serving)


@pytest.mark.parametrize(
    ("value", "served", "options", "expected"),
    [
        (0.6, 0.5, {}, True),
        (0.5, 0.5, {}, False),
        (0.4, 0.5, {}, False),
        (0.4, 0.5, {"forced": True}, True),
        (0.6, 0.5, {"min_gain": 0.1}, True),  # the difference is a hair below 0.1 in floats
        (0.6, 0.5, {"min_gain": 0.2}, False),
        (2.0, 2.5, {"metric": "loss"}, True),
        (2.5, 2.0, {"metric": "loss"}, False),
        (2.0, 2.5, {"metric": "loss", "min_gain": 0.6}, False),
        (1.0, 3.0, {"metric": "median_rank"}, True),
        (0.0, 0.0, {"metric": "loss"}, False),
        (float("nan"), 0.5, {}, False),
        (float("inf"), 0.5, {}, False),
    ],
)
def test_only_what_is_better_is_promoted(value, served, options, expected):
    assert verdict(value, served, **options).is_promoted is expected


def test_reason_tells_both_values_and_what_was_needed():
    assert verdict(0.6, 0.5, min_gain=0.25).reason == (
        "cider 0.6000 against 0.5000: a gain of 0.1000, at least 0.25 was needed"
    )
    assert verdict(2.0, 2.5, metric="loss").reason == (
        "loss 2.0000 against 2.5000: a gain of 0.5000, any gain was needed"
    )
    assert verdict(0.4, 0.5, forced=True).reason.startswith("forced, though cider 0.4000")


def test_the_first_version_is_promoted():
    first = decide(
        Gate(metric="cider"), RULES, candidate="new", metrics={"cider": 0.0}, serving=None
    )
    assert first.is_promoted
    assert "nothing served" in first.reason


def test_a_serving_version_that_cannot_be_measured_loses_and_the_reason_says_why():
    broken = Opponent(version="old", problem="its weights are missing")
    gate = Gate(metric="cider", min_gain=9)
    found = decide(gate, RULES, candidate="new", metrics={"cider": 0.1}, serving=broken)
    assert found.is_promoted
    assert "its weights are missing" in found.reason


def test_the_version_that_serves_is_not_promoted_again_even_by_force():
    same = Opponent(version="new", metrics={"cider": 0.5})
    gate = Gate(metric="cider", is_forced=True)
    found = decide(gate, RULES, candidate="new", metrics={"cider": 0.5}, serving=same)
    assert not found.is_promoted
    assert found.reason == "it serves already"


@pytest.mark.parametrize("gain", [-0.1, float("nan"), float("inf")])
def test_a_gain_is_a_number_from_0_on(gain):
    with pytest.raises(SettingsError, match="--min-gain"):
        Gate(metric="cider", min_gain=gain)


def test_a_metric_that_was_not_measured_is_refused_with_those_that_were():
    evaluation = Evaluation(
        model="m",
        validation_set="v",
        digest="d",
        options={},
        metrics={"cider": 1.0, "n": 5.0},
        rules=RULES,
    )
    assert metric_value(evaluation, "cider") == 1.0
    for metric in ("n", "exact_match"):
        with pytest.raises(SettingsError, match="there is cider"):
            metric_value(evaluation, metric)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize(
    ("share", "passes"), [(0.0, True), (0.1, True), (0.11, False), (1.0, False)]
)
def test_empty_captions_never_pass(share, passes, forced):
    gate = Gate(metric="cider", is_forced=forced)
    metrics = {"cider": 9.0, "empty_captions": share}
    found = decide(gate, RULES, candidate="new", metrics=metrics, serving=None)
    assert found.is_promoted is passes


@pytest.mark.parametrize(
    ("others", "passes"),
    [
        ({}, True),
        ({"recall": 0.5}, True),
        ({"recall": 0.4}, False),
        ({"recall": 0.6, "delay": 3.0}, True),
        ({"loss": 9.0}, True),
    ],
)
def test_what_must_not_fall_keeps_a_better_version_out(others, passes):
    serving = Opponent(version="old", metrics={"cider": 0.5, "loss": 1.0, **SERVED})
    metrics = {"cider": 0.9, **SERVED, **others}
    gate = Gate(metric="cider")
    found = decide(gate, RULES, candidate="new", metrics=metrics, serving=serving)
    assert found.is_promoted is passes
    assert passes or "recall must not get worse: 0.4000 against 0.5000" in found.reason
    forced = Gate(metric="cider", is_forced=True)
    assert decide(forced, RULES, candidate="new", metrics=metrics, serving=serving).is_promoted


SERVED = {"recall": 0.5, "delay": 2.0}
