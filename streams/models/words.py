"""The words of a caption: how a text is split into them, and how they are written out again."""

import re
import unicodedata
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import regex

_OTHER_THAN_LETTERS: Final = re.compile(r"[^a-z ]")
#: Marks of a letter, and a joiner in front of another letter, as Persian and Hindi use it.
_MARKS: Final = r"\p{M}*(?:[\u200c\u200d](?=\p{L}))?"
#: U+3007, the Chinese zero, is no letter for Unicode.
_LETTERS: Final = regex.compile(rf"[\p{{L}}\u3007]{_MARKS}")
#: Scripts that put no space between words. Those of one group are written next to each other.
_SPACELESS: Final = regex.compile(
    r"([\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}])"
    r"|(\p{scx=Thai})|(\p{scx=Laoo})|(\p{scx=Khmr})|(\p{scx=Mymr})"
)
_WORDS: Final = regex.compile(
    rf"(?:{_SPACELESS.pattern}){_MARKS}|(?:(?!{_SPACELESS.pattern}).{_MARKS})+"
)
_JOINERS: Final = re.compile("[\u200c\u200d]")


class Normalization(StrEnum):
    """What counts as a word; part of every version of a captioner.

    On ASCII both are the same: letters only, white space separates. `UNICODE` keeps the letters and
    marks of every script, and takes each character of a script without spaces as a word.
    """

    UNICODE = "unicode"
    SEED = "seed"


def words_of(text: str, normalization: Normalization = Normalization.UNICODE) -> list[str]:
    """Return the words of a text in lower case, as they are to be written out.

    As the seed builds its vocabulary; its tokenizer meant to do the same but kept punctuation.
    Unlike the seed, which knows only spaces, any white space separates words.
    """
    if normalization is Normalization.SEED or text.isascii():
        return _OTHER_THAN_LETTERS.sub("", " ".join(text.lower().split())).split()
    composed = unicodedata.normalize("NFC", text.lower())
    letters = ("".join(_LETTERS.findall(part)) for part in composed.split())
    return [found[0] for part in letters for found in _WORDS.finditer(part)]


def fold_case(word: str) -> str:
    """Return what all spellings of a word have in common: `straße` and `STRASSE` are one word."""
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", _JOINERS.sub("", word).casefold())


def normalize(text: str, normalization: Normalization = Normalization.UNICODE) -> list[str]:
    """Return the words of a text, each as what its spellings have in common."""
    return [fold_case(word) for word in words_of(text, normalization)]


def join_words(words: Iterable[str]) -> str:
    """Return a text: spaces between words, but none between those of one script without spaces."""
    text, before = "", None
    for word in words:
        found = _SPACELESS.match(word)
        script = found.lastindex if found else None
        is_close = not text or (script is not None and script == before)
        text, before = text + ("" if is_close else " ") + word, script
    return text
