"""Bundles and torch: weights in and out, two files in a directory, golden outputs.

Weights are safetensors; nothing here can execute code from a file.
"""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from streams.contract.declaration import Declaration
from streams.contract.kinds import is_class
from streams.contract.manifest import WEIGHTS, Bundle, Golden, Manifest, parse_manifest
from streams.errors import InvalidBundle

MANIFEST: Final = "manifest.json"
#: Longest manifest or weights that are read; far above any model of ours.
_MAX_BYTES: Final = 4 << 30
#: Largest number in a config: a layer of more would fit no machine.
_MAX_SIZE: Final = 1_000_000

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def tensors_of(bundle: Bundle) -> dict[str, torch.Tensor]:
    """Return the weights of a bundle, after checking them.

    Those of a user's class may be of any type; ours are float32, which is computed with everywhere.

    Raises:
        InvalidBundle: A hash does not hold, the file is damaged, or a number is not finite.
    """
    bundle.check_hash()
    name = bundle.manifest.name
    try:
        tensors = load(bundle.weights)
    except (SafetensorError, ValueError) as exc:
        msg = f"{name}: {WEIGHTS} is damaged: {exc}"
        raise InvalidBundle(msg) from exc
    for key, tensor in tensors.items():
        if tensor.dtype != torch.float32 and not is_class(bundle.manifest.kind):
            msg = f"{name}: weight {key} is {tensor.dtype}, expected torch.float32"
            raise InvalidBundle(msg)
        if not torch.isfinite(tensor).all():
            msg = f"{name}: weight {key} holds NaN or infinity"
            raise InvalidBundle(msg)
    return dict(tensors)


def golden_input(golden: Golden, dimension: int) -> torch.Tensor:
    """Return the vectors that a golden output is about, of shape (count, dimension)."""
    generator = torch.Generator().manual_seed(golden.seed)
    return torch.randn(golden.count, dimension, generator=generator)


def make_bundle(tensors: dict[str, torch.Tensor], **manifest: Any) -> Bundle:
    """Return the bundle of weights and a manifest; `parts` is filled in.

    Raises:
        InvalidBundle: The manifest's content is not valid, for example a metric is NaN.
    """
    weights = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    parts = {WEIGHTS: hashlib.sha256(weights).hexdigest()}
    try:
        return Bundle(manifest=Manifest(parts=parts, **manifest), weights=weights)
    except ValidationError as exc:
        msg = f"manifest is not valid: {exc.errors(include_url=False, include_input=False)}"
        raise InvalidBundle(msg) from exc


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
        _sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _sync_directory(directory: Path) -> None:
    """Make a rename last: it is an entry of the directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    tensors_of(bundle)
    return bundle


def sizes_of(manifest: Manifest, names: Sequence[str]) -> dict[str, int]:
    """Return a config of which every value is a size.

    Raises:
        InvalidBundle: It has other names, or a value is no whole number from 1 to 1,000,000.
    """
    config = manifest.config
    # JSON's true is no size, although it is an int.
    sizes = {name: n for name, n in config.items() if isinstance(n, int) and n is not True}
    are_sizes = all(1 <= value <= _MAX_SIZE for value in sizes.values())
    if set(sizes) != set(names) or len(sizes) != len(config) or not are_sizes:
        msg = f"{manifest.name}: config is {config}, expected a positive size for each of {names}"
        raise InvalidBundle(msg)
    return sizes


def check_manifest(declaration: Declaration, manifest: Manifest) -> None:
    """Make sure that a version is one of this model: of its name and kind, reading what it reads.

    Raises:
        InvalidBundle: It is another model's, of another kind, or reads other models' outputs.
    """
    for what in ("name", "kind"):
        found, wanted = getattr(manifest, what), getattr(declaration, what)
        if found != wanted:
            msg = f"{declaration.name} is of {what} {wanted!r}, the version is of {found!r}"
            raise InvalidBundle(msg)
    if manifest.features.keys() != {*declaration.reads}:
        found, wanted = (
            ", ".join(sorted(names)) or "none" for names in (manifest.features, declaration.reads)
        )
        msg = f"{declaration.name} reads the models {wanted}, the version was made for {found}"
        raise InvalidBundle(msg)


def check_feature(manifest: Manifest, dimension: int) -> None:
    """Make sure that a version reads the vector of one model, of the length that its config says.

    Raises:
        InvalidBundle: It reads none, more than one, or another length.
    """
    if len(manifest.features) != 1:
        found = ", ".join(sorted(manifest.features)) or "none"
        msg = f"{manifest.name} reads the vector of one model, the version names {found}"
        raise InvalidBundle(msg)
    for name, feature in manifest.features.items():
        if feature.dimension != dimension:
            msg = (
                f"{manifest.name}: feature {name!r} has dimension {feature.dimension},"
                f" the config reads {dimension}"
            )
            raise InvalidBundle(msg)


def golden_of(manifest: Manifest) -> Golden:
    """Return the golden output of a version that must have one.

    Raises:
        InvalidBundle: It has none.
    """
    if manifest.golden is None:
        msg = f"{manifest.name}: the manifest has no golden output"
        raise InvalidBundle(msg)
    return manifest.golden


def build(make: Callable[[], ModuleT], bundle: Bundle) -> ModuleT:
    """Make a module with a bundle's weights, ready to serve.

    Shapes are compared before any memory is taken, so that a wrong config costs nothing.

    Raises:
        InvalidBundle: Names or shapes differ, or the weights are damaged.
    """
    tensors = tensors_of(bundle)
    with torch.device("meta"):
        module = make()
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        msg = f"{bundle.manifest.name}: weights differ from the manifest's config: {wrong}"
        raise InvalidBundle(msg)
    module.to_empty(device="cpu")
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def check_close(name: str, found: list[float], expected: list[float] | None) -> None:
    """Compare golden numbers: of unit vectors, or log-probabilities.

    Kernels of other processors differ by about 1e-6 of a vector of 512 numbers and 1e-5 of a
    log-probability. What a wrong config or a wrong operation makes differs by tenths. The limit
    lies between, nearer to the first.

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
