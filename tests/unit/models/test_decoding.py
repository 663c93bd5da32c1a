"""Beam search against every sentence that there is."""

import itertools

import pytest
import torch
from torch.nn import functional

from streams.models.conditional_lm import ConditionalLM
from streams.models.decoding import decode_beam, decode_greedy
from streams.models.vocabulary import UNKNOWN, Vocabulary

VOCABULARY = Vocabulary(("a", "cat", "dog", UNKNOWN))
STOP, N_TOKENS, LENGTH = VOCABULARY.stop, len(VOCABULARY) + 2, 4
SEEDS = range(6)


@pytest.fixture(params=SEEDS)
def model(request):
    torch.manual_seed(request.param)
    made = ConditionalLM(VOCABULARY, n_condition=5, n_hidden=6, max_length=LENGTH).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    return made.requires_grad_(False)


def sentences():
    """Every sentence: up to LENGTH tokens, nothing behind a stop."""
    for tokens in itertools.product(range(N_TOKENS), repeat=LENGTH):
        end = tokens.index(STOP) + 1 if STOP in tokens else LENGTH
        if all(token == STOP for token in tokens[end:]):
            yield tokens, end


def totals(model, image):
    """Return the total log-probability of every sentence, by the training pass."""
    rows, ends = zip(*sentences(), strict=True)
    targets = torch.tensor(rows)
    start = torch.full((len(rows), 1), VOCABULARY.start)
    inputs = torch.cat([start, targets[:, :-1]], dim=1)
    logits = model.train_forward(image.expand(len(rows), -1), inputs)
    chosen = functional.log_softmax(logits, -1).gather(2, targets.unsqueeze(2)).squeeze(2)
    return {
        row[:end]: float(numbers[:end].sum())
        for row, end, numbers in zip(rows, ends, chosen, strict=True)
    }


def mean(table, tokens):
    return table[tokens] / len(tokens)


def test_wide_beam_finds_the_best_of_all_sentences(model):
    """So wide that nothing is pruned before the last token."""
    images = torch.randn(3, 5)
    for image, caption in zip(images, model.generate(images, beam_width=300), strict=True):
        table = totals(model, image)
        best = max(table, key=lambda tokens: mean(table, tokens))
        assert caption.tokens == best
        assert caption.score == pytest.approx(mean(table, best), abs=1e-5)


@pytest.mark.parametrize("beam_width", [1, 2, 5])
def test_score_is_that_of_the_sentence(model, beam_width):
    images = torch.randn(4, 5)
    for image, caption in zip(images, model.generate(images, beam_width=beam_width), strict=True):
        table = totals(model, image)
        assert caption.score == pytest.approx(mean(table, caption.tokens), abs=1e-5)


def test_wide_beam_is_never_worse_than_greedy(model):
    images = torch.randn(20, 5)
    greedy = model.generate(images)
    wide = model.generate(images, beam_width=300)
    worse = [(g, w) for g, w in zip(greedy, wide, strict=True) if w.score < g.score - 1e-6]
    assert not worse


def test_beam_beats_greedy_where_the_first_word_misleads():
    """Greedy takes the likelier first word and pays for it with the second one."""

    class Misleading:
        vocabulary, max_length = VOCABULARY, 2
        first = torch.tensor([0.6, 0.4, 1e-9, 1e-9, 1e-9, 1e-9]).log()
        second = torch.tensor(
            [[0.3, 0.3, 0.2, 0.1, 0.05, 0.05], [0.01, 0.95, 0.01, 0.01, 0.01, 0.01]]
        ).log()

        def initial_state(self, images):
            return torch.zeros(1, images.shape[0], 1)

        def step(self, tokens, state):
            is_first = tokens == VOCABULARY.start
            rows = torch.where(is_first.unsqueeze(1), self.first, self.second[tokens.clamp(max=1)])
            return rows, state

    images = torch.zeros(2, 1)
    assert [tokens for tokens, _ in decode_greedy(Misleading(), images)] == [[0, 0]] * 2
    assert [tokens for tokens, _ in decode_beam(Misleading(), images, 2)] == [[1, 1]] * 2
