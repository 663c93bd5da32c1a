"""What `reconcile` says before it does it."""

from streams.mongo.processes import Report
from streams.operate.commands.reconcile import describe
from streams.reconcile.reconciler import ReconcilePlan


def report(stage, rate):
    return Report(stage=stage, url="", is_ready=True, rate=rate)


def test_each_line_is_estimated_by_the_rate_of_its_stage_over_all_processes():
    """Fails with the rate of `clip` for all, and with that of one process."""
    plan = ReconcilePlan(
        by_model={"clip": 60, "conditional_lm": 100}, retries=3, looked_at=1000, changed=[1, 2]
    )
    reports = [report("clip", 1.0), report("clip", 0.5), report("conditional_lm", 4.0)]
    assert list(describe(plan, "clip", reports)) == [
        "165 documents",
        "        60 from clip on, about 40 s at the 1.50 documents/s that clip does now",
        "       100 from conditional_lm on, about 25 s at the 4.00 documents/s that conditional_lm"
        " does now",
        "         3 with an error that may pass, about 2 s at the 1.50 documents/s that clip"
        " does now",
        "         2 whose fields were changed without an event, about 1 s at the 1.50"
        " documents/s that clip does now",
        "      1000 were looked at for that; `reconcile --all` looks at every one",
    ]


def test_unknown_rate_is_said_in_words():
    """Fails when a rate of 0 prints nothing."""
    plan = ReconcilePlan(by_model={"clip_projection": 2}, retries=0)
    assert list(describe(plan, "clip", [report("clip_projection", 0.0), report("clip", 9.0)])) == [
        "2 documents",
        "         2 from clip_projection on, time not known: clip_projection has finished nothing"
        " in the last half minute",
    ]
    assert list(describe(ReconcilePlan(by_model={}, retries=0), "clip", [])) == ["0 documents"]
