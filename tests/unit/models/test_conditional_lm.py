"""The captioner against a literal, slow re-statement of the seed's formulas."""

import math

import numpy as np
import pytest
import torch

from streams.contract.manifest import Bundle, Feature
from streams.errors import InvalidBundle
from streams.models.bundle import golden_input, make_bundle, tensors_of
from streams.models.conditional_lm import (
    ConditionalLM,
    autoregressive_loss,
    check_golden,
    from_bundle,
)
from streams.models.decoding import decode_beam, decode_greedy, follow
from streams.models.vocabulary import UNKNOWN, Vocabulary
from tests.bundles import captioner_bundle

VOCABULARY = Vocabulary(("a", "blue", "cat", "dog", "on", "red", UNKNOWN))
D, H, LENGTH = 6, 8, 7


@pytest.fixture
def model():
    torch.manual_seed(3)
    made = ConditionalLM(VOCABULARY, n_condition=D, n_hidden=H, max_length=LENGTH)
    for parameter in made.parameters():  # far from uniform, so that argmax and loss discriminate
        torch.nn.init.normal_(parameter, std=0.7)
    return made.eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class SlowSeed:
    """The seed's forward passes in loops over numpy: GRU equations as torch documents them."""

    def __init__(self, model):
        self.w = {k: v.detach().double().numpy() for k, v in model.state_dict().items()}

    def gru(self, x, h):
        w = self.w
        gi = w["rnn.weight_ih_l0"] @ x + w["rnn.bias_ih_l0"]
        gh = w["rnn.weight_hh_l0"] @ h + w["rnn.bias_hh_l0"]
        r = sigmoid(gi[:H] + gh[:H])
        z = sigmoid(gi[H : 2 * H] + gh[H : 2 * H])
        n = np.tanh(gi[2 * H :] + r * gh[2 * H :])
        return (1 - z) * n + z * h

    def first(self, image):
        return self.w["conditioning_linear.weight"] @ image + self.w["conditioning_linear.bias"]

    def next(self, token, h):
        h = self.gru(self.w["embedding.weight"][token], h)
        return self.w["prediction.weight"] @ h + self.w["prediction.bias"], h

    def logits(self, image, tokens):
        h, rows = self.first(image), []
        for token in tokens:
            row, h = self.next(token, h)
            rows.append(row)
        return np.stack(rows)

    def greedy(self, image, length=LENGTH):
        """`forward` of the seed: `length` predictions of which the first is the start token."""
        h, predictions = self.first(image), [len(VOCABULARY)]
        for _ in range(length - 1):
            logits, h = self.next(predictions[-1], h)
            predictions.append(int(np.argmax(logits)))
        return predictions[1:]


def log_softmax(x):
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def slow_loss(logits, targets):
    """`auto_regressive_loss` of the seed, one number after the other."""
    rows = []
    for row, target in zip(logits, targets, strict=True):
        stop = row.shape[1] - 1
        losses, counted = 0.0, 0
        for t, token in enumerate(target):
            if t > 0 and target[t - 1] == stop:
                continue
            losses += -log_softmax(row[t])[token]
            counted += 1
        rows.append(losses / counted)
    return sum(rows) / len(rows)


def test_parameters_have_the_seeds_names(model):
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "embedding",
        "conditioning_linear",
        "rnn",
        "prediction",
    }


def test_logits_equal_the_seeds(model):
    images = torch.randn(4, D)
    tokens = torch.randint(0, len(VOCABULARY) + 2, (4, 5))
    found = model.train_forward(images, tokens).detach().numpy()
    slow = SlowSeed(model)
    expected = [
        slow.logits(i, t) for i, t in zip(images.double().numpy(), tokens.numpy(), strict=True)
    ]
    assert np.allclose(found, expected, atol=1e-5)


def test_loss_equals_the_seeds():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 9)
    targets = torch.tensor([[1, 2, 8, 8], [1, 2, 3, 4], [8, 8, 8, 8]])  # 8 stops
    found = float(autoregressive_loss(logits, targets))
    assert found == pytest.approx(slow_loss(logits.double().numpy(), targets.numpy()), abs=1e-6)


