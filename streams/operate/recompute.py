"""Whether stored outputs are what their models compute. Knows documents and models, no server.

Equal means: texts letter by letter; vectors and scores but for their last digits, which depend on
how many were computed together. CLIP is deep, so more digits of an embedding do.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import torch

from streams.contract.documents import CLIP, Model, Output
from streams.errors import ModelError
from streams.models.clip import ClipEncoder
from streams.registry.computations import Compute, computation
from streams.registry.versions import Registry
from streams.settings import Settings

#: Largest difference of two vectors, as a share of the largest number in them. Measured: 7e-7 of a
#: projection from 1024 numbers, alone and among 64.
_TOLERANCE: Final = 1e-5
_CLIP_TOLERANCE: Final = 1e-3
#: Largest difference of two scores.
_SCORE_TOLERANCE: Final = 1e-4


class Recomputer:
    """Computes outputs again and compares them with stored ones. One thread at a time."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Keep what is needed; a version is loaded when it is asked for."""
        self._settings = settings
        self._registry = registry
        self._computations: dict[tuple[str, str, int], Compute] = {}

    @cached_property
    def encoder(self) -> ClipEncoder:
        """The CLIP of the settings.

        Raises:
            SettingsError: It cannot be had.
        """
        return ClipEncoder(self._settings.clip)

    def compare_embeddings(
        self, pixels: Sequence[torch.Tensor], stored: Sequence[Output]
    ) -> list[str]:
        """Return for each image what is wrong with its stored embedding; "" when it is right.

        Args:
            pixels: Preprocessed images, each of shape (3, H, W).
            stored: The embedding that its document holds, for each.

        Raises:
            SettingsError: CLIP cannot be had.
        """
        if not pixels:
            return []
        expected = self.encoder.encode(torch.stack(list(pixels)))  # (B, D)
        version = self.encoder.version
        return [
            _compare(CLIP.name, output, row, _CLIP_TOLERANCE)
            if output.version == version
            else f"clip is of {output.version}, the settings give {version}"
            for output, row in zip(stored, expected, strict=True)
        ]

    def compare(self, model: Model, stored: Mapping[str, Output]) -> str:
        """Return what is wrong with the stored output of another model; "" when it is right.

        It is computed with the version and the beam width that made it, from the stored output that
        it was made of. One that was made of a feature that is gone by now cannot be computed again,
        and is right if a promotion said that it stays: the caller knows that.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        name, [upstream] = model.name, model.reads
        output, feature = stored[name], stored.get(upstream)
        if feature is None:
            return f"{name} is there without {upstream}"
        if output.features.get(upstream) != feature.version:
            return ""
        try:
            compute = self._computation(name, output)
        except ModelError as exc:
            return f"{name} was made by a version that cannot be loaded: {exc}"
        [(value, score)] = compute(np.asarray(feature.value)[np.newaxis])
        return _compare(name, output, value, _TOLERANCE) or _compare_scores(name, output, score)

    def _computation(self, name: str, output: Output) -> Compute:
        key = (name, output.version, output.beam_width)
        if key not in self._computations:
            bundle = self._registry.fetch(name, output.version)
            self._computations[key] = computation(name, bundle, output.beam_width)
        return self._computations[key]


def _compare(name: str, output: Output, expected: np.ndarray | str, tolerance: float) -> str:
    if isinstance(expected, str) or isinstance(output.value, str):
        is_right = output.value == expected
        return "" if is_right else f"{name} is {output.value!r}, its version gives {expected!r}"
    if output.value.shape != expected.shape:
        return f"{name} has shape {output.value.shape}, its version gives {expected.shape}"
    difference = float(np.abs(output.value - expected).max(initial=0))
    largest = float(np.abs(expected).max(initial=0))
    if not difference <= tolerance * largest:  # so that NaN is a difference, too
        return f"{name} differs by up to {difference:.2g} from what its version gives"
    return ""


def _compare_scores(name: str, output: Output, expected: float | None) -> str:
    found = output.score
    if found is None or expected is None:
        is_right = found is expected
    else:
        is_right = abs(found - expected) <= _SCORE_TOLERANCE
    return "" if is_right else f"{name} has score {found}, its version gives {expected}"
