"""Words of captions in every script: split, and written out again."""

# ruff: noqa: RUF001 - letters of other scripts are the matter

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.models.vocabulary import Vocabulary
from streams.models.words import Normalization, join_words, normalize, words_of

CAPTIONS = {
    "un garçon à vélo près d'une forêt": "un garçon à vélo près dune forêt",
    "une assiette de cœurs brodés": None,
    "l'été, des enfants nagent": "lété des enfants nagent",
    "一只猫坐在桌子上": None,
    "两个男孩在海滩踢球。": "两个男孩在海滩踢球",
    "猫がソファーの上で寝ている": None,
    "ein Mädchen füttert Vögel auf der Straße": "ein mädchen füttert vögel auf der straße",
    "एक कुत्ता दौड़ रहा है": None,
    "แมวนั่งอยู่บนเก้าอี้": None,
    "ឆ្មាមួយ": None,
    "قطة تجلس على الطاولة": None,
    "کتاب را می\u200cخواهم": None,
    "ක්\u200dරීඩා": None,
    "고양이가 의자에 앉아 있다": None,
    "Κόκκινος Σκύλος": "κόκκινος σκύλος",
    "мальчик на велосипеде": None,
    "一台 iPhone 15 手机": "一台 iphone 手机",
}


def seed_words(text):
    """As the seed's `re.sub('[^a-z ]', '', x.lower()).strip()` and its split at spaces."""
    return [word for word in re.sub("[^a-z ]", "", text.lower()).strip().split(" ") if word]


@pytest.mark.parametrize(("caption", "written"), CAPTIONS.items(), ids=range(len(CAPTIONS)))
def test_every_word_survives_vocabulary_and_output(caption, written):
    written = unicodedata.normalize("NFC", written or caption)
    vocabulary = Vocabulary.from_captions([caption], min_count=0)
    for form in ("NFC", "NFD"):
        same = unicodedata.normalize(form, caption)
        assert words_of(same) == words_of(caption)
        assert vocabulary.decode(vocabulary.encode(same, max_length=40)) == written
    assert all(vocabulary.known(written))


def test_scripts_without_spaces_are_taken_by_character_with_its_marks():
    assert words_of("一只猫") == ["一", "只", "猫"]
    assert words_of("ソファー") == ["ソ", "フ", "ァ", "ー"]
    assert words_of("เก้าอี้") == ["เ", "ก้", "า", "อี้"]
    assert words_of("二〇二六") == ["二", "〇", "二", "六"]


def test_no_space_stands_within_a_script_without_spaces_but_between_two_of_them():
    assert join_words(["猫", "の", "แ", "ม", "ว", "cat", "猫"]) == "猫の แมว cat 猫"


@pytest.mark.parametrize("text", ["", "42 !", "🐈\u200d⬛ ❤️", "\u0301", "、。", "\u200d"])
def test_what_is_no_letter_is_no_word(text):
    assert words_of(text) == []


@given(
    st.text(st.characters(max_codepoint=127, exclude_characters="\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f"))
)
def test_on_ascii_words_and_texts_are_the_seeds(text):
    words = seed_words(text)
    for normalization in Normalization:
        assert normalize(text, normalization) == words_of(text, normalization) == words
    assert join_words(words) == " ".join(words)


@given(st.text())
def test_what_is_written_out_is_read_as_the_same_words(text):
    assert normalize(join_words(words_of(text))) == normalize(text)


def test_seed_normalization_keeps_what_the_seed_keeps():
    assert words_of("Un Garçon, 猫", Normalization.SEED) == ["un", "garon"]
