"""Which versions a model is computed with on demand: its own, and those of all that it reads."""

from collections.abc import Mapping, Sequence

import numpy as np

from streams.contract.documents import Output
from streams.contract.kinds import ANNOUNCED
from streams.contract.manifest import Feature
from streams.contract.pipeline import Model
from streams.contract.versions import output_version, weights_version
from streams.errors import FeatureMismatch, ModelNotFound
from streams.operate.computing import Computing
from streams.registry.versions import Registry


class WantedVersions:
    """The version of each model on the way to one.

    Attributes:
        versions: As outputs name them, by model; of one whose weights live elsewhere none, if none
            serves and none is asked for.
    """

    def __init__(
        self, way: Sequence[Model], version: str | None, registry: Registry, computing: Computing
    ) -> None:
        """Choose: what was asked for; else what is required by the one that reads it; else serves.

        Args:
            way: Models, upstream first; the last one is to be computed.
            version: The version of that, or a unique beginning of one; None for what serves.
            registry: Where versions are.
            computing: Knows the versions of the settings.

        Raises:
            ModelNotFound: There is no such version, or none serves.
            InvalidBundle: A manifest cannot be read.
            SettingsError: CLIP cannot be had.
            StoreUnavailable: MongoDB does not answer.
        """
        self._registry = registry
        self._computing = computing
        self._last = way[-1]
        self._announced = {m.name for m in way if m.declaration.kind in ANNOUNCED}
        self._features: dict[str, Mapping[str, Feature]] = {}
        self.versions: dict[str, str] = {}
        pointers = registry.pointers().readable
        self._serving = {name: p.serving for name, p in pointers.items() if p.serving is not None}
        for model in reversed(way):
            self._choose(model, version if model is self._last else None)

    def version_to_compute(self, model: Model) -> str:
        """Return the version that computes; of CLIP only that of the settings can.

        Raises:
            SettingsError: CLIP cannot be had.
        """
        announced = self._computing.announced(model)
        if announced is None:
            return self.versions[model.name]
        return output_version(model.declaration, announced.version)

    def check(self, model: Model, outputs: Mapping[str, Output]) -> None:
        """See whether the version reads such outputs.

        Raises:
            FeatureMismatch: It does not.
        """
        for name, wanted in self._features.get(model.name, {}).items():
            made, version = outputs[name], self.versions[model.name]
            if wanted.version not in (None, made.version):
                given = f"the declared pipeline gives {made.version}; declare it as it was then"
                if name in self._announced:
                    given = (
                        f"the settings give {made.version}; set CAPTIONSTREAM_CLIP__MODEL and"
                        " __PRETRAINED"
                    )
                msg = f"{model.name} {version} was fitted on {name} {wanted.version}, {given}"
                raise FeatureMismatch(msg)
            shape = made.value.shape if isinstance(made.value, np.ndarray) else None
            if wanted.dimension is not None and shape != (wanted.dimension,):
                msg = f"{name} has shape {shape}, {version} reads ({wanted.dimension},)"
                raise FeatureMismatch(msg)

    def _choose(self, model: Model, asked: str | None) -> None:
        required = self.versions.get(model.name)  # by what reads it
        serving = self._serving.get(model.name)
        if model.name in self._announced:
            if model is self._last:
                self.versions[model.name] = self._of_the_settings(model, asked)
            elif required is None and serving is not None:
                self.versions[model.name] = output_version(model.declaration, serving)
            return
        named = asked or required
        wanted = weights_version(named) if named else serving
        if wanted is None:
            what = "name one with --version" if model is self._last else "let one serve first"
            msg = f"no version of {model.name} serves; {what}"
            raise ModelNotFound(msg)
        info = self._registry.describe(model.name, wanted)
        self.versions[model.name] = output_version(model.declaration, info.version)
        self._features[model.name] = info.manifest.features if info.manifest else {}
        for name, feature in self._features[model.name].items():
            if feature.version is not None:
                self.versions.setdefault(name, feature.version)

    def _of_the_settings(self, model: Model, asked: str | None) -> str:
        version = self.version_to_compute(model)
        if asked is not None and not version.startswith(asked):
            msg = f"{model.name} {asked} is not the one of these settings, which is {version}"
            raise ModelNotFound(msg)
        return version
