"""What may be stored of a result, and when two of them are equal."""

import json

import numpy as np
import pytest
import torch

from streams.errors import ModelFailed
from streams.models.kinds.kind import Tolerance
from streams.models.kinds.results import difference, made_of


@pytest.mark.parametrize(
    "result",
    [
        torch.tensor([1.0, 2.0], dtype=torch.float16),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True),
        np.array([1.0, 2.0]),
    ],
    ids=["half", "bfloat", "double"],
)
def test_floats_in_one_dimension_are_a_float32_vector(result):
    value = made_of(result, "m").value
    assert (value.dtype, value.tolist()) == (np.float32, [1.0, 2.0])


def test_vector_does_not_keep_its_batch():
    batch = torch.zeros(1000, 4)
    assert made_of(batch[0], "m").value.base is None


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ("a text", "a text"),
        (torch.tensor(3), 3),
        (np.float64(0.5), 0.5),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor(True), True),
        ({"a": (1, None), "b": [{"c": 1.5}]}, {"a": [1, None], "b": [{"c": 1.5}]}),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_all_else_is_plain_json(result, value):
    found = made_of(result, "m").value
    assert found == value
    assert json.loads(json.dumps(found)) == found


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "result",
    [
        None,
        torch.tensor([]),
        torch.tensor([1.0, float("inf")]),
        torch.zeros(2, 2),
        torch.zeros(65_537),
        torch.tensor(float("nan")),
        {"a": float("nan")},
        {"a": torch.tensor([1.0])},
        {1: "a"},
        {"a\0": 1},
        "half \ud800",
        "zero \0",
        2**63,
        deep(40),
        deep(5000),
        "x" * 300_000,
        ["x" * 100] * 3_000,
        b"bytes",
        {1, 2},
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored_is_refused_with_a_bounded_message(result):
    with pytest.raises(ModelFailed, match="pkg:Class made") as caught:
        made_of(result, "pkg:Class")
    assert len(str(caught.value)) < 400


NEAR = Tolerance(numbers=1e-3)


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (np.float32([1, 1000]), np.float32([1.5, 1000]), ""),
        (np.float32([1, 1000]), np.float32([3, 1000]), "differs by up to 2"),
        (np.float32([1, np.nan]), np.float32([1, 1]), "differs by up to nan"),
        (np.float32([1]), np.float32([1, 1]), "has shape (1,) instead of (2,)"),
        (np.float32([1]), "a", "is ndarray instead of str"),
        ("a", "a", ""),
        ("a", "b", 'is "a" instead of "b"'),
        ({"a": [1.0001, 2]}, {"a": [1.0, 2]}, ""),
        ({"a": [1.1, 2]}, {"a": [1.0, 2]}, 'is {"a": [1.1, 2]} instead of {"a": [1.0, 2]}'),
        ({"a": 1}, {"b": 1}, 'is {"a": 1} instead of {"b": 1}'),
        ([1], [1, 2], "is [1] instead of [1, 2]"),
        (True, 1, "is true instead of 1"),
        (True, 1.0, "is true instead of 1.0"),
        (2, 1, "is 2 instead of 1"),
        (None, 0.0, "is null instead of 0.0"),
    ],
)
def test_difference(found, expected, said):
    assert difference(found, expected, NEAR) == said
