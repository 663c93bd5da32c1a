"""Builds the step of a stage with its model. Imports torch only for the stages that need it."""

# ruff: noqa: PLC0415 - see above
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient

from streams.contract.pipeline import Model
from streams.mongo.client import state_database
from streams.mongo.store import DocumentStore
from streams.settings import Settings
from streams.stages import StageSpec
from streams.stages.outcome import Step

Client = MongoClient[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """The step of a stage.

    Attributes:
        step: The step.
        waits_for: Says why this process is not ready whatever its neighbours do, with the remedy;
            "" when it is.
        refused: Says in how many documents it can store nothing, and why.
    """

    step: Step
    waits_for: Callable[[], str] = lambda: ""
    refused: Callable[[], tuple[int, str]] = lambda: (0, "")


def build_step(spec: StageSpec, client: Client, settings: Settings) -> Built:
    """Return the step of a stage, with its model loaded or watched.

    Raises:
        StoreUnavailable: MongoDB does not answer, or what an earlier stage announces is not there
            yet. Call again.
        SettingsError: The model that the settings name cannot be had.
    """
    if spec.model is None:
        return _sink(spec, client, settings)
    build = _featurize if spec.model.declaration.kind == "clip" else _read
    return build(spec, spec.model, client, settings)


def _featurize(spec: StageSpec, model: Model, client: Client, settings: Settings) -> Built:
    import torch

    from streams.images.fetcher import Fetcher
    from streams.images.find import ImageSource
    from streams.images.pool import DecodePool
    from streams.images.turns import FetchQueue
    from streams.models.clip import ClipEncoder
    from streams.models.clip_golden import encode_golden, golden_difference
    from streams.registry.versions import Registry
    from streams.stages.announced import AnnouncedStep
    from streams.stages.featurize import Featurize

    if settings.stage.torch_threads:
        torch.set_num_threads(settings.stage.torch_threads)
    encoder = ClipEncoder(settings.clip)  # from here on nothing waits: it is loaded once
    store = DocumentStore(client, settings.mongo, spec.pipeline)
    decoders = DecodePool(settings.image, workers=settings.stage.decode_workers)
    fetcher = Fetcher(settings.fetch, max_bytes=settings.image.max_bytes)
    images = ImageSource(model, store, FetchQueue(fetcher, settings.fetch), settings.image)
    step = AnnouncedStep(
        model.name,
        Featurize(model, spec.pipeline, images, encoder, decoders),
        Registry(state_database(client, settings.mongo)),
        settings.models,
        details={"dimension": encoder.dimension, "golden": encode_golden(encoder.golden())},
        compare=lambda first: golden_difference(encoder.golden(), first["golden"]),
        remedy="correct CAPTIONSTREAM_CLIP__MODEL and CAPTIONSTREAM_CLIP__PRETRAINED",
    )
    step.start()
    return Built(step=step, waits_for=step.waits_for)


def _read(spec: StageSpec, model: Model, client: Client, settings: Settings) -> Built:
    import torch

    from streams.models.kinds.find import load
    from streams.registry.hot_model import HotModel
    from streams.registry.seeded_projection import SeededProjection
    from streams.registry.versions import Registry
    from streams.stages.reader import Reader

    torch.set_num_threads(settings.stage.torch_threads or 1)
    registry = Registry(state_database(client, settings.mongo))
    declaration = model.declaration
    seeded = SeededProjection(registry, model)
    hot = HotModel(
        model.name,
        lambda bundle: load(declaration, bundle),
        lambda predictor, _: predictor.check(),
        registry,
        settings.models,
        prepare=seeded.ensure if model.declaration.kind == "linear" else lambda: None,
    )
    hot.start()
    return Built(step=Reader(model, hot), waits_for=hot.waits_for)


def _sink(spec: StageSpec, client: Client, settings: Settings) -> Built:
    from streams.stages.sink import Sink

    step = Sink(DocumentStore(client, settings.mongo, spec.pipeline))
    return Built(step=step, refused=step.refused)
