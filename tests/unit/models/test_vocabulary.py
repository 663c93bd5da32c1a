"""Words, ids and back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.models.words import Normalization, normalize

WORDS = Vocabulary(("a", "cat", "mat", "on", UNKNOWN))


def test_punctuation_and_case_are_dropped_alike_when_building_and_encoding():
    assert normalize("A cat, on-mat!\n") == ["a", "cat", "onmat"]
    assert WORDS.encode("A CAT, on a mat.", max_length=6) == [0, 1, 3, 0, 2] + [WORDS.stop] * 2


def test_words_must_occur_more_than_min_count_times():
    captions = ["dog"] * 5 + ["cat"] * 6
    assert Vocabulary.from_captions(captions, min_count=5).words == ("cat", UNKNOWN)


def test_building_does_not_depend_on_the_order_of_captions():
    captions = ["b a", "a b", "c"]
    forward = Vocabulary.from_captions(captions, min_count=0)
    assert forward == Vocabulary.from_captions(reversed(captions), min_count=0)


def test_unknown_words_become_unk():
    assert WORDS.encode("a unicorn", max_length=2) == [0, 4, WORDS.stop]


@pytest.mark.parametrize("caption", ["a cat on", "a cat on a mat"])
def test_caption_as_long_as_allowed_or_longer_still_ends_with_a_stop(caption):
    assert WORDS.encode(caption, max_length=3) == [0, 1, 3, WORDS.stop]


def test_any_white_space_separates_words():
    assert normalize("a\tcat\r\nsat\u00a0on - it") == ["a", "cat", "sat", "on", "it"]


def test_start_and_stop_come_after_the_words():
    assert (WORDS.start, WORDS.stop) == (5, 6)


def test_decoding_ends_at_the_first_stop():
    assert WORDS.decode([0, 1, WORDS.stop, 2, 2]) == "a cat"


@given(st.lists(st.sampled_from(["a", "cat", "mat", "on"]), max_size=10))
def test_known_words_survive_a_round_trip(words):
    assert WORDS.decode(WORDS.encode(" ".join(words), max_length=10)) == " ".join(words)


def test_spellings_of_a_word_are_one_and_it_is_written_as_most_captions_do():
    captions = ["Straße", "eine straße", "STRASSE", "strasse", "Straße", "σκύλος", "ΣΚΎΛΟΣ ΣΚΎΛΟΙ"]
    vocabulary = Vocabulary.from_captions(captions, min_count=1)
    assert vocabulary.words == ("straße", "σκύλος", UNKNOWN)
    for spelling in ("Strasse", "STRASSE", "straße"):
        assert vocabulary.decode(vocabulary.encode(spelling, max_length=2)) == "straße"


def test_which_words_are_known_follows_the_normalization():
    assert WORDS.known("A cat, 猫") == [True, True, False]
    assert replace(WORDS, normalization=Normalization.SEED).known("A cat, 猫") == [True, True]


@pytest.mark.parametrize("words", [("a",), ("a", "a", UNKNOWN), ("straße", "strasse", UNKNOWN)])
def test_vocabulary_without_unk_or_with_twins_is_refused(words):
    with pytest.raises(ValueError, match="no word twice"):
        Vocabulary(words)
