"""Texts to vectors in the space of the images, for fitting and measuring a projection."""

from collections.abc import Mapping, Sequence

import torch

from streams.contract.kinds import CLIP
from streams.contract.pipeline import Model, Pipeline
from streams.errors import FeatureMismatch
from streams.models.clip import ClipEncoder
from streams.settings import ClipSettings
from trainer.fit.plugs import EncodeTexts


def text_encoder(
    settings: ClipSettings, pipeline: Pipeline, model: Model, versions: Mapping[str, str]
) -> EncodeTexts | None:
    """Return the text tower of the one model that a model reads; None where it has none.

    It is loaded when it is first called.

    Args:
        settings: Which CLIP to load.
        pipeline: The models.
        model: The model that reads.
        versions: The version that the images were encoded with, by name of the model.

    The function raises:
        FeatureMismatch: These settings give another version.
        SettingsError: The model or its weights cannot be had.
    """
    read = [name for name in model.reads if pipeline.models[name].declaration.kind == CLIP]
    if len(read) != 1 or read[0] not in versions:
        return None
    version = versions[read[0]]
    loaded: list[ClipEncoder] = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        if not loaded:
            loaded.append(ClipEncoder(settings))
        if loaded[0].version != version:
            msg = (
                f"the images were encoded with {read[0]} {version}, the settings give"
                f" {loaded[0].version}; set CAPTIONSTREAM_CLIP__MODEL and __PRETRAINED"
            )
            raise FeatureMismatch(msg)
        return loaded[0].encode_texts(texts)

    return encode
