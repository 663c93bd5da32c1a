"""Builds the step of a model: its kind, its version, and what it reads. Loads torch."""

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from pymongo import MongoClient

from streams.contract.pipeline import Model, Pipeline
from streams.contract.versions import output_version
from streams.images.fetcher import Fetcher
from streams.images.find import InputSource
from streams.images.pool import DecodePool
from streams.images.turns import FetchQueue
from streams.models.device import device_of
from streams.models.kinds.find import kind_of
from streams.models.kinds.kind import AnnouncedKind, Predictor, StoredKind
from streams.mongo.client import state_database
from streams.mongo.store import DocumentStore
from streams.registry.default_version import DefaultVersion
from streams.registry.hot_model import HotModel
from streams.registry.versions import Registry
from streams.settings import Settings
from streams.stages.announced import AnnouncedStep
from streams.stages.model_step import ModelStep, Ready
from streams.stages.outcome import Step

Client = MongoClient[dict[str, Any]]
_Built = tuple[Step, Callable[[], str]]
"""A step, and what says why this process is not ready, "" when it is."""


class _Reading(TypedDict, total=False):
    source: InputSource
    decoders: DecodePool


def build_model_step(
    model: Model, pipeline: Pipeline, client: Client, settings: Settings
) -> _Built:
    """Return the step of a model, with its version loaded or watched. See `build_step`."""
    kind = kind_of(model.declaration.kind)
    kind.check(model.declaration)
    # Images are worth all cores; what reads their vectors is done sooner than threads begin.
    if settings.stage.torch_threads or not model.has_image:
        torch.set_num_threads(settings.stage.torch_threads or 1)
    registry = Registry(state_database(client, settings.mongo))
    if isinstance(kind, AnnouncedKind):
        return _announced(model, pipeline, kind, registry, client, settings)
    if not isinstance(kind, StoredKind):
        raise TypeError(kind)  # there is no third sort
    return _stored(model, pipeline, kind, registry, client, settings)


def _announced(
    model: Model,
    pipeline: Pipeline,
    kind: AnnouncedKind,
    registry: Registry,
    client: Client,
    settings: Settings,
) -> _Built:
    predictor = kind.open(settings.clip)  # from here on nothing waits: it is loaded once
    version = output_version(model.declaration, predictor.version)
    ready = Ready(version=version, predictor=predictor, features={})

    def is_well() -> bool:
        predictor.check()
        return True

    reading = _reading(model, pipeline, client, settings)
    step = AnnouncedStep(
        model.name,
        ModelStep(model, pipeline, lambda: ready, is_well, **reading),
        registry,
        settings.models,
        details=predictor.details,
        compare=predictor.difference,
        remedy=predictor.remedy,
    )
    step.start()
    return step, step.waits_for


def _stored(
    model: Model,
    pipeline: Pipeline,
    kind: StoredKind,
    registry: Registry,
    client: Client,
    settings: Settings,
) -> _Built:
    hot = hot_model(model, pipeline, kind, registry, settings)
    hot.start()
    reading = _reading(model, pipeline, client, settings)
    step = ModelStep(model, pipeline, lambda: ready_of(model, hot), hot.self_test, **reading)
    return step, hot.waits_for


def hot_model(
    model: Model, pipeline: Pipeline, kind: StoredKind, registry: Registry, settings: Settings
) -> HotModel[Predictor]:
    """Return what follows the pointer of a model; nothing is loaded yet."""
    device = str(device_of(settings.models.device, "CAPTIONSTREAM_MODELS__DEVICE"))
    default = DefaultVersion(registry, model, kind, pipeline)
    return HotModel(
        model.name,
        lambda bundle: kind.load(model.declaration, bundle, device),
        lambda predictor, _: predictor.check(),
        registry,
        settings.models,
        prepare=default.ensure if kind.has_default else lambda: None,
    )


def ready_of(model: Model, hot: HotModel[Predictor]) -> Ready | None:
    """Return the version in memory, as a step takes it; None while there is none."""
    loaded = hot.current()
    if loaded is None:
        return None
    return Ready(
        version=output_version(model.declaration, loaded.version),
        predictor=loaded.model,
        features=loaded.manifest.features,
        recaption=loaded.recaption,
    )


def _reading(model: Model, pipeline: Pipeline, client: Client, settings: Settings) -> _Reading:
    """Return where a model finds what it reads of documents themselves."""
    if not model.raw_fields:
        return {}
    store = DocumentStore(client, settings.mongo, pipeline)
    if not model.has_image:
        return {"source": InputSource(model, store)}
    fetcher = Fetcher(settings.fetch, max_bytes=settings.image.max_bytes)
    fetches = FetchQueue(fetcher, settings.fetch)
    return {
        "source": InputSource(model, store, fetches, settings.image),
        "decoders": DecodePool(settings.image, workers=settings.stage.decode_workers),
    }
