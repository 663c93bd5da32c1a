"""How close generated captions are to their references: BLEU, ROUGE-L, CIDEr-D.

The scores are those of pycocoevalcap, over the words of `streams.models.words.normalize`: letters
of every script, without case; one measure for all versions, whatever normalization they were fitted
with. COCO's own figures come from the Penn Treebank tokenizer (a
Java program), which keeps digits, splits hyphens and drops punctuation; so ours compare with each
other, and only roughly with published ones.
"""

from collections.abc import Sequence
from typing import Final

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from streams.models.words import normalize

_BLEU_ORDER: Final = 4


def score_captions(
    generated: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the metrics of a whole set of captions.

    BLEU is of the corpus, not a mean over captions. ROUGE-L and CIDEr-D are means over images.
    CIDEr-D weighs words by the share of images that mention them, so that it depends on the set,
    goes from 0 to 10, and is 0 for a set of one image. A caption without a word scores 0.

    Args:
        generated: One caption for each image.
        references: At least one caption with a word for each image, in the same order; those
            without a word are passed over.

    Returns:
        `bleu1` to `bleu4`, `rouge_l` and `cider`.

    Raises:
        ValueError: There are no captions, the lengths differ, or an image has no reference.
    """
    if not generated or len(generated) != len(references):
        msg = f"{len(generated)} captions for {len(references)} images; expected as many, and one"
        raise ValueError(msg)
    results = {number: [_tokenize(text)] for number, text in enumerate(generated)}
    truths = {number: _usable(texts) for number, texts in enumerate(references)}
    lost = [number for number, texts in truths.items() if not texts]
    if lost:
        msg = f"image {lost[0]} has no reference caption with a word"
        raise ValueError(msg)
    bleu, _ = Bleu(_BLEU_ORDER).compute_score(truths, results, verbose=0)  # it prints otherwise
    rouge, _ = Rouge().compute_score(truths, results)
    cider, _ = Cider().compute_score(truths, results)
    scores = {f"bleu{order}": float(value) for order, value in enumerate(bleu, start=1)}
    return scores | {"rouge_l": float(rouge), "cider": float(cider)}


def has_words(caption: str) -> bool:
    """Whether anything of a caption is left after tokenisation."""
    return bool(normalize(caption))


def _tokenize(caption: str) -> str:
    return " ".join(normalize(caption))


def _usable(captions: Sequence[str]) -> list[str]:
    return [text for text in map(_tokenize, captions) if text]
