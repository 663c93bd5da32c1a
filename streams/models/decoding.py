"""Greedy and beam decoding, batched, for a model that steps through tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from streams.models.vocabulary import Vocabulary

Decoded = list[tuple[list[int], float]]
"""For each row its token ids (stop id included, start id not) and their mean log-probability."""

#: Columns of a block in the search of the likeliest token; 64 to 256 are equally fast.
_BLOCK: Final = 128


class StepModel(Protocol):
    """What decoding needs of a model, with the weights of one moment."""

    def initial_state(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (1, B, H)."""
        ...

    def step(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,), (1, B, H) -> log-probabilities (B, V + 2), next state (1, B, H)."""
        ...


def decode_greedy(
    model: StepModel, images: torch.Tensor, *, vocabulary: Vocabulary, max_length: int
) -> Decoded:
    """Take the likeliest token each time, at most `max_length` times.

    The same tokens as the seed's, which takes one less: it counts the start token as a word. Ends
    early when every row has stopped; a row that has stopped costs nothing any more.
    """
    stop = vocabulary.stop
    rows = images.shape[0]
    state = model.initial_state(images)
    tokens = torch.full((rows,), vocabulary.start, device=images.device)
    going = torch.arange(rows, device=images.device)
    sentences = torch.full((rows, max_length), stop, device=images.device)
    scores = state.new_zeros((rows, max_length))
    for position in range(max_length):
        log_probabilities, state = model.step(tokens, state)
        best, tokens = first_max(log_probabilities)  # (B,), (B,)
        sentences[going, position] = tokens
        scores[going, position] = best
        goes_on = (tokens != stop).nonzero().squeeze(1)
        if not len(goes_on):
            break
        if len(goes_on) < len(going):
            going, tokens = going.index_select(0, goes_on), tokens.index_select(0, goes_on)
            state = state.index_select(1, goes_on)
    totals = scores.sum(dim=1, dtype=torch.float64)
    return [
        _cut(sentence, total, stop)
        for sentence, total in zip(sentences.tolist(), totals.tolist(), strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """How a model finds a sentence that is given.

    Attributes:
        score: Mean natural log-probability of its tokens.
        shortfall: Most that one of them is less likely than the likeliest at its place.
    """

    score: float
    shortfall: float


def follow(
    model: StepModel, image: torch.Tensor, sentence: Sequence[int], *, vocabulary: Vocabulary
) -> Followed | None:
    """Return how the model finds token ids, for an image of (1, D); None where they cannot be."""
    stop = vocabulary.stop
    is_sentence = 0 < len(sentence) and stop not in sentence[:-1]
    if not is_sentence or not all(0 <= token <= stop for token in sentence):
        return None
    state, last = model.initial_state(image), vocabulary.start
    total, shortfall = 0.0, 0.0
    for token in sentence:
        log_probabilities, state = model.step(torch.tensor([last]), state)  # (1, V + 2)
        chosen = float(log_probabilities[0, token])
        total += chosen
        shortfall = max(shortfall, float(log_probabilities.max()) - chosen)
        last = token
    return Followed(score=total / len(sentence), shortfall=shortfall)


def decode_beam(
    model: StepModel, images: torch.Tensor, width: int, *, vocabulary: Vocabulary, max_length: int
) -> Decoded:
    """Keep the `width` likeliest sentences of every row; return the one with the best mean.

    Sentences are compared by total log-probability while they grow (a stopped one keeps its total)
    and by mean per token at the end, so that short ones are not preferred.
    """
    rows, stop = images.shape[0], vocabulary.stop
    n_tokens = len(vocabulary) + 2
    state = model.initial_state(images).repeat_interleave(width, dim=1)  # (1, B*W, H)
    tokens = torch.full((rows * width, 1), vocabulary.start, device=images.device)
    totals = torch.full((rows, width), -torch.inf, device=images.device)
    totals[:, 0] = 0.0  # all beams begin alike; only one may grow at first
    frozen = torch.full((n_tokens,), -torch.inf, device=images.device)
    frozen[stop] = 0.0  # a stopped sentence goes on with free stops
    for _ in range(max_length):
        log_probabilities, state = model.step(tokens[:, -1], state)  # (B*W, V + 2)
        has_stopped = tokens[:, -1] == stop
        log_probabilities[has_stopped] = frozen
        candidates = (totals.view(-1, 1) + log_probabilities).view(rows, width * n_tokens)
        totals, chosen = candidates.topk(width, dim=1)  # (B, W)
        beams = chosen // n_tokens + torch.arange(rows, device=images.device).unsqueeze(1) * width
        beams = beams.flatten()  # (B*W,)
        tokens = torch.cat([tokens[beams], (chosen % n_tokens).view(-1, 1)], dim=1)
        state = state[:, beams]
        if bool((tokens[:, -1] == stop).all()):
            break
    return _best(tokens[:, 1:].view(rows, width, -1), totals, stop)


def first_max(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima of (B, N) and their first columns, each (B,). A NaN counts as the maximum.

    The same as `rows.max(dim=1)` in half the time: torch finds maxima much faster without their
    columns, so only the first block that has the maximum is searched for its column.
    """
    width = rows.shape[1]
    size = min(_BLOCK, width)
    blocks = rows.unfold(1, size, size).amax(dim=2)  # (B, N // size), without the remainder
    last = rows[:, -size:].amax(dim=1, keepdim=True)  # may overlap, which then prefers the earlier
    block = torch.cat([blocks, last], dim=1).argmax(dim=1)  # (B,)
    start = (block * size).clamp(max=width - size)
    row = torch.arange(rows.shape[0], device=rows.device)
    best, offset = rows.unfold(1, size, 1)[row, start].max(dim=1)
    return best, start + offset


def _best(tokens: torch.Tensor, totals: torch.Tensor, stop: int) -> Decoded:
    is_stop = tokens == stop  # (B, W, T)
    lengths = (is_stop.cumsum(dim=2) == 0).sum(dim=2) + is_stop.any(dim=2)  # stop id included
    means = totals / lengths
    best = means.argmax(dim=1)
    return [
        (tokens[row, beam, : lengths[row, beam]].tolist(), float(means[row, beam]))
        for row, beam in enumerate(best.tolist())
    ]


def _cut(tokens: list[int], total: float, stop: int) -> tuple[list[int], float]:
    length = tokens.index(stop) + 1 if stop in tokens else len(tokens)
    return tokens[:length], total / length