def test_greedy_tokens_equal_the_seeds_up_to_the_stop(model):
    images = torch.randn(40, D)
    stops = 0
    for caption, image in zip(model.generate(images), images.double().numpy(), strict=True):
        expected = SlowSeed(model).greedy(image)
        if VOCABULARY.stop in expected:
            expected = expected[: expected.index(VOCABULARY.stop) + 1]
            stops += 1
            assert list(caption.tokens) == expected
        else:  # the seed ends one word early
            assert list(caption.tokens) == SlowSeed(model).greedy(image, LENGTH + 1)
    assert 0 < stops < 40, "the case must hold sentences that stop and some that do not"


def test_score_is_the_mean_log_probability(model):
    image = torch.randn(1, D)
    [caption] = model.generate(image)
    tokens = [VOCABULARY.start, *caption.tokens[:-1]]
    logits = SlowSeed(model).logits(image[0].double().numpy(), tokens)
    chosen = [log_softmax(row)[token] for row, token in zip(logits, caption.tokens, strict=True)]
    assert caption.score == pytest.approx(np.mean(chosen), abs=1e-5)


def test_words_after_the_stop_do_not_leak_into_the_text(model):
    for caption in model.generate(torch.randn(40, D)):
        words = [VOCABULARY.words[t] for t in caption.tokens if t < len(VOCABULARY)]
        assert caption.text == " ".join(words)
        assert VOCABULARY.stop not in caption.tokens[:-1]


def test_beam_of_one_more_is_never_worse_in_total_and_batch_equals_single(model):
    images = torch.randn(12, D)
    together = model.generate(images, beam_width=4)
    alone = [model.generate(image.unsqueeze(0), beam_width=4)[0] for image in images]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    greedy = model.generate(images)
    better = sum(b.score >= g.score - 1e-6 for b, g in zip(together, greedy, strict=True))
    assert better >= 10


def test_beam_search_equals_an_exhaustive_search(model):
    """With as many beams as sentences, the best mean of all sentences is found."""
    short = ConditionalLM(VOCABULARY, n_condition=D, n_hidden=H, max_length=2).eval()
    short.load_state_dict(model.state_dict())
    image = torch.randn(1, D)
    slow = SlowSeed(model)
    sentences = {}
    first = log_softmax(slow.logits(image[0].double().numpy(), [VOCABULARY.start])[0])
    for a in range(len(VOCABULARY) + 2):
        if a == VOCABULARY.stop:
            sentences[(a,)] = first[a]
            continue
        second = log_softmax(slow.logits(image[0].double().numpy(), [VOCABULARY.start, a])[1])
        for b in range(len(VOCABULARY) + 2):
            sentences[(a, b)] = (first[a] + second[b]) / 2
    [caption] = short.generate(image, beam_width=9)
    assert caption.tokens == max(sentences, key=sentences.get)


def always_one_word(model):
    with torch.no_grad():
        model.prediction.bias.fill_(0.0)
        model.prediction.bias[2] = 1000.0
    return model


@pytest.mark.parametrize("beam_width", [1, 3])
def test_caption_of_max_length_words_is_possible(model, beam_width):
    [caption] = always_one_word(model).generate(torch.randn(1, D), beam_width=beam_width)
    assert caption.text == " ".join(["cat"] * LENGTH)


def test_longest_targets_fit_the_longest_captions(model):
    """A caption of `max_length` words and its stop can be learned and then be said in full."""
    targets = VOCABULARY.encode("cat " * LENGTH, max_length=LENGTH)
    inputs = torch.tensor([[VOCABULARY.start, *targets[:-1]]])
    logits = always_one_word(model).train_forward(torch.randn(1, D), inputs)
    assert logits.shape == (1, len(targets), len(VOCABULARY) + 2)
    assert VOCABULARY.decode(targets) == model.generate(torch.randn(1, D))[0].text


