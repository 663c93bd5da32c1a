"""A model version as it is stored: weights and a manifest, immutable, named by its content.

The id of a version is a hash over everything that decides what it computes. Weights are
safetensors; nothing here can execute code from a file.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from streams.errors import InvalidBundle

WEIGHTS: Final = "model.safetensors"
MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 1
#: Longest manifest or weights that are read; far above any model of ours.
_MAX_BYTES: Final = 4 << 30


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Feature(_Part):
    """An upstream model whose output the model reads.

    Attributes:
        dimension: Length of its vector.
        version: The version it must come from; None when any will do.
    """

    dimension: int = Field(ge=1)
    version: str | None = None


class Golden(_Part):
    """An input and what the model makes of it; checked whenever the version is loaded.

    Attributes:
        seed: Seed of the input: `count` standard normal vectors.
        count: How many.
        vectors: Expected vectors, for a model that makes vectors.
        tokens: Expected token ids of each greedy caption, for a language model.
        scores: Expected mean log-probability of each, natural logarithm.
        texts: Expected texts.
    """

    seed: int = 0
    count: int = Field(ge=1, le=64)
    vectors: list[list[float]] | None = None
    tokens: list[list[int]] | None = None
    scores: list[float] | None = None
    texts: list[str] | None = None

    def input(self, dimension: int) -> torch.Tensor:
        """Return the input, of shape (count, dimension)."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.count, dimension, generator=generator)


class Manifest(_Part):
    """What a version is, beside its weights.

    Attributes:
        format_version: Layout of this manifest.
        name: Name of the model.
        config: Arguments of its class.
        features: What it reads, by name of the upstream model.
        vocabulary: Words of a language model, in the order of their ids.
        preprocessing: How its inputs were prepared.
        metrics: What was measured on the frozen validation set.
        snapshot_id: The snapshot it was fitted on; None for a version that was not fitted.
        note: One line for people.
        parts: sha256 of each file, hexadecimal.
        golden: An input with its output.
    """

    format_version: int = FORMAT_VERSION
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    config: dict[str, int | float | str]
    features: dict[str, Feature]
    vocabulary: list[str] | None = None
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    snapshot_id: str | None = None
    note: str = ""
    parts: dict[str, str]
    golden: Golden

    def canonical(self) -> bytes:
        """Return the one JSON text of this content."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")
        ).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A version in memory."""

    manifest: Manifest
    weights: bytes

    @property
    def version(self) -> str:
        """Id of the version: 16 hexadecimal digits of the sha256 of all its content."""
        return hashlib.sha256(self.manifest.canonical()).hexdigest()[:16]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights, after checking them.

        Raises:
            InvalidBundle: A hash does not hold, the file is damaged, or a number is not finite.
        """
        digest = hashlib.sha256(self.weights).hexdigest()
        if self.manifest.parts != {WEIGHTS: digest}:
            msg = f"{self.manifest.name}: sha256 of {WEIGHTS} is {digest}, not as the manifest says"
            raise InvalidBundle(msg)
        try:
            tensors = load(self.weights)
        except (SafetensorError, ValueError) as exc:
            msg = f"{self.manifest.name}: {WEIGHTS} is damaged: {exc}"
            raise InvalidBundle(msg) from exc
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                msg = f"{self.manifest.name}: weight {name} holds NaN or infinity"
                raise InvalidBundle(msg)
        return tensors


def make_bundle(tensors: dict[str, torch.Tensor], **manifest: Any) -> Bundle:
    """Return the bundle of weights and a manifest; `parts` is filled in."""
    weights = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    parts = {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    return Bundle(manifest=Manifest(parts=parts, **manifest), weights=weights)


def parse_manifest(data: bytes | str | dict[str, Any]) -> Manifest:
    """Return a manifest from JSON or from a stored document.

    Raises:
        InvalidBundle: It is no manifest, or of a format that this release does not know.
    """
    try:
        if isinstance(data, dict):
            manifest = Manifest.model_validate(data)
        else:
            manifest = Manifest.model_validate_json(data)
    except ValidationError as exc:
        msg = f"manifest is not valid: {exc.errors(include_url=False, include_input=False)}"
        raise InvalidBundle(msg) from exc
    if manifest.format_version != FORMAT_VERSION:
        msg = f"manifest format {manifest.format_version} is unknown, expected {FORMAT_VERSION}"
        raise InvalidBundle(msg)
    return manifest


def to_directory(bundle: Bundle, directory: Path) -> None:
    """Write a bundle as two files; the directory appears whole or not at all.

    Raises:
        FileExistsError: The directory exists.
    """
    if directory.exists():
        raise FileExistsError(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        files = {WEIGHTS: bundle.weights, MANIFEST: bundle.manifest.canonical()}
        for name, data in files.items():
            with (aside / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        aside.rename(directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def from_directory(directory: Path) -> Bundle:
    """Read a bundle from its two files and check it.

    Raises:
        InvalidBundle: A file is missing, too large or damaged.
    """
    data = {}
    for name in (WEIGHTS, MANIFEST):
        path = directory / name
        try:
            if path.stat().st_size > _MAX_BYTES:
                msg = f"{path} is larger than {_MAX_BYTES} bytes"
                raise InvalidBundle(msg)
            data[name] = path.read_bytes()
        except OSError as exc:
            msg = f"cannot read {path}: {exc.strerror}"
            raise InvalidBundle(msg) from exc
    bundle = Bundle(manifest=parse_manifest(data[MANIFEST]), weights=data[WEIGHTS])
    bundle.tensors()
    return bundle


def load_into(module: torch.nn.Module, bundle: Bundle) -> None:
    """Load a bundle's weights into a module and make it ready to serve.

    Raises:
        InvalidBundle: Names or shapes differ, or the weights are damaged.
    """
    tensors = bundle.tensors()
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        msg = f"{bundle.manifest.name}: weights differ from the manifest's config: {wrong}"
        raise InvalidBundle(msg)
    module.load_state_dict(tensors)
    module.eval().requires_grad_(False)


def check_close(name: str, found: list[float], expected: list[float] | None) -> None:
    """Compare golden numbers; kernels of other machines differ in the last digits.

    Raises:
        InvalidBundle: They differ by more than 0.001, or in number.
    """
    wanted = expected or []
    is_equal = len(found) == len(wanted) and all(
        math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3) for a, b in zip(found, wanted, strict=True)
    )
    if not is_equal:
        msg = f"{name}: golden input gives {found[:4]}..., the manifest promises {wanted[:4]}..."
        raise InvalidBundle(msg)
