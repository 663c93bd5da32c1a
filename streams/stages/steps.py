"""Builds the step of a stage with its model. Imports torch only for the stages that need it."""

# ruff: noqa: PLC0415 - see above
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pymongo import MongoClient

from streams.contract.default_pipeline import (
    CLIP,
    CLIP_PROJECTION,
    CONDITIONAL_LM,
)
from streams.mongo.client import state_database
from streams.mongo.store import DocumentStore
from streams.settings import Settings
from streams.stages import CAPTION, FEATURIZE, PROJECT, SINK, StageSpec
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
    return STEPS[spec.name](client, settings)


def _featurize(client: Client, settings: Settings) -> Built:
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
    store = DocumentStore(client, settings.mongo)
    decoders = DecodePool(settings.image, workers=settings.stage.decode_workers)
    fetcher = Fetcher(settings.fetch, max_bytes=settings.image.max_bytes)
    images = ImageSource(store, FetchQueue(fetcher, settings.fetch), settings.image)
    step = AnnouncedStep(
        CLIP.name,
        Featurize(images, encoder, decoders),
        Registry(state_database(client, settings.mongo)),
        settings.models,
        details={"dimension": encoder.dimension, "golden": encode_golden(encoder.golden())},
        compare=lambda first: golden_difference(encoder.golden(), first["golden"]),
        remedy="correct CAPTIONSTREAM_CLIP__MODEL and CAPTIONSTREAM_CLIP__PRETRAINED",
    )
    step.start()
    return Built(step=step, waits_for=step.waits_for)


def _project(client: Client, settings: Settings) -> Built:
    import torch

    from streams.models import projection
    from streams.registry.hot_model import HotModel
    from streams.registry.seeded_projection import SeededProjection
    from streams.registry.versions import Registry
    from streams.stages.project import Project

    torch.set_num_threads(settings.stage.torch_threads or 1)
    registry = Registry(state_database(client, settings.mongo))
    seeded = SeededProjection(registry, settings.models.projection_dimension)
    model = HotModel(
        CLIP_PROJECTION.name,
        projection.from_bundle,
        projection.check_golden,
        registry,
        settings.models,
        prepare=seeded.ensure,
    )
    model.start()
    return Built(step=Project(model), waits_for=model.waits_for)


def _caption(client: Client, settings: Settings) -> Built:
    import torch

    from streams.models import conditional_lm
    from streams.registry.hot_model import HotModel
    from streams.registry.versions import Registry
    from streams.stages.caption import Caption

    torch.set_num_threads(settings.stage.torch_threads or 1)
    registry = Registry(state_database(client, settings.mongo))
    model = HotModel(
        CONDITIONAL_LM.name,
        conditional_lm.from_bundle,
        conditional_lm.check_golden,
        registry,
        settings.models,
    )
    model.start()
    step = Caption(model, beam_width=settings.models.beam_width)
    return Built(step=step, waits_for=model.waits_for)


def _sink(client: Client, settings: Settings) -> Built:
    from streams.stages.sink import Sink

    step = Sink(DocumentStore(client, settings.mongo))
    return Built(step=step, refused=step.refused)


#: By name of the stage.
STEPS: Final[Mapping[str, Callable[[Client, Settings], Built]]] = {
    FEATURIZE.name: _featurize,
    PROJECT.name: _project,
    CAPTION.name: _caption,
    SINK.name: _sink,
}
