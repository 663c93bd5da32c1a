"""Builds the step of a stage with its model. Imports torch only for the stages that need it."""

# ruff: noqa: PLC0415 - see above
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient

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
    from streams.stages.built_model import build_model_step

    step, waits_for = build_model_step(spec.model, spec.pipeline, client, settings)
    return Built(step=step, waits_for=waits_for)


def _sink(spec: StageSpec, client: Client, settings: Settings) -> Built:
    from streams.stages.sink import Sink

    step = Sink(DocumentStore(client, settings.mongo, spec.pipeline))
    return Built(step=step, refused=step.refused)
