"""Where CLIP's weights come from.

A tag of open_clip (downloaded once), a local checkpoint, this package (the small model of generated
scenes), or, asked for by name, a random generator. Only a tag needs the network.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import huggingface_hub
import open_clip
import torch
from huggingface_hub.errors import HfHubHTTPError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from structlog import get_logger

from streams.errors import SettingsError
from streams.settings import ClipSettings

log = get_logger(__name__)

RANDOM: Final = "random"
#: The model whose weights come with this package, and the name of these weights.
SCENES: Final = "scenes"
BUNDLED: Final = "bundled"
#: open_clip takes the name of a config from its file's.
SCENES_CONFIG: Final = Path(__file__).parent / "scenes_clip" / f"{SCENES}.json"
SCENES_WEIGHTS: Final = SCENES_CONFIG.with_name("model.safetensors")
#: How long a server of weights may be silent.
_SILENCE_SECONDS: Final = 5.0
#: What open_clip needs of a model config.
_CONFIG_KEYS: Final = ("embed_dim", "vision_cfg", "text_cfg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The weights that settings name.

    Attributes:
        label: Model and weights; every version made of them begins with it.
        is_here: Whether they can be loaded without a network.
    """

    label: str
    is_here: bool


def register_model(model: str) -> str:
    """Return open_clip's name of the model; the path of a config is made known to it first.

    Raises:
        SettingsError: open_clip knows no such model, or the file is no model config.
    """
    if model == SCENES or model.endswith(".json"):
        path = SCENES_CONFIG if model == SCENES else Path(model)
        _check_config(path)
        open_clip.add_model_config(path)
        return path.stem
    if model not in open_clip.list_models():
        msg = (
            f"open_clip knows no model {model!r} (CAPTIONSTREAM_CLIP__MODEL);"
            " for example RN50, ViT-B-32, ViT-L-14, or the path of a model config (.json),"
            f" or `{SCENES}` for generated scenes"
        )
        raise SettingsError(msg)
    return model


def check_weights(settings: ClipSettings) -> Weights:
    """Check what can be checked without a network and without loading anything.

    Raises:
        SettingsError: There is no such model, or it has no such weights.
    """
    name, pretrained = register_model(settings.model), settings.pretrained
    if pretrained == BUNDLED:
        _check_bundled(name, settings)
    if pretrained in (RANDOM, BUNDLED):
        return Weights(label=f"{name}-{pretrained}", is_here=True)
    if Path(pretrained).is_file():
        return Weights(label=f"{name}-{Path(pretrained).stem}", is_here=True)
    _check_tag(name, pretrained)
    return Weights(label=f"{name}-{pretrained}", is_here=_is_cached(name, pretrained))


def create_model(name: str, settings: ClipSettings) -> tuple[Any, Any]:
    """Return the open_clip model with its weights, and its preprocessing.

    Raises:
        SettingsError: The weights cannot be had; the message names the remedy.
    """
    if not check_weights(settings).is_here:
        _ask_hub(name, settings.pretrained)
    pretrained: str | None = settings.pretrained
    if pretrained == RANDOM:
        log.warning("CLIP HAS RANDOM WEIGHTS: embeddings and captions mean nothing", model=name)
        pretrained = None
    elif pretrained == BUNDLED:
        pretrained = str(SCENES_WEIGHTS)
    try:
        # The seed is for random weights only, and no business of anybody else's generator.
        with torch.random.fork_rng(devices=[]), _silence_ends():
            torch.manual_seed(settings.seed)
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, pretrained=pretrained
            )
    except Exception as exc:  # downloads and checkpoints fail in many ways
        reason = _first_sentence(exc)
        if pretrained is None:
            msg = f"CLIP model {name} cannot be built: {reason} (CAPTIONSTREAM_CLIP__MODEL)"
            raise SettingsError(msg) from exc
        raise _not_to_be_had(name, settings.pretrained, reason) from exc
    return model, preprocess


