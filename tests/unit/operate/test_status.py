"""Which stages stand still, by two looks at what all processes report."""

from dataclasses import replace

import pytest
from bson.timestamp import Timestamp

from streams.mongo.processes import Report
from streams.operate import status
from streams.operate.status import Progress, standing_still, wait_for_progress

STAGES = ("publisher", "featurize", "sink")
WORK = "has work and finishes none"


def report(stage, documents=5, *, lag=0, in_flight=0, number=1):
    return Report(
        stage=stage,
        url="http://0.0.0.0:8000",
        process=f"{stage}-{number}",
        is_ready=True,
        documents=documents,
        lag=lag,
        in_flight=in_flight,
    )


def progress(*reports, published=20, now=20):
    """All stages are alive and idle, but for those that are given."""
    given = {r.stage for r in reports}
    idle = [report(stage) for stage in STAGES if stage not in given]
    return Progress(
        reports=[*reports, *idle], published=Timestamp(published, 1), now=Timestamp(now, 1)
    )


def still(before, after):
    return standing_still(before, after, stages=STAGES)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (progress(), progress(), {}),
        (
            progress(report("sink", 5, lag=3)),
            progress(report("sink", 5, in_flight=3)),
            {"sink": WORK},
        ),
        (progress(report("sink", 5, lag=3)), progress(report("sink", 6, lag=3)), {}),
        (progress(), progress(report("sink", 5, lag=3)), {}),
        (
            progress(report("sink", 5, lag=3), report("sink", 9, lag=1, number=2)),
            progress(report("sink", 5, lag=3), report("sink", 10, lag=1, number=2)),
            {},
        ),
    ],
    ids=["idle", "stuck", "slow", "just come", "another process of it goes on"],
)
def test_stage_with_work_that_finishes_none_stands_still(before, after, expected):
    assert still(before, after) == expected


def test_stage_without_a_process_stands_still():
    """Fails when only those are looked at that report."""
    after = progress()
    gone = replace(after, reports=[r for r in after.reports if r.stage != "featurize"])
    assert still(after, gone) == {"featurize": "no process runs"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (progress(published=10), progress(published=10), {"publisher": WORK}),
        (progress(published=10), progress(published=11), {}),
        (progress(published=20), progress(published=20, now=30), {}),
        (
            progress(report("publisher", 5), published=10),
            progress(report("publisher", 6), published=10),
            {},
        ),
    ],
    ids=["stuck", "catches up", "was not behind", "copies"],
)
def test_publisher_is_judged_by_its_position(before, after, expected):
    """Fails when its lag is what it has in flight."""
    assert still(before, after) == expected


@pytest.mark.parametrize(("ends_at", "expected"), [(2, {}), (None, {"sink": WORK})])
def test_what_stands_still_is_looked_at_again(monkeypatch, ends_at, expected):
    """Fails when one batch that takes longer than the check is an alarm."""
    looks = 0
    stuck = progress(report("sink", 5, in_flight=3))

    def look(*_):
        nonlocal looks
        looks += 1
        return progress(report("sink", 8)) if looks == ends_at else stuck

    monkeypatch.setattr(status, "read_progress", look)
    monkeypatch.setattr(status, "_PAUSE_SECONDS", 0)
    seconds = 60 if ends_at else 0.001
    found = wait_for_progress(stuck, None, "", stages=STAGES, patience_seconds=seconds)
    assert found == expected
