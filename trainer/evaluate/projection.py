"""How good a projection is: the kind `linear`."""

from typing import Final

import numpy as np
import torch

from streams.contract.manifest import Bundle
from streams.contract.pipeline import Model
from streams.errors import SettingsError
from streams.models.projection import Projection, from_bundle
from trainer.evaluate.caption_metrics import has_words
from trainer.evaluate.cases import Measured, cases_of, vectors_in
from trainer.evaluate.measuring import Measuring
from trainer.fit.dataset import Target, captions_of
from trainer.fit.plugs import EncodeTexts
from trainer.snapshot.validation_set import ValidationSet

_RECALLS: Final = (1, 5, 10)


def measure(bundle: Bundle, measuring: Measuring) -> Measured:
    """Measure a version. See `measure_projection`.

    Raises:
        SettingsError: There is no text tower for what it reads.
    """
    if measuring.encode_texts is None:
        msg = (
            f"{measuring.model.name} is measured on captions as vectors: the model that it reads"
            " has to be one with a text tower (of the kind clip)"
        )
        raise SettingsError(msg)
    return measure_projection(
        from_bundle(bundle),
        measuring.validation_set,
        measuring.model,
        measuring.encode_texts,
        target=measuring.plugs.target,
    )


def measure_projection(
    projection: Projection,
    validation_set: ValidationSet,
    model: Model,
    encode_texts: EncodeTexts,
    *,
    target: Target = captions_of,
) -> Measured:
    """Look up every entry's image by its first caption, both projected, among all images.

    Metrics: `recall1`, `recall5`, `recall10` (share of captions whose image is among the nearest
    so many by cosine), `median_rank` (1 is best), `n`.

    Raises:
        FeatureMismatch: The vectors have another length than the model reads.
        SettingsError: No entry has a reference with a word.
    """
    cases = cases_of(validation_set, model, target, is_usable=has_words)
    vectors = vectors_in(cases, projection.dimension_in, model)
    first = [next(text for text in case.targets if has_words(text)) for case in cases]
    with torch.inference_mode():
        images = projection(vectors)  # (N, P)
        texts = projection(encode_texts(first).float())  # (N, P)
        similarity = texts @ images.T  # (N, N)
        # Images as near as the right one count before it, so that a constant model earns nothing.
        ranks = (similarity >= similarity.diagonal().unsqueeze(1)).sum(dim=1)  # (N,)
    metrics = {f"recall{k}": float((ranks <= k).float().mean()) for k in _RECALLS}
    metrics |= {"median_rank": float(np.median(ranks.numpy())), "n": len(cases)}
    return Measured(metrics=metrics, cases=cases, values=list(images.numpy()))
