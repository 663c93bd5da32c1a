"""The encoder: any open_clip model, with the preprocessing that belongs to it.

Only the image tower is kept; the text tower comes back when somebody asks for texts. Where the
weights come from, `clip_weights` knows.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import open_clip
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from torchvision.transforms import CenterCrop

from streams.errors import InvalidImage, SettingsError
from streams.images.image import DECODER, scale_to_centre
from streams.models.clip_golden import golden_images
from streams.models.clip_weights import check_weights, create_model, register_model
from streams.models.device import device_of
from streams.settings import ClipSettings

#: Convolutions on a CPU run about a quarter faster in this layout; the numbers are the same.
_LAYOUT: Final = torch.channels_last
#: Of weights and of what is computed with them.
_PRECISION: Final = "float32"
#: Texts that go through the model at once.
_TEXTS: Final = 256
#: Of an image whose long edge is more than so many short ones only the centre is scaled.
_LONGEST: Final = 100


class ClipEncoder:
    """Encodes images, and for the trainer texts, to embeddings. One thread at a time."""

    def __init__(self, settings: ClipSettings) -> None:
        """Build the model and load its weights.

        Raises:
            SettingsError: The model or the device is not known, or the weights cannot be had.
        """
        self._device = device_of(settings.device, "CAPTIONSTREAM_CLIP__DEVICE")
        self._settings = settings
        self._texts: _TextTower | None = None
        self._golden: np.ndarray | None = None
        self._name = name = register_model(settings.model)
        model, preprocess = create_model(name, settings)
        tower = _ImageTower(model).to(self._device).to(memory_format=_LAYOUT)
        self._model = tower.eval().requires_grad_(False)
        self._preprocess = preprocess
        self._preprocessing = dict(open_clip.get_model_preprocess_cfg(model))
        size = model.visual.image_size
        self._size: tuple[int, int] = size if isinstance(size, tuple) else (size, size)
        self._test_image = torch.linspace(-1, 1, 3 * self._size[0] * self._size[1]).view(
            1, 3, *self._size
        )
        self.dimension = int(self.encode(self._test_image).shape[1])
        self.version = f"{check_weights(settings).label}-{self._digest()}"

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Return an RGB image as the model wants it: float32 of shape (3, H, W).

        Raises:
            InvalidImage: Its shape is too far from the model's.
        """
        if max(image.size) > _LONGEST * min(image.size):
            image = self._centre(image)
        try:
            tensor: torch.Tensor = self._preprocess(image)
        except ValueError as exc:  # an edge of less than one pixel
            msg = f"an image of {image.width} x {image.height} pixels cannot be scaled: {exc}"
            raise InvalidImage(msg) from exc
        return tensor

    def _centre(self, image: Image.Image) -> Image.Image:
        """Return what preprocessing would crop to, if it crops."""
        resize, crop, *_ = self._preprocess.transforms
        if not isinstance(crop, CenterCrop):
            return image
        return scale_to_centre(image, *self._size, Image.Resampling[resize.interpolation.name])

    def encode(self, images: torch.Tensor) -> np.ndarray:
        """Return the embeddings, float32 of shape (B, D), not normalised, of (B, 3, H, W)."""
        with torch.inference_mode():
            embeddings = self._model(images.to(self._device, memory_format=_LAYOUT))
        return embeddings.float().cpu().numpy()  # type: ignore[no-any-return]

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings, float32 of shape (B, D) on the CPU; like images not normalised.

        The first call loads the weights again, since the pipeline never needs this tower. Words
        beyond the model's context are cut off, as open_clip does.

        Raises:
            SettingsError: The weights cannot be had any more.
        """
        if self._texts is None:
            model, _ = create_model(self._name, self._settings)
            tower = _TextTower(model, open_clip.get_tokenizer(self._name)).to(self._device)
            self._texts = tower.eval().requires_grad_(False)
        chunks = [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]
        with torch.inference_mode():
            embeddings = [self._texts(chunk, self._device).float().cpu() for chunk in chunks]
        # Unlike inference tensors, a clone may take part in training.
        return torch.cat([torch.empty(0, self.dimension), *embeddings]).clone()  # (B, D)

    def self_test(self) -> bool:
        """Whether a fixed image still gives finite numbers."""
        try:
            return bool(np.isfinite(self.encode(self._test_image)).all())
        except RuntimeError:
            return False

    def golden(self) -> np.ndarray:
        """Return the embeddings of the golden images, of shape (N, D).

        Raises:
            SettingsError: They are not finite; such weights are announced to nobody.
        """
        if self._golden is None:
            pixels = [self.preprocess(image) for image in golden_images()]
            golden = self.encode(torch.stack(pixels))  # (N, 3, H, W) -> (N, D)
            if not np.isfinite(golden).all():
                msg = (
                    f"CLIP {self.version} gives numbers that are not finite; set"
                    " CAPTIONSTREAM_CLIP__PRETRAINED to other weights"
                )
                raise SettingsError(msg)
            self._golden = golden
        return self._golden

    def _digest(self) -> str:
        """Return a hash over all that decides an embedding, but for device and runtime.

        Golden images compare those. Nothing here is worded by a library, so that another
        release of it does not make another version of the same numbers.
        """
        digest = hashlib.blake2b(digest_size=6)
        decides = {
            "config": open_clip.get_model_config(self._name),
            # A tag of weights may choose it, whatever the config says.
            "quick_gelu": any(isinstance(m, QuickGELU) for m in self._model.modules()),
            "preprocessing": self._preprocessing,
            "decoder": DECODER,
            "precision": _PRECISION,
        }
        digest.update(json.dumps(decides, sort_keys=True).encode())
        for key, tensor in sorted(self._model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class _ImageTower(torch.nn.Module):
    """An open_clip model without its text tower, which is most of the memory."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As `encode_image` of open_clip: (B, 3, H, W) -> (B, D)."""
        output = self.visual(images)
        # CoCa's tower returns its tokens too, behind the embedding.
        embeddings: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return embeddings


class _TextTower(torch.nn.Module):
    """An open_clip model without its image tower, and the tokenizer that belongs to it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        model.visual = torch.nn.Identity()
        self._model = model
        self._tokenizer = tokenizer

    def forward(self, texts: Sequence[str], device: torch.device) -> torch.Tensor:
        """As `encode_text` of open_clip: B texts -> (B, D)."""
        tokens = self._tokenizer(list(texts))  # (B, context)
        embeddings: torch.Tensor = self._model.encode_text(tokens.to(device))
        return embeddings
