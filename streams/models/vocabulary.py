"""The words that a captioner knows, and their ids."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from streams.models.words import Normalization, fold_case, join_words, normalize, words_of

UNKNOWN: Final = "<unk>"


@dataclass(frozen=True)
class Vocabulary:
    """Words in the order of their ids; the last ids are for the start and the stop of a caption.

    Attributes:
        words: V words as they are written out, `<unk>` among them.
        normalization: What counts as a word.
    """

    words: tuple[str, ...]
    normalization: Normalization = Normalization.UNICODE

    def __post_init__(self) -> None:
        if UNKNOWN not in self.words or len(self._ids) != len(self.words):
            msg = f"a vocabulary needs {UNKNOWN!r} and no word twice"
            raise ValueError(msg)

    @classmethod
    def from_captions(
        cls,
        captions: Iterable[str],
        *,
        min_count: int = 5,
        normalization: Normalization = Normalization.UNICODE,
    ) -> "Vocabulary":
        """Return the words that occur more than `min_count` times, sorted, and `<unk>` behind.

        A word of several spellings is written as most captions do.
        """
        spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for caption in captions:
            for word in words_of(caption, normalization):
                spellings[fold_case(word)][word] += 1
        frequent = (found for found in spellings.values() if found.total() > min_count)
        words = sorted(min(found, key=lambda word: (-found[word], word)) for found in frequent)
        return cls((*words, UNKNOWN), normalization)

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
        return {fold_case(word): number for number, word in enumerate(self.words)}

    def known(self, caption: str) -> list[bool]:
        """Return for each word of a caption whether it has an id of its own."""
        return [word in self._ids for word in normalize(caption, self.normalization)]

    def encode(self, caption: str, *, max_length: int) -> list[int]:
        """Return `max_length` + 1 ids: at most `max_length` words, then stop ids, at least one.

        The seed has no stop after a caption of `max_length` words, so its model never learns to
        end one. The loss does not count ids after the first stop, so that shorter captions cost
        what they cost in the seed. The input that belongs to these targets is the start id and
        all but the last of them.
        """
        unknown = self._ids[UNKNOWN]
        words = normalize(caption, self.normalization)[:max_length]
        ids = [self._ids.get(word, unknown) for word in words]
        return ids + [self.stop] * (max_length + 1 - len(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words up to the first stop id; other ids without a word are passed over."""
        words: list[str] = []
        for number in ids:
            if number == self.stop:
                break
            if number < len(self.words):
                words.append(self.words[number])
        return join_words(words)
