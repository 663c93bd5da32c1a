"""The captioner: the seed's GRU language model, conditioned on an image vector.

The vector, projected to the hidden size, is the initial state; start token V, stop token V + 1,
with V the size of the vocabulary. With the seed's weights, logits, loss and greedy tokens equal the
seed's.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from streams.contract.kinds import GRU
from streams.contract.manifest import UNCHANGED, Bundle, Feature, Golden
from streams.errors import InvalidBundle
from streams.models.bundle import (
    build,
    check_close,
    check_feature,
    golden_input,
    golden_of,
    make_bundle,
    sizes_of,
)
from streams.models.decoding import decode_beam, decode_greedy, follow
from streams.models.stepping import Stepper
from streams.models.vocabulary import Vocabulary
from streams.models.words import Normalization

_GOLDEN_COUNT: Final = 2
#: Where a manifest says what counts as a word.
_CAPTIONS: Final = "captions"
#: Difference of two log-probabilities that another processor may turn round: kernels differ by
#: about 1e-5, while another weight, word or layer moves them by tenths.
_EQUALLY_LIKELY: Final = 1e-3
#: Most words of a caption that any model may be asked for; decoding is one step for each.
_MAX_LENGTH: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """A generated sentence.

    Attributes:
        text: Its words, written out.
        tokens: Their ids, with the stop id if the model ended the sentence itself.
        score: Mean natural log-probability of these tokens.
    """

    text: str
    tokens: tuple[int, ...]
    score: float


class ConditionalLM(torch.nn.Module):
    """Words of a caption, one after the other, from an image vector.

    Attributes:
        vocabulary: V words.
        max_length: Most words of a caption. The seed counts the start token too, so that its
            captions end one word earlier; up to there the tokens are equal.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        n_condition: int = 1024,
        n_hidden: int = 512,
        max_length: int = 15,
    ) -> None:
        """Make the layers, with the names that they have in the seed.

        Raises:
            ValueError: `max_length` is not from 1 to 1000.
        """
        super().__init__()
        if not 1 <= max_length <= _MAX_LENGTH:
            msg = f"max_length is {max_length}, expected 1 to {_MAX_LENGTH} words"
            raise ValueError(msg)
        self.vocabulary = vocabulary
        self.n_condition = n_condition
        self.n_hidden = n_hidden
        self.max_length = max_length
        n_tokens = len(vocabulary) + 2
        self.embedding = torch.nn.Embedding(n_tokens, n_hidden)
        self.conditioning_linear = torch.nn.Linear(n_condition, n_hidden)
        self.rnn = torch.nn.GRU(n_hidden, n_hidden, batch_first=True)
        self.prediction = torch.nn.Linear(n_hidden, n_tokens)
        self._stepper: tuple[object, Stepper] | None = None

    def train_forward(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits of the token after each given one.

        Args:
            images: Vectors of shape (B, n_condition).
            tokens: Ids of shape (B, T), the start id first.

        Returns:
            Logits of shape (B, T, V + 2).
        """
        state = self.conditioning_linear(images).unsqueeze(0)  # (1, B, n_hidden)
        states, _ = self.rnn(self.embedding(tokens), state)  # (B, T, n_hidden)
        logits: torch.Tensor = self.prediction(states)
        return logits

    def stepper(self) -> Stepper:
        """Return the step with the weights of now, which are laid out anew if they changed."""
        weights = tuple((p.data_ptr(), p._version) for p in self.parameters())  # noqa: SLF001
        if self._stepper is None or self._stepper[0] != weights:  # it was trained or loaded since
            layers = (self.conditioning_linear, self.embedding, self.rnn, self.prediction)
            self._stepper = (weights, Stepper(*layers))
        return self._stepper[1]

    @torch.inference_mode()
    def generate(self, images: torch.Tensor, *, beam_width: int = 1) -> list[Caption]:
        """Return one caption for each image vector of (B, n_condition).

        Args:
            images: Float vectors.
            beam_width: 1 takes the likeliest token each time; more keeps so many sentences.
        """
        if images.shape[0] == 0:
            return []
        vocabulary, max_length = self.vocabulary, self.max_length
        if beam_width == 1:
            decoded = decode_greedy(
                self.stepper(), images, vocabulary=vocabulary, max_length=max_length
            )
        else:
            decoded = decode_beam(
                self.stepper(), images, beam_width, vocabulary=vocabulary, max_length=max_length
            )
        return [
            Caption(text=self.vocabulary.decode(tokens), tokens=tuple(tokens), score=score)
            for tokens, score in decoded
        ]


def autoregressive_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the seed's loss: cross-entropy up to and including the first stop, averaged per row.

    loss = mean over rows of (sum over t of m_t * CE_t) / (sum over t of m_t), with m_0 = 1 and
    m_t = 1 while the target before is no stop id. Source: `auto_regressive_loss` of the seed.

    Args:
        logits: Of shape (B, T, V + 2).
        targets: Ids of shape (B, T).
    """
    stop = logits.shape[2] - 1
    losses = functional.cross_entropy(logits.transpose(2, 1), targets, reduction="none")  # (B, T)
    mask = torch.ones_like(losses)
    mask[:, 1:] = (targets[:, :-1] != stop).to(losses.dtype)
    return ((losses * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def to_bundle(
    model: ConditionalLM,
    *,
    name: str,
    feature: str,
    feature_version: str | None = None,
    metrics: dict[str, float] | None = None,
    snapshot_id: str | None = None,
    note: str = "",
) -> Bundle:
    """Return the bundle of a captioner.

    Args:
        model: The model, in evaluation mode.
        name: Name of the model that it is a version of.
        feature: Name of the model whose vector it reads.
        feature_version: The version of that one it was fitted on; None if it takes any.
        metrics: What was measured on the frozen validation set.
        snapshot_id: The snapshot it was fitted on.
        note: One line for people.
    """
    golden = Golden(count=_GOLDEN_COUNT)
    captions = model.generate(golden_input(golden, model.n_condition))
    return make_bundle(
        model.state_dict(),
        name=name,
        kind=GRU,
        config={
            "n_condition": model.n_condition,
            "n_hidden": model.n_hidden,
            "max_length": model.max_length,
        },
        features={feature: Feature(dimension=model.n_condition, version=feature_version)},
        preprocessing={feature: UNCHANGED, _CAPTIONS: model.vocabulary.normalization.value},
        vocabulary=list(model.vocabulary.words),
        metrics=metrics or {},
        snapshot_id=snapshot_id,
        note=note,
        golden=golden.model_copy(
            update={
                "tokens": [list(caption.tokens) for caption in captions],
                "scores": [caption.score for caption in captions],
                "texts": [caption.text for caption in captions],
            }
        ),
    )


def from_bundle(bundle: Bundle) -> ConditionalLM:
    """Return the captioner in a bundle, ready to serve.

    Raises:
        InvalidBundle: It is damaged, its vocabulary does not fit its weights, or it does not
            compute its golden output.
    """
    manifest = bundle.manifest
    try:
        normalization = Normalization(manifest.preprocessing.get(_CAPTIONS, ""))
        vocabulary = Vocabulary(tuple(manifest.vocabulary or ()), normalization)
    except ValueError as exc:
        msg = f"{manifest.name}: vocabulary is not valid: {exc}"
        raise InvalidBundle(msg) from exc
    sizes = sizes_of(manifest, ("n_condition", "n_hidden", "max_length"))
    check_feature(manifest, sizes["n_condition"])
    try:
        model = build(lambda: ConditionalLM(vocabulary, **sizes), bundle)
    except ValueError as exc:
        msg = f"{manifest.name}: {exc}"
        raise InvalidBundle(msg) from exc
    check_golden(model, bundle)
    return model


def check_golden(model: ConditionalLM, bundle: Bundle) -> None:
    """Compare the golden input's captions with the manifest's.

    Another processor may take another of two tokens that are equally likely but for their last
    digits. So where tokens differ, it is enough that each promised one is as likely as the best.

    Raises:
        InvalidBundle: They differ by more than processors do.
    """
    name, golden, vocabulary = bundle.manifest.name, golden_of(bundle.manifest), model.vocabulary
    images = golden_input(golden, model.n_condition).to(model.prediction.weight.device)
    captions = model.generate(images)
    tokens, scores = golden.tokens or [], [caption.score for caption in captions]
    longest = max(map(len, tokens), default=0)
    is_promised = len(tokens) == len(captions) and longest <= model.max_length
    for row, wanted in enumerate(tokens if is_promised else []):
        if wanted == list(captions[row].tokens):
            continue
        found = follow(model.stepper(), images[row : row + 1], wanted, vocabulary=vocabulary)
        is_promised = is_promised and found is not None and found.shortfall <= _EQUALLY_LIKELY
        scores[row] = found.score if found is not None else math.nan
    if not is_promised or [vocabulary.decode(row) for row in tokens] != golden.texts:
        texts = [caption.text for caption in captions]
        msg = f"{name}: golden input gives {texts}, the manifest promises {golden.texts}"
        raise InvalidBundle(msg)
    check_close(name, scores, golden.scores)
