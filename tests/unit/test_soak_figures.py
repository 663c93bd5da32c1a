"""The figures of the soak, which nobody would see to be wrong."""

from collections import Counter

import pytest

from streams.contract.declaration import ModelState
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline
from tests.faults.endings import endings, unasked
from tests.faults.looks import wrong_documents
from tests.faults.pipeline_strikes import FOURTH, with_model
from tests.faults.progress import longest_gap
from tests.faults.soak import failings
from tests.faults.target import Target

LOG = """\
14:19:42 starting mongod ...
14:20:01 sink ended with code 0 after 31.5 s, starts again in 0.5 s; its log ends with: x
14:20:02 sink ended with code -9 after 1.5 s, starts again in 1 s; its log ends with: ended with
14:20:03 featurize ended with code -15 after 0.2 s, starts again in 0.5 s; its log ends with:
14:20:04 featurize ended with code -15 after 19.2 s, starts again in 0.5 s; its log ends with: y
"""


@pytest.mark.parametrize(
    ("times", "outages", "expected"),
    [
        ([], [], 0.0),
        ([5.0, 1.0, 2.0], [], 3.0),
        ([0.0, 10.0], [(4.0, 6.0)], 4.0),
        ([0.0, 10.0, 13.0], [(1.0, 2.0)], 3.0),
        ([0.0, 10.0], [(-5.0, 1.0)], 0.0),
        ([0.0, 10.0], [(10.0, 12.0), (-3.0, 0.0)], 10.0),
    ],
    ids=["none", "unsorted", "ends at outage", "another is longer", "begun before", "outside"],
)
def test_longest_gap(times, outages, expected):
    assert longest_gap(times, outages) == expected


def test_ends_are_counted_and_those_nobody_asked_for_are_told():
    found = endings(LOG)
    assert found == {("sink", 0): 1, ("sink", -9): 1, ("featurize", 0): 1, ("featurize", -15): 1}
    asked = Counter({("sink", 0): 1, ("sink", -9): 3, ("featurize", 0): 2})
    assert unasked(LOG, asked) == [LOG.splitlines()[-1].rstrip()]


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("clip has to run", "lost"),
        ("clip was made from another image", "stale"),
        ("it carries InvalidImage, and yet its image can be decoded", "wrong"),
    ],
)
def test_what_was_found_before_a_healer_fails_the_soak(problem, kind):
    """Fails when only what is found at the end counts: by then it was made anew."""
    row = {"id": 7, "problem": problem}
    good, bad = wrong_documents([]), wrong_documents([row])
    assert {name for name in ("lost", "stale", "wrong") if bad[name]} == {kind}
    nothing = {"standing_still": {}, "risen": 0, "problems": [], "errors_by_type": {}}
    looks = [{"before": "promote_captioner", **good}, {"before": "kill_broker", **bad}]
    report = {**good, **nothing, "found_before_healers": looks}
    assert failings(report) == {"found_before_healers": looks[1:]}
    assert failings({**report, "found_before_healers": looks[:1]}) == {}


def test_whoever_has_something_else_to_do_in_another_pipeline_may_end_once():
    """Fails without `is_same_process` in `note_declared`: a captioner that ends is not told."""
    target = Target(*[None] * 6)
    fourth = compile_pipeline(with_model(DEFAULT.declarations, FOURTH))
    target.note_declared(fourth)
    assert FOURTH.name in target.processes
    ended = "14:20:01 {} ended with code 0 after 31.5 s, starts again in 0.5 s; its log: x"
    assert unasked(ended.format("sink"), target.asked) == []
    captioner = ended.format("conditional_lm")
    assert unasked(captioner, target.asked) == [captioner], "its place is the same as before"
    inactive = FOURTH.model_copy(update={"state": ModelState.INACTIVE})
    target.note_declared(compile_pipeline(with_model(fourth.declarations, inactive)))
    assert FOURTH.name not in target.processes
    assert unasked("\n".join([ended.format("sink")] * 2), target.asked) == []
    assert len(unasked("\n".join([ended.format("sink")] * 3), target.asked)) == 3