def _check_config(path: Path) -> None:
    """open_clip passes over a config that lacks something, and fails in odd ways on bad JSON."""
    if not path.is_file():
        msg = f"no open_clip model config at {path} (CAPTIONSTREAM_CLIP__MODEL)"
        raise SettingsError(msg)
    try:
        config = json.loads(path.read_bytes())
    except ValueError as exc:
        msg = f"{path} is no JSON (CAPTIONSTREAM_CLIP__MODEL): {exc}"
        raise SettingsError(msg) from exc
    if not isinstance(config, dict) or not config.keys() >= set(_CONFIG_KEYS):
        wanted = ", ".join(_CONFIG_KEYS)
        msg = f"{path} is no open_clip model config (CAPTIONSTREAM_CLIP__MODEL): it needs {wanted}"
        raise SettingsError(msg)


def _check_bundled(name: str, settings: ClipSettings) -> None:
    if settings.model != SCENES:
        msg = (
            f"only the model `{SCENES}` has `{BUNDLED}` weights, {name} has none;"
            f" set CAPTIONSTREAM_CLIP__MODEL={SCENES}, or CAPTIONSTREAM_CLIP__PRETRAINED"
            f" to weights of {name}"
        )
        raise SettingsError(msg)
    if not SCENES_WEIGHTS.is_file():
        msg = f"{SCENES_WEIGHTS} is missing (CAPTIONSTREAM_CLIP__PRETRAINED={BUNDLED}); reinstall"
        raise SettingsError(msg)


def _check_tag(name: str, tag: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag.lower() not in tags:
        msg = (
            f"CLIP weights {tag!r} are neither a file nor a tag of {name}"
            f" (its tags: {', '.join(tags) or 'none'}); {_remedy(name, tag)}"
        )
        raise SettingsError(msg)


def _is_cached(name: str, tag: str) -> bool:
    repository, files = _on_hub(name, tag)
    if not repository:
        return False
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    return any(isinstance(path, str) for path in found)


def _on_hub(name: str, tag: str) -> tuple[str, list[str]]:
    """Return the repository of a tag's weights, "" if it is in none, and their file's names."""
    where = open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "")
    repository, file = os.path.split(where)
    return repository, [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]


def _ask_hub(name: str, tag: str) -> None:
    """Ask once for weights that are to be downloaded: the client itself would ask for minutes."""
    repository, files = _on_hub(name, tag)
    if not repository:
        return
    url = huggingface_hub.hf_hub_url(repository, files[-1])
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=_SILENCE_SECONDS)
    except HfHubHTTPError:
        return  # it answers; what exactly is wrong, the download will say
    except (httpx.TransportError, OSError) as exc:
        reason = f"{url} cannot be reached: {_first_sentence(exc)}"
        raise _not_to_be_had(name, tag, reason) from exc


def _not_to_be_had(name: str, pretrained: str, reason: str) -> SettingsError:
    remedy = _remedy(name, pretrained)
    return SettingsError(
        f"CLIP weights {pretrained!r} of {name} cannot be had ({reason}); {remedy}"
    )


def _remedy(name: str, tag: str) -> str:
    if name == SCENES:
        return f"set CAPTIONSTREAM_CLIP__PRETRAINED={BUNDLED}"
    quick = f"{name}-quickgelu"
    wants_quick = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    # A tag switches the activation by itself; a file cannot.
    with_model = (
        f" (these weights as a file go with CAPTIONSTREAM_CLIP__MODEL={quick})"
        if wants_quick and quick in open_clip.list_models()
        else ""
    )
    return (
        f"set CAPTIONSTREAM_CLIP__PRETRAINED to the path of a checkpoint{with_model}, or to"
        f" `{RANDOM}` for a trial with meaningless outputs"
    )


@contextmanager
def _silence_ends() -> Iterator[None]:
    """Give sockets a time limit: some tags are downloaded without any."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _first_sentence(exc: Exception) -> str:
    """Torch goes on to recommend unsafe loading, which nobody should read in our name."""
    return str(exc).split(". ")[0].split("\n")[0]
