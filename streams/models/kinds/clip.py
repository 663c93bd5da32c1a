"""The kind `clip`: any open_clip model. Which one, a process is told by its settings."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image

from streams.contract.declaration import Declaration
from streams.contract.kinds import CLIP, check_declaration
from streams.errors import DocumentError, InvalidBundle
from streams.models.clip import ClipEncoder
from streams.models.clip_golden import encode_golden, golden_difference
from streams.models.kinds.kind import AnnouncedKind, Made, Tolerance
from streams.settings import ClipSettings


class Clip(AnnouncedKind):
    """An embedding of the image. CLIP is deep: more digits depend on what is in the batch."""

    name = CLIP
    tolerance: ClassVar[Tolerance] = Tolerance(numbers=1e-3)

    def check(self, declaration: Declaration) -> None:
        """See `Kind.check`."""
        check_declaration(declaration)

    def open(self, settings: ClipSettings) -> "ClipPredictor":
        """See `AnnouncedKind.open`."""
        return ClipPredictor(ClipEncoder(settings))


class ClipPredictor:
    """A loaded encoder."""

    remedy = "correct CAPTIONSTREAM_CLIP__MODEL and CAPTIONSTREAM_CLIP__PRETRAINED"

    def __init__(self, encoder: ClipEncoder) -> None:
        """Keep the encoder."""
        self._encoder = encoder
        self.version = encoder.version

    @cached_property
    def details(self) -> Mapping[str, Any]:
        """What is announced: the length of its vectors, and those of the golden images.

        Raises:
            SettingsError: They are not finite; such weights are announced to nobody.
        """
        golden = encode_golden(self._encoder.golden())
        return {"dimension": self._encoder.dimension, "golden": golden}

    def difference(self, announced: Mapping[str, Any]) -> str:
        """See `AnnouncedPredictor.difference`."""
        return golden_difference(self._encoder.golden(), announced["golden"])

    def preprocess(self, item: Image.Image) -> torch.Tensor:
        """Return an RGB image as the model wants it, float32 of shape (3, H, W).

        Raises:
            InvalidImage: Its shape is too far from the model's.
        """
        return self._encoder.preprocess(item)

    def predict(self, items: Sequence[torch.Tensor]) -> list[Made | DocumentError]:
        """See `Predictor.predict`."""
        if not items:
            return []
        embeddings = self._encoder.encode(torch.stack(list(items)))  # (B, 3, H, W) -> (B, D)
        return [Made(value=row) for row in embeddings]

    def check(self) -> None:
        """See `Predictor.check`."""
        if not self._encoder.self_test():
            msg = f"{self.version} gives no finite numbers for its test image"
            raise InvalidBundle(msg)
