"""The fast step against torch's own layers."""

import pytest
import torch
from torch.nn import functional

from streams.models import stepping
from streams.models.conditional_lm import ConditionalLM
from streams.models.stepping import packed_linear
from streams.models.vocabulary import UNKNOWN, Vocabulary

WORDS = (*(f"w{number}" for number in range(60)), UNKNOWN)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return ConditionalLM(Vocabulary(WORDS), n_condition=5, n_hidden=24, max_length=6).eval()


def slow_step(model, tokens, state):
    output, after = model.rnn(model.embedding(tokens).unsqueeze(1), state)
    return functional.log_softmax(model.prediction(output[:, 0]), dim=-1), after


@pytest.mark.parametrize("rows", [1, 7, 32, 65])
@pytest.mark.parametrize("table_bytes", [0, 1 << 20], ids=["multiplied", "table"])
def test_step_equals_torchs_layers(model, rows, table_bytes, monkeypatch):
    monkeypatch.setattr(stepping, "_MAX_TABLE_BYTES", table_bytes)
    tokens, state = torch.randint(0, len(WORDS) + 2, (rows,)), torch.randn(1, rows, 24)
    with torch.inference_mode():
        expected, expected_state = slow_step(model, tokens, state)
        found, found_state = model.stepper().step(tokens, state)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found_state, expected_state, atol=1e-6)


def test_initial_state_equals_the_layer(model):
    images = torch.randn(7, 10)[:, ::2]  # not contiguous
    with torch.inference_mode():
        expected = model.conditioning_linear(images).unsqueeze(0)
        found = model.stepper().initial_state(images)
    assert torch.allclose(found, expected, atol=1e-6)


def test_gradients_reach_every_layer_in_training(model):
    """What decoding lays out is detached; training reads the layers themselves.

    Fails with the stepper's `initial_state` in the place of the layer in `train_forward`.
    """
    model.train_forward(torch.randn(3, 5), torch.zeros(3, 2, dtype=torch.long)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_weights_that_change_are_seen_by_the_next_step(model):
    images = torch.randn(3, 5)
    model.generate(images)
    with torch.no_grad():
        model.prediction.bias[4] = 100.0
    assert {caption.text for caption in model.generate(images)} == {" ".join(["w4"] * 6)}
    again = ConditionalLM(Vocabulary(WORDS), n_condition=5, n_hidden=24, max_length=6).eval()
    before = again.generate(images)
    again.load_state_dict(model.state_dict())
    assert again.generate(images) != before
    optimizer = torch.optim.SGD([model.prediction.bias], lr=1000.0)
    model.train_forward(images, torch.zeros(3, 1, dtype=torch.long))[..., 4].sum().backward()
    optimizer.step()
    assert "w4" not in model.generate(images)[0].text.split()


@pytest.mark.parametrize("kind", ["double", "no operation"])
def test_other_numbers_or_another_torch_multiply_as_usual(kind, monkeypatch):
    weight, bias, rows = torch.randn(9, 4), torch.randn(9), torch.randn(3, 4)
    if kind == "double":
        weight, bias, rows = weight.double(), bias.double(), rows.double()
    else:
        monkeypatch.delattr(torch.ops, "mkldnn")
        monkeypatch.setattr(torch.ops, "mkldnn", object(), raising=False)
    found = packed_linear(weight, bias)(rows)
    assert torch.equal(found, functional.linear(rows, weight, bias))
