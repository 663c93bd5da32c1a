"""One step of a GRU language model, with its weights laid out for decoding. Exact float32.

A step multiplies few rows with large matrices, so memory is what it waits for. oneDNN's packed
layout is two to three times as fast for that as the usual one, and what an embedding adds to the
gates is looked up instead of multiplied. The numbers are the same up to the last digits.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]
"""(B, D) -> (B, N)."""

#: Largest table of gates in bytes; a larger vocabulary multiplies again in every step.
_MAX_TABLE_BYTES: Final = 256 << 20
#: Rows that the packed layout is made for; others work too.
_ROWS: Final = 32


class Stepper:
    """The step of one state of a model's weights; later changes of them are not seen."""

    def __init__(
        self,
        conditioning: torch.nn.Linear,
        embedding: torch.nn.Embedding,
        rnn: torch.nn.GRU,
        prediction: torch.nn.Linear,
    ) -> None:
        """Lay out the weights."""
        words = embedding.weight.detach()  # (V + 2, H)
        weights = {name: weight.detach() for name, weight in rnn.named_parameters()}
        weight, bias = weights["weight_ih_l0"], weights["bias_ih_l0"]
        size = words.shape[0] * weight.shape[0] * words.element_size()
        if size <= _MAX_TABLE_BYTES:
            table = functional.linear(words, weight, bias)  # (V + 2, 3 H)
            self._input: Linear = lambda tokens: functional.embedding(tokens, table)
        else:
            gates = packed_linear(weight, bias)
            self._input = lambda tokens: gates(functional.embedding(tokens, words))
        self._hidden = packed_linear(weights["weight_hh_l0"], weights["bias_hh_l0"])
        self._conditioning = packed_linear(conditioning.weight.detach(), conditioning.bias.detach())
        self._prediction = packed_linear(prediction.weight.detach(), prediction.bias.detach())

    def initial_state(self, images: torch.Tensor) -> torch.Tensor:
        """Return the state before the first token: (B, D) -> (1, B, H)."""
        return self._conditioning(images).unsqueeze(0)

    def step(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities of the next token, and the next state.

        Args:
            tokens: The last ids, of shape (B,).
            state: The state before them, of shape (1, B, H).

        Returns:
            Shapes (B, V + 2) and (1, B, H).
        """
        before = state[0]  # (B, H)
        reset_x, update_x, new_x = self._input(tokens).chunk(3, dim=1)  # each (B, H)
        reset_h, update_h, new_h = self._hidden(before).chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(torch.addcmul(new_x, torch.sigmoid(reset_x + reset_h), new_h))
        after = torch.lerp(new, before, update)  # (1 - update) * new + update * before
        return functional.log_softmax(self._prediction(after), dim=-1), after.unsqueeze(0)


def packed_linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    """Return `x -> x W^T + b` in the fastest exact layout that this torch and device have."""

    def plain(rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, weight, bias)

    is_ours = weight.device.type == "cpu" and weight.dtype == torch.float32
    if not is_ours or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return plain
    try:  # not a documented operation: another torch may lack it
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)  # noqa: SLF001
        apply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
        apply(weight[:1] * 0, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return plain
    return lambda rows: apply(rows, packed, bias, "none", [], "")
