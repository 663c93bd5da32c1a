"""Loaded versions of models, and what they make of documents; for those who ask, not for stages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from streams.contract.documents import Output
from streams.contract.pipeline import IMAGE, Model
from streams.contract.versions import weights_version
from streams.errors import (
    DocumentError,
    ModelError,
    ModelFailed,
    ModelNotFound,
    Unavailable,
    UnknownFormat,
)
from streams.images.image import image_bytes
from streams.images.pool import DecodePool
from streams.models.device import device_of
from streams.models.kinds.find import kind_of, load
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import AnnouncedKind, AnnouncedPredictor, Made, Predictor
from streams.mongo.client import Document
from streams.registry.versions import Registry
from streams.settings import Settings


class Computing:
    """Computes with any version of any model; each is loaded once. One thread at a time."""

    def __init__(self, settings: Settings, registry: Registry, decoders: DecodePool) -> None:
        """Keep what is needed; a version is loaded when it is asked for."""
        self._settings = settings
        self._registry = registry
        self._decoders = decoders
        self._predictors: dict[tuple[str, str], Predictor | ModelError | UnknownFormat] = {}
        self._announced: dict[str, AnnouncedPredictor] = {}

    def announced(self, model: Model) -> AnnouncedPredictor | None:
        """Return what the settings say of a model whose weights live elsewhere; None of others.

        Raises:
            SettingsError: It cannot be had, or the model's class cannot be imported here.
        """
        kind = kind_of(model.declaration.kind)
        if not isinstance(kind, AnnouncedKind):
            return None
        if kind.name not in self._announced:
            self._announced[kind.name] = kind.open(self._settings.clip)
        return self._announced[kind.name]

    def predictor(self, model: Model, version: str) -> Predictor:
        """Return a version of a model with the options that are declared.

        Args:
            model: The model.
            version: As outputs name it; what it says of options does not matter.

        Raises:
            ModelError: It cannot be loaded here.
            UnknownFormat: It is stored in a format of another release.
            SettingsError: As `announced`.
            StoreUnavailable: MongoDB does not answer.
        """
        key = (model.name, weights_version(version))
        if key not in self._predictors:
            try:
                self._predictors[key] = self._load(model, key[1])
            except (ModelError, UnknownFormat) as exc:  # tried once, not for every document again
                self._predictors[key] = exc
        found = self._predictors[key]
        if isinstance(found, ModelError | UnknownFormat):
            raise found.with_traceback(None)
        return found

    def decode(self, value: object) -> Image.Image:
        """Return the image that is encoded in a value.

        Raises:
            InvalidImage: It is none, or is beyond the limits of the settings.
        """
        return self._decoders.decode(image_bytes(value, self._settings.image))

    def prepare(
        self,
        model: Model,
        predictor: Predictor,
        document: Document,
        outputs: Mapping[str, Output],
        image: Image.Image | None,
    ) -> Any:
        """Return what a document becomes before a model computes; a `DocumentError` in its place.

        Args:
            model: The model.
            predictor: A version of it.
            document: Holds the fields that it reads as they stand.
            outputs: Hold what it reads of other models, by their names.
            image: The decoded image, if it reads that.
        """
        declaration = model.declaration
        values = {field: document.get(field) for field in model.raw_fields}
        values |= {field: outputs[name].value for field, name in declaration.features.items()}
        if model.has_image:
            values[IMAGE] = image
        try:
            return predictor.preprocess(item_of(declaration, values))
        except DocumentError as exc:
            return exc

    def compute(
        self, model: Model, predictor: Predictor, prepared: Sequence[Any]
    ) -> list[Made | DocumentError]:
        """Return what a batch becomes, in order; errors in it stay where they are.

        Raises:
            Unavailable: Something that a user's class needs is away.
        """
        items = [item for item in prepared if not isinstance(item, DocumentError)]
        made = iter(_predict(model.name, predictor, items))
        return [item if isinstance(item, DocumentError) else next(made) for item in prepared]

    def _load(self, model: Model, version: str) -> Predictor:
        announced = self.announced(model)
        if announced is None:
            device = device_of(self._settings.models.device, "CAPTIONSTREAM_MODELS__DEVICE")
            bundle = self._registry.fetch(model.name, version)
            return load(model.declaration, bundle, str(device))
        if announced.version != version:
            msg = f"it is {version}, the settings give {announced.version}; {announced.remedy}"
            raise ModelNotFound(msg)
        return announced


def _predict(name: str, predictor: Predictor, items: Sequence[Any]) -> list[Made | DocumentError]:
    """Compute a batch; where the model raises, each item alone, so that one fails alone."""
    if not items:
        return []
    try:
        return [_finite(name, made) for made in predictor.predict(items)]
    except Unavailable:
        raise
    except Exception as exc:  # of somebody else's code
        if len(items) > 1:
            return [made for item in items for made in _predict(name, predictor, [item])]
        if isinstance(exc, DocumentError):
            return [exc]
        return [ModelFailed(f"{name} raised {type(exc).__name__}: {exc}")]


def _finite(name: str, made: Made | DocumentError) -> Made | DocumentError:
    if isinstance(made, DocumentError):
        return made
    numbers = made.value if isinstance(made.value, np.ndarray) else made.score
    if numbers is None or np.isfinite(numbers).all():
        return made
    return ModelFailed(f"{name} gives numbers that are not finite")
