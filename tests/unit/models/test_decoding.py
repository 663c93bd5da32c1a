"""Beam search against every sentence that there is; greedy decoding against the literal loop."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from streams.models.conditional_lm import ConditionalLM
from streams.models.decoding import decode_beam, decode_greedy, first_max
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


ROWS, ENDS = zip(*sentences(), strict=True)


def totals(model, image):
    """Return the total log-probability of every sentence, by the training pass."""
    targets = torch.tensor(ROWS)
    start = torch.full((len(ROWS), 1), VOCABULARY.start)
    inputs = torch.cat([start, targets[:, :-1]], dim=1)
    logits = model.train_forward(image.expand(len(ROWS), -1), inputs)
    chosen = functional.log_softmax(logits, -1).gather(2, targets.unsqueeze(2)).squeeze(2)
    sums = chosen.double().cumsum(dim=1).tolist()
    return {row[:end]: parts[end - 1] for row, end, parts in zip(ROWS, ENDS, sums, strict=True)}


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
    limits = {"vocabulary": VOCABULARY, "max_length": 2}
    greedy = decode_greedy(Misleading(), images, **limits)
    beam = decode_beam(Misleading(), images, 2, **limits)
    assert [tokens for tokens, _ in greedy] == [[0, 0]] * 2
    assert [tokens for tokens, _ in beam] == [[1, 1]] * 2


WIDTHS = [1, 2, 127, 128, 129, 255, 256, 257, 1000]


@pytest.mark.parametrize("width", WIDTHS)
def test_first_max_equals_torchs_max(width):
    """Fails without the clamp of `start`, and without the last block, in `first_max`."""
    rows = torch.randn(40, width)
    best, columns = first_max(rows)
    assert torch.equal(best, rows.max(dim=1).values)
    assert torch.equal(columns, rows.argmax(dim=1))


@pytest.mark.parametrize("width", WIDTHS)
def test_first_of_equal_maxima_is_taken(width):
    """Few different values, so that maxima repeat within blocks, across them and in the overlap."""
    rows = torch.randint(0, 3, (40, width)).float()
    rows[:20, : width // 2] = -1.0
    _, columns = first_max(rows)
    assert columns.tolist() == [row.index(max(row)) for row in rows.tolist()]


@pytest.mark.parametrize("width", WIDTHS)
def test_first_max_is_the_first_nan_as_torchs(width):
    rows = torch.randn(40, width)
    rows[torch.rand(40, width) < 2 / width] = math.nan
    best, columns = first_max(rows)
    has_nan = rows.isnan().any(dim=1)
    assert has_nan.any()
    assert torch.equal(best.isnan(), has_nan)
    assert columns.tolist() == [
        next((i for i, x in enumerate(row) if math.isnan(x)), row.index(max(row)))
        for row in rows.tolist()
    ]


@pytest.mark.parametrize("value", [-math.inf, math.inf])
def test_first_max_of_infinities_is_the_first_column(value):
    best, columns = first_max(torch.full((2, 300), value))
    assert best.tolist() == [value] * 2
    assert columns.tolist() == [0, 0]


def one_row_at_a_time(model, image):
    """The literal loop: full log-probabilities, first maximum, until the stop or the limit."""
    state = model.conditioning_linear(image).view(1, 1, -1)
    tokens, total = [model.vocabulary.start], 0.0
    while len(tokens) <= model.max_length and tokens[-1] != model.vocabulary.stop:
        output, state = model.rnn(model.embedding(torch.tensor([tokens[-1:]])), state)
        row = functional.log_softmax(model.prediction(output[0, 0]), dim=-1).tolist()
        tokens.append(row.index(max(row)))
        total += max(row)
    return tuple(tokens[1:]), total / (len(tokens) - 1)


@pytest.fixture
def wide_model():
    """More tokens than a block has, and sentences that stop at different words."""
    torch.manual_seed(5)
    words = (*(f"w{number}" for number in range(299)), UNKNOWN)
    made = ConditionalLM(Vocabulary(words), n_condition=5, n_hidden=24, max_length=9).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    with torch.no_grad():
        made.prediction.bias[made.vocabulary.stop] += 7.0
    return made.requires_grad_(False)


def test_greedy_equals_the_literal_loop_of_each_row(wide_model):
    images = torch.randn(40, 5)
    captions = wide_model.generate(images)
    assert len({len(caption.tokens) for caption in captions}) > 4  # rows leave at many steps
    for image, caption in zip(images, captions, strict=True):
        tokens, score = one_row_at_a_time(wide_model, image)
        assert caption.tokens == tokens
        assert caption.score == pytest.approx(score, abs=1e-5)


def test_greedy_takes_the_first_of_equally_likely_words(wide_model):
    """With weights of zero the logits are the biases, to the last bit."""
    wide_model.prediction.weight.zero_()
    wide_model.prediction.bias[[290, 140, 131, 260]] = 20.0
    for caption in wide_model.generate(torch.randn(3, 5)):
        assert caption.tokens == (131,) * wide_model.max_length


def test_greedy_in_double_precision_gives_the_same_words(wide_model):
    images = torch.randn(5, 5)
    expected = wide_model.generate(images)
    found = wide_model.double().generate(images.double())
    assert [caption.tokens for caption in found] == [caption.tokens for caption in expected]


@pytest.mark.parametrize("beam_width", [1, 3])
@pytest.mark.parametrize("layer", ["conditioning_linear", "rnn", "prediction"])
def test_weight_that_is_no_number_shows_in_the_scores(wide_model, layer, beam_width):
    """The self-test of a stage compares scores; a NaN has to reach them, and no index break."""
    next(getattr(wide_model, layer).parameters())[:] = math.nan
    captions = wide_model.generate(torch.randn(3, 5), beam_width=beam_width)
    assert all(math.isnan(caption.score) for caption in captions)
