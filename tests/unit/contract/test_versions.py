"""The version that outputs name covers weights and what the declaration adds."""

import re

import pytest

from streams.contract.declaration import Declaration, ModelState
from streams.contract.versions import output_version, weights_version

WEIGHTS = "sha256-0123456789ab"


def declared(**changes):
    return Declaration(**{"name": "text", "kind": "gru", "features": {"img": "clip"}, **changes})


def test_version_is_that_of_the_weights_where_nothing_is_added():
    assert output_version(declared(), WEIGHTS) == WEIGHTS
    assert weights_version(WEIGHTS) == WEIGHTS


@pytest.mark.parametrize("more", [{"options": {"beam_width": 5}}, {"fields": ("title",)}])
def test_what_decides_the_output_beside_the_weights_is_part_of_it(more):
    version = output_version(declared(**more), WEIGHTS)
    assert re.fullmatch(rf"{WEIGHTS}\+[0-9a-f]{{8}}", version)
    assert weights_version(version) == WEIGHTS


def test_other_options_and_fields_are_other_versions():
    """Fails without options, or fields, in `output_version`: what is stored would stay."""
    some = [
        declared(),
        declared(options={"beam_width": 4}),
        declared(options={"beam_width": 5}),
        declared(options={"beam_width": "5"}),
        declared(fields=("title",)),
        declared(fields=("title", "text")),
        declared(fields=("text", "title")),
        declared(fields=("title",), options={"beam_width": 5}),
    ]
    assert len({output_version(each, WEIGHTS) for each in some}) == len(some)


def test_same_options_are_the_same_version_in_every_process():
    """Fails without `sort_keys`, or with a hash that differs from process to process."""
    one = declared(options={"a": 1, "b": {"c": [1, 2], "d": None}})
    two = declared(options={"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert output_version(one, WEIGHTS) == output_version(two, WEIGHTS) == f"{WEIGHTS}+35a94ae1"


@pytest.mark.parametrize(
    "change",
    [{"state": ModelState.INACTIVE}, {"after": ("projection",)}, {"key": "img"}, {"name": "line"}],
)
def test_what_decides_no_output_is_no_part_of_it(change):
    more = {"options": {"beam_width": 5}}
    assert output_version(declared(**more, **change), "w") == output_version(declared(**more), "w")
