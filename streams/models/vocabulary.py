"""Words and their ids. The same normalisation builds a vocabulary and encodes with it."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

UNKNOWN: Final = "<unk>"
#: What `normalize` does, for manifests.
NORMALIZATION: Final = "lower case, letters a to z only, split at white space"
_OTHER_THAN_LETTERS: Final = re.compile(r"[^a-z ]")


def normalize(text: str) -> list[str]:
    """Return the words of a caption: lower case, letters a to z only, split at white space.

    As the seed builds its vocabulary; its tokenizer meant to do the same but kept punctuation.
    Unlike the seed, which knows only spaces, any white space separates words.
    """
    return _OTHER_THAN_LETTERS.sub("", " ".join(text.lower().split())).split()


@dataclass(frozen=True)
class Vocabulary:
    """Words in the order of their ids; the last ids are for the start and the stop of a caption.

    Attributes:
        words: V words, `<unk>` among them.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if UNKNOWN not in self.words or len(set(self.words)) != len(self.words):
            msg = f"a vocabulary needs {UNKNOWN!r} and no word twice"
            raise ValueError(msg)

    @classmethod
    def from_captions(cls, captions: Iterable[str], *, min_count: int = 5) -> "Vocabulary":
        """Return the words that occur more than `min_count` times, sorted, and `<unk>` behind."""
        counts = Counter(word for caption in captions for word in normalize(caption))
        words = sorted(word for word, count in counts.items() if count > min_count)
        return cls((*words, UNKNOWN))

    def __len__(self) -> int:
        """Return V, the number of words."""
        return len(self.words)

    @property
    def start(self) -> int:
        """Id that begins every input: V."""
        return len(self.words)

    @property
    def stop(self) -> int:
        """Id that ends every target: V + 1."""
        return len(self.words) + 1

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, caption: str, *, max_length: int) -> list[int]:
        """Return `max_length` + 1 ids: at most `max_length` words, then stop ids, at least one.

        The seed has no stop after a caption of `max_length` words, so its model never learns to
        end one. The loss does not count ids after the first stop, so that shorter captions cost
        what they cost in the seed. The input that belongs to these targets is the start id and
        all but the last of them.
        """
        unknown = self._ids[UNKNOWN]
        ids = [self._ids.get(word, unknown) for word in normalize(caption)][:max_length]
        return ids + [self.stop] * (max_length + 1 - len(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words up to the first stop id; other ids without a word are passed over."""
        words: list[str] = []
        for number in ids:
            if number == self.stop:
                break
            if number < len(self.words):
                words.append(self.words[number])
        return " ".join(words)
