"""Captioners that are worth something, and the scenes to measure them on, within a second."""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch

from streams.contract.default_pipeline import DEFAULT
from streams.contract.manifest import Bundle
from streams.models.conditional_lm import ConditionalLM, autoregressive_loss
from streams.models.vocabulary import Vocabulary
from tests.bundles import captioner_bundle
from tests.tiny import DIMENSION
from trainer.evaluate.measuring import Measuring
from trainer.fit.kinds import plugs_of
from trainer.scenes.scenes import make_scenes
from trainer.snapshot.columns import feature_column
from trainer.snapshot.validation_set import Entry, ValidationSet

CLIP_VERSION = "tiny-1"
SCENES = tuple(make_scenes(12, seed=3))


def vector_of(number: int) -> np.ndarray:
    """Return the stand-in for the CLIP vector of a scene: noise, the same for the same number."""
    return np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)


def scene_set(*, clip_version: str = CLIP_VERSION, with_scenes: bool = True) -> ValidationSet:
    """Return a validation set of these scenes."""
    entries = tuple(
        Entry(
            id=f'"scene-{number}"',
            captions=tuple(scene.captions()),
            values={feature_column("clip"): vector_of(number)},
            scene=scene.as_document() if with_scenes else None,
        )
        for number, scene in enumerate(SCENES)
    )
    return ValidationSet(
        name="scenes", seed=0, versions={"clip": clip_version}, digest="d" * 16, entries=entries
    )


@cache
def captioner(steps: int) -> ConditionalLM:
    """Return a captioner fitted for some steps on the first caption of each scene."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more cost far more than they bring at this size
    torch.manual_seed(0)
    texts = [scene.captions()[0] for scene in SCENES]
    vocabulary = Vocabulary.from_captions(texts, min_count=0)
    model = ConditionalLM(vocabulary, n_condition=DIMENSION, n_hidden=64, max_length=20)
    vectors = torch.from_numpy(np.stack([vector_of(number) for number in range(len(SCENES))]))
    targets = torch.tensor([vocabulary.encode(text, max_length=20) for text in texts])
    starts = torch.full((len(texts), 1), vocabulary.start)
    inputs = torch.cat([starts, targets[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        autoregressive_loss(model.train_forward(vectors, inputs), targets).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model.eval().requires_grad_(False)


def mute_captioner() -> ConditionalLM:
    """Return a captioner that ends every caption before its first word."""
    model = copy.deepcopy(captioner(1))
    model.prediction.bias[model.vocabulary.stop] = 1000.0
    return model


def fitted_bundle(steps: int, *, clip_version: str | None = CLIP_VERSION) -> Bundle:
    """Return its bundle; more steps make a better one."""
    return captioner_bundle(
        captioner(steps), clip_version=clip_version, snapshot_id="0" * 16, note="test"
    )


def measuring(
    validation_set: ValidationSet | None = None, *, name: str = "conditional_lm", **others: Any
) -> Measuring:
    """Return what a version of a model of the default pipeline is measured with."""
    model = DEFAULT.models[name]
    return Measuring(
        model=model, validation_set=validation_set or scene_set(), plugs=plugs_of(model), **others
    )