@pytest.mark.parametrize("max_length", [0, -1, 1001])
def test_senseless_max_length_is_refused(max_length):
    with pytest.raises(ValueError, match=f"max_length is {max_length}, expected 1 to 1000"):
        ConditionalLM(VOCABULARY, max_length=max_length)


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_equals_greedy(model, seed):
    images = torch.randn(20, D, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        limits = {"vocabulary": VOCABULARY, "max_length": LENGTH}
        greedy = decode_greedy(model.stepper(), images, **limits)
        beam = decode_beam(model.stepper(), images, 1, **limits)
    assert [tokens for tokens, _ in beam] == [tokens for tokens, _ in greedy]
    assert [score for _, score in beam] == pytest.approx([score for _, score in greedy], abs=1e-5)


def test_empty_batch_gives_no_captions(model):
    assert model.generate(torch.zeros(0, D)) == []


def test_bundle_survives_and_checks_its_golden_output(model):
    bundle = captioner_bundle(model, clip_version="c1", note="test")
    again = from_bundle(bundle)
    images = torch.randn(3, D)
    assert again.generate(images) == model.generate(images)
    assert bundle.manifest.features["clip"].version == "c1"


def other_processor(model, monkeypatch, noise):
    """Let every step differ by so much, as kernels of another processor do."""
    stepper = model.stepper()
    step, generator = stepper.step, torch.Generator().manual_seed(1)

    def noisy(tokens, state):
        scores, state = step(tokens, state)
        return scores + noise * torch.randn(scores.shape, generator=generator), state

    monkeypatch.setattr(stepper, "step", noisy)


@pytest.fixture
def undecided(model):
    """A model for which two words are equally likely everywhere: the last digits choose."""
    with torch.no_grad():
        first, second = (VOCABULARY.words.index(word) for word in ("a", "dog"))
        for tensor in (model.prediction.weight, model.prediction.bias):
            tensor[second] = tensor[first]
            tensor[first] += 1e-7
        model.prediction.bias[[first, second]] += 5.0
    return model


def test_last_digits_of_another_processor_refuse_no_captioner(undecided, monkeypatch):
    """Fails when tokens are compared: of two equally likely words it may take the other."""
    bundle = captioner_bundle(undecided)
    other_processor(undecided, monkeypatch, 1e-5)
    images = golden_input(bundle.manifest.golden, D)
    tokens = [list(caption.tokens) for caption in undecided.generate(images)]
    assert tokens != bundle.manifest.golden.tokens
    check_golden(undecided, bundle)


@pytest.mark.parametrize("noise", [0.1, math.nan])
def test_numbers_that_are_really_others_refuse_a_captioner(undecided, monkeypatch, noise):
    bundle = captioner_bundle(undecided)
    other_processor(undecided, monkeypatch, noise)
    with pytest.raises(InvalidBundle, match="golden"):
        check_golden(undecided, bundle)


@pytest.mark.parametrize("row", [[], [99], [-1], [7, 0, 7], [8, 0], [0] * (LENGTH + 1)])
def test_promised_tokens_that_no_caption_has_are_refused(model, row):
    bundle = captioner_bundle(model)
    golden = bundle.manifest.golden
    texts = [VOCABULARY.decode(row), *golden.texts[1:]]
    wrong = golden.model_copy(update={"tokens": [row, *golden.tokens[1:]], "texts": texts})
    with pytest.raises(InvalidBundle, match="golden"):
        check_golden(model, changed(bundle, golden=wrong))


def test_promised_sentence_that_is_not_the_likeliest_is_refused(model):
    """Fails when only its score is compared: the manifest's is that of this very sentence."""
    bundle = captioner_bundle(model)
    golden = bundle.manifest.golden
    row = [1, VOCABULARY.stop]
    images = golden_input(golden, D)
    found = follow(model.stepper(), images[:1], row, vocabulary=VOCABULARY)
    assert found.shortfall > 0.1
    wrong = {
        "tokens": [row, *golden.tokens[1:]],
        "texts": [VOCABULARY.decode(row), *golden.texts[1:]],
        "scores": [found.score, *golden.scores[1:]],
    }
    with pytest.raises(InvalidBundle, match="golden"):
        check_golden(model, changed(bundle, golden=golden.model_copy(update=wrong)))


def changed(bundle, **fields):
    return Bundle(manifest=bundle.manifest.model_copy(update=fields), weights=bundle.weights)


def test_flipped_byte_is_refused(model):
    bundle = captioner_bundle(model)
    weights = bytearray(bundle.weights)
    weights[-1] ^= 1
    with pytest.raises(InvalidBundle, match="sha256"):
        from_bundle(Bundle(manifest=bundle.manifest, weights=bytes(weights)))


def test_vocabulary_of_another_size_is_refused_with_both_shapes(model):
    bundle = captioner_bundle(model)
    with pytest.raises(InvalidBundle, match=r"\(9, 8\).*\(10, 8\)|\(10, 8\).*\(9, 8\)"):
        from_bundle(changed(bundle, vocabulary=[*VOCABULARY.words, "more"]))


def test_other_words_of_the_same_number_are_refused(model):
    bundle = captioner_bundle(model)
    words = ["a", "dog", "cat", "blue", "red", "on", UNKNOWN]
    with pytest.raises(InvalidBundle, match="golden"):
        from_bundle(changed(bundle, vocabulary=words))


GOOD = {"n_condition": D, "n_hidden": H, "max_length": LENGTH}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**GOOD, "dropout": 1},
        {**GOOD, "n_hidden": "8"},
        {**GOOD, "n_hidden": -8},
        {**GOOD, "n_hidden": 10**9},
        {**GOOD, "n_hidden": 999_999},
        {**GOOD, "max_length": 5000},
        {**GOOD, "n_condition": D + 1},
    ],
    ids=str,
)
def test_wrong_config_is_refused_before_it_takes_memory(model, config):
    with pytest.raises(InvalidBundle):
        from_bundle(changed(captioner_bundle(model), config=config))


