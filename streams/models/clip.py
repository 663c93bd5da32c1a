"""The image encoder: any open_clip model, with the preprocessing that belongs to it.

Only the image tower is kept. Weights come from a tag of open_clip (downloaded once), from a local
checkpoint, or, asked for by name, from a random generator.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from PIL import Image
from structlog import get_logger

from streams.errors import SettingsError
from streams.settings import ClipSettings

log = get_logger(__name__)

RANDOM: Final = "random"
#: Convolutions on a CPU run about a quarter faster in this layout; the numbers are the same.
_LAYOUT: Final = torch.channels_last
_REMEDY: Final = (
    "set CAPTIONSTREAM_CLIP__PRETRAINED to the path of a checkpoint, or to `random` for a trial"
    " with meaningless outputs"
)


class ClipEncoder:
    """Encodes images to embeddings. One thread at a time."""

    def __init__(self, settings: ClipSettings) -> None:
        """Build the model and load its weights.

        Raises:
            SettingsError: The model is not known, or its weights cannot be had.
        """
        name = _register(settings.model)
        model, preprocess = _create(name, settings)
        self._device = _device(settings.device)
        tower = _ImageTower(model).to(self._device).to(memory_format=_LAYOUT)
        self._model = tower.eval().requires_grad_(False)
        self._preprocess = preprocess
        size = model.visual.image_size
        self._size: tuple[int, int] = size if isinstance(size, tuple) else (size, size)
        self._test_image = torch.linspace(-1, 1, 3 * self._size[0] * self._size[1]).view(
            1, 3, *self._size
        )
        self.dimension = int(self.encode(self._test_image).shape[1])
        tag = (
            Path(settings.pretrained).stem if _is_file(settings.pretrained) else settings.pretrained
        )
        self.version = f"{name}-{tag}-{self._digest(name)}"

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Return an RGB image as the model wants it: float32 of shape (3, H, W)."""
        tensor: torch.Tensor = self._preprocess(image)
        return tensor

    def encode(self, images: torch.Tensor) -> np.ndarray:
        """Return the embeddings, float32 of shape (B, D), not normalised, of (B, 3, H, W)."""
        with torch.inference_mode():
            embeddings = self._model(images.to(self._device, memory_format=_LAYOUT))
        return embeddings.float().cpu().numpy()  # type: ignore[no-any-return]

    def self_test(self) -> bool:
        """Whether a fixed image still gives finite numbers."""
        try:
            return bool(np.isfinite(self.encode(self._test_image)).all())
        except RuntimeError:
            return False

    def _digest(self, name: str) -> str:
        """Return a hash over all that decides an embedding: weights, config, preprocessing."""
        digest = hashlib.blake2b(digest_size=6)
        config = open_clip.get_model_config(name)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        digest.update(repr(self._preprocess).encode())
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
        return self.visual(images)  # type: ignore[no-any-return]


def _is_file(name: str) -> bool:
    return Path(name).is_file()


def _register(model: str) -> str:
    """Return open_clip's name of the model; a path of a config is made known to it first."""
    if model.endswith(".json"):
        path = Path(model)
        if not path.is_file():
            msg = f"no open_clip model config at {model} (CAPTIONSTREAM_CLIP__MODEL)"
            raise SettingsError(msg)
        open_clip.add_model_config(path)
        return path.stem
    if model not in open_clip.list_models():
        msg = (
            f"open_clip knows no model {model!r} (CAPTIONSTREAM_CLIP__MODEL);"
            " for example RN50, ViT-B-32, ViT-L-14, or the path of a model config (.json)"
        )
        raise SettingsError(msg)
    return model


def _create(name: str, settings: ClipSettings) -> tuple[Any, Any]:
    is_random = settings.pretrained == RANDOM
    if is_random:
        log.warning("CLIP HAS RANDOM WEIGHTS: embeddings and captions mean nothing", model=name)
        torch.manual_seed(settings.seed)
    elif not _is_file(settings.pretrained):
        _check_tag(name, settings.pretrained)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=None if is_random else settings.pretrained
        )
    except Exception as exc:  # downloads and checkpoints fail in many ways
        reason = _first_sentence(exc)
        msg = f"CLIP weights {settings.pretrained!r} of {name} cannot be had ({reason}); {_REMEDY}"
        raise SettingsError(msg) from exc
    return model, preprocess


def _check_tag(name: str, tag: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag.lower() not in tags:
        msg = (
            f"CLIP weights {tag!r} are neither a file nor a tag of {name}"
            f" (its tags: {', '.join(tags) or 'none'}); {_REMEDY}"
        )
        raise SettingsError(msg)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as exc:
        msg = f"torch knows no device {name!r} (CAPTIONSTREAM_CLIP__DEVICE)"
        raise SettingsError(msg) from exc


def _first_sentence(exc: Exception) -> str:
    """Torch goes on to recommend unsafe loading, which nobody should read in our name."""
    return str(exc).split(". ")[0].split("\n")[0]
