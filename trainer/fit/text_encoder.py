"""Texts to CLIP vectors, for fitting and measuring a projection."""

from collections.abc import Sequence

import torch

from streams.errors import FeatureMismatch
from streams.models.clip import ClipEncoder
from streams.settings import ClipSettings
from trainer.fit.plugs import EncodeTexts


def text_encoder(settings: ClipSettings, version: str) -> EncodeTexts:
    """Return a function that encodes texts; CLIP is loaded when it is first called.

    Args:
        settings: Which CLIP to load.
        version: The version that the images were encoded with.

    The function raises:
        FeatureMismatch: These settings give another version.
        SettingsError: The model or its weights cannot be had.
    """
    loaded: list[ClipEncoder] = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        if not loaded:
            loaded.append(ClipEncoder(settings))
        if loaded[0].version != version:
            msg = (
                f"the images were encoded with CLIP {version}, the settings give"
                f" {loaded[0].version}; set CAPTIONSTREAM_CLIP__MODEL and __PRETRAINED"
            )
            raise FeatureMismatch(msg)
        return loaded[0].encode_texts(texts)

    return encode
