"""A tiny captioner for tests that need one in the registry; its words mean nothing."""

import torch
from pymongo import MongoClient

from streams.contract.manifest import Bundle
from streams.models.conditional_lm import ConditionalLM
from streams.models.vocabulary import UNKNOWN, Vocabulary
from streams.mongo.client import state_database
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from tests.bundles import captioner_bundle
from tests.pipelines import CLIP, CONDITIONAL_LM
from tests.tiny import DIMENSION

WORDS = ("a", "blue", "circle", "green", "left", "of", "red", "square", UNKNOWN)


def tiny_captioner(*, seed: int = 0, clip_version: str | None = None) -> Bundle:
    """Return the bundle of an untrained captioner; another seed is another version."""
    torch.manual_seed(seed)
    model = ConditionalLM(Vocabulary(WORDS), n_condition=DIMENSION, n_hidden=8, max_length=6)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return captioner_bundle(model.eval(), clip_version=clip_version, note="for tests")


def serve_clip(registry: Registry, version: str, dimension: int = DIMENSION) -> None:
    """Announce a CLIP version, and let it serve as an operator does."""
    registry.announce(CLIP.name, version, {"dimension": dimension})
    registry.promote(CLIP.name, version, reason="test")


def promote_tiny_captioner(registry: Registry, *, seed: int = 0) -> str:
    """Publish a captioner for the CLIP that serves, let it serve, and return its version."""
    clip = registry.pointer(CLIP.name)
    bundle = tiny_captioner(seed=seed, clip_version=clip.version if clip else None)
    version = registry.publish(bundle)
    registry.promote(CONDITIONAL_LM.name, version, reason="test")
    return version


def publish_tiny_captioner(mongo_uri: str, database: str, *, seed: int = 0) -> str:
    """Do the same for a running stack."""
    settings = MongoSettings(uri=mongo_uri, database=database)  # type: ignore[arg-type]
    with MongoClient(mongo_uri) as client:
        return promote_tiny_captioner(Registry(state_database(client, settings)), seed=seed)