def test_feature_of_another_dimension_is_refused_with_both_numbers(model):
    bundle = captioner_bundle(model)
    features = {"clip": Feature(dimension=512)}
    with pytest.raises(InvalidBundle, match=f"'clip' has dimension 512, the config reads {D}"):
        from_bundle(changed(bundle, features=features))


def test_metric_that_is_no_number_is_refused(model):
    with pytest.raises(InvalidBundle, match=r"manifest is not valid.*bleu"):
        captioner_bundle(model, metrics={"bleu": math.nan})


def test_diverged_model_makes_no_bundle(model):
    with torch.no_grad():
        model.prediction.weight.fill_(math.nan)
    with pytest.raises(InvalidBundle, match="scores"):
        captioner_bundle(model)


def test_loading_leaves_the_random_generator_alone(model):
    bundle = captioner_bundle(model)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    from_bundle(bundle)
    assert torch.rand(1) == expected


def test_weight_that_is_not_a_number_is_refused(model):
    bundle = captioner_bundle(model)
    tensors = tensors_of(bundle)
    tensors["prediction.bias"][0] = math.nan
    fields = bundle.manifest.model_dump(exclude={"parts"})
    with pytest.raises(InvalidBundle, match="NaN"):
        from_bundle(make_bundle(tensors, **fields))


@pytest.mark.parametrize("key", ["prediction.bias", "rnn.weight_hh_l0", "embedding.weight"])
def test_any_other_weight_is_another_version(model, key):
    before = captioner_bundle(model).version
    with torch.no_grad():
        model.state_dict()[key].view(-1)[-1] += 0.25
    assert captioner_bundle(model).version != before


def test_other_vocabulary_is_another_version(model):
    before = captioner_bundle(model).version
    words = (*VOCABULARY.words[:-2], "green", UNKNOWN)
    model.vocabulary = Vocabulary(words)
    assert captioner_bundle(model).version != before
