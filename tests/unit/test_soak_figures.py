"""The figures of the soak, which nobody would see to be wrong."""

from collections import Counter

import pytest

from tests.faults.endings import endings, unasked
from tests.faults.progress import longest_gap

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
