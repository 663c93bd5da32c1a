"""Batches for a user's class, and their outputs in parts."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from streams.errors import ModelFailed
from streams.models.kinds.batches import batches_of, split, to_device

Pair = namedtuple("Pair", "a b")


def test_dicts_of_tensors_numbers_and_texts_become_one():
    [(batch, count)] = batches_of([{"v": torch.ones(2), "n": 1, "t": "a"}] * 3)
    assert count == 3
    assert (batch["v"].shape, batch["n"].tolist(), batch["t"]) == ((3, 2), [1, 1, 1], ["a"] * 3)


def test_dicts_of_different_keys_lose_none():
    """Fails when torch collates them: it takes the keys of the first and drops the rest."""
    batches = list(batches_of([{"a": 1}, {"a": 1, "b": 2}]))
    assert [(sorted(batch), count) for batch, count in batches] == [(["a"], 1), (["a", "b"], 1)]


def test_item_that_torch_does_not_take_goes_as_a_list_among_others_that_it_takes():
    batches = list(batches_of([torch.ones(2), None]))
    assert batches[0][0].shape == (1, 2)
    assert batches[1] == ([None], 1)


@pytest.mark.parametrize(
    "output",
    [torch.arange(2), np.arange(2), [0, 1]],
    ids=["tensor", "array", "list"],
)
def test_output_in_parts(output):
    assert [int(part) for part in split(output, 2, "m")] == [0, 1]
    assert split({"a": output, "b": ["x", "y"]}, 2, "m")[1]["b"] == "y"
    assert int(split((output, output), 2, "m")[1][0]) == 1
    assert int(split(Pair(output, output), 2, "m")[0][1]) == 0


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (torch.tensor(1.0), "0 results for a batch of 2"),
        (torch.zeros(3), "3 results"),
        ({"a": [1, 2], "b": [1]}, "1 results"),
        ("text", "returned str for a batch"),
        (None, "returned NoneType"),
        ({}, "returned dict"),
        ((1, 2), "returned int"),
    ],
    ids=repr,
)
def test_output_without_parts_is_refused(output, said):
    with pytest.raises(ModelFailed, match=said):
        split(output, 2, "m")


def test_everything_in_a_batch_goes_to_the_device():
    batch = {"a": [torch.ones(1)], "b": Pair(torch.ones(1), "text"), "c": (torch.ones(1),)}
    moved = to_device(batch, "meta")
    tensors = (moved["a"][0], moved["b"].a, moved["c"][0])
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved["b"].b == "text"
