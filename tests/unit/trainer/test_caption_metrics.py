"""Scores of pycocoevalcap against values worked out by hand."""

import math

import pytest

from trainer.evaluate.caption_metrics import has_words, score_captions

#: Two images whose captions share no word, so that every n-gram has the same weight in CIDEr-D.
GENERATED = ["the cat sat", "dogs run fast"]
REFERENCES = [["the cat is here"], ["dogs run"]]


def test_perfect_captions_score_the_most():
    texts = ["a red cat sleeps", "two blue dogs run"]
    scores = score_captions(texts, [[text] for text in texts])
    assert scores == pytest.approx(
        {"bleu1": 1, "bleu2": 1, "bleu3": 1, "bleu4": 1, "rouge_l": 1, "cider": 10}
    )


def test_captions_without_a_common_word_score_nothing():
    scores = score_captions(["a b c d e", "f g h i j"], [["k l m n o"], ["p q r s t"]])
    assert all(value == pytest.approx(0, abs=1e-12) for value in scores.values())


def test_bleu_counts_ngrams_of_the_whole_corpus():
    scores = score_captions(GENERATED, REFERENCES)
    assert scores["bleu1"] == pytest.approx(4 / 6)  # as long as the references: no penalty
    assert scores["bleu2"] == pytest.approx(math.sqrt(4 / 6 * 2 / 4))


def test_bleu_clips_repeated_words():
    assert score_captions(["the the the"], [["the cat"]])["bleu1"] == pytest.approx(1 / 3)


def test_bleu_punishes_captions_shorter_than_the_closest_reference():
    scores = score_captions(["the cat"], [["the cat sat down", "a b c d e f g h"]])
    assert scores["bleu1"] == pytest.approx(math.exp(1 - 4 / 2))


def test_rouge_is_the_f_measure_of_the_longest_common_subsequence():
    def f(precision, recall):
        return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)

    expected = (f(2 / 3, 2 / 4) + f(2 / 3, 2 / 2)) / 2
    assert score_captions(GENERATED, REFERENCES)["rouge_l"] == pytest.approx(expected)


def test_cider_is_the_cosine_of_weighted_ngrams():
    penalty = math.exp(-1 / (2 * 6**2))  # each caption is one word off its reference
    first = (2 / math.sqrt(3 * 4) + 1 / math.sqrt(2 * 3)) * penalty / 4
    second = (2 / math.sqrt(3 * 2) + 1 / math.sqrt(2 * 1)) * penalty / 4
    cider = score_captions(GENERATED, REFERENCES)["cider"]
    assert cider == pytest.approx(10 * (first + second) / 2)


def test_words_are_those_of_the_vocabulary():
    plain = score_captions(GENERATED, REFERENCES)
    loud = score_captions(
        ["The  CAT, sat!", "Dogs\nrun fast."], [["the cat is here", "!?"], ["dogs run"]]
    )
    assert loud == plain
    assert has_words("A.")
    assert not has_words("42 !")


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    scores = score_captions(["", ""], REFERENCES)
    assert scores == dict.fromkeys(scores, 0.0)


@pytest.mark.parametrize(
    ("generated", "references"),
    [([], []), (["a"], []), (["a", "b"], [["a"], ["42"]]), (["a"], [[]])],
)
def test_images_without_references_are_refused(generated, references):
    with pytest.raises(ValueError, match=r"captions for|no reference"):
        score_captions(generated, references)


def test_nothing_is_printed(capfd):
    score_captions(GENERATED, REFERENCES)
    assert capfd.readouterr() == ("", "")
