"""Evaluations of captioners that know little, something and everything."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from streams.errors import FeatureMismatch, SettingsError
from streams.models.projection import Projection, to_bundle
from streams.models.vocabulary import UNKNOWN
from streams.models.words import Normalization
from tests.captioner import tiny_captioner
from tests.fitted import (
    SCENES,
    captioner,
    fitted_bundle,
    measuring,
    mute_captioner,
    scene_set,
    vector_of,
)
from tests.tiny import DIMENSION
from tests.unit.trainer.snapshots import CAPTIONER, CLIP, PROJECTION
from trainer.evaluate.captioner import measure_captioner
from trainer.evaluate.evaluate import evaluate_bundle
from trainer.evaluate.projection import measure_projection

PERFECT_STEPS = 30
measured = partial(measure_captioner, model=CAPTIONER)


def test_a_captioner_that_knows_its_scenes_is_right_about_all():
    found = measured(captioner(PERFECT_STEPS), scene_set(), batch_size=5)
    assert [caption.text for caption in found.captions] == [s.captions()[0] for s in SCENES]
    assert all(caption.is_right for caption in found.captions)
    expected = {"exact_match": 1, "exact_match_n": 12, "n": 12, "bleu4": 1, "rouge_l": 1}
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)


def test_more_fitting_scores_better():
    little, more = (measured(captioner(n), scene_set()) for n in (10, PERFECT_STEPS))
    for name in ("bleu1", "bleu4", "rouge_l", "cider", "exact_match"):
        assert little.metrics[name] < more.metrics[name]


def test_loss_is_the_mean_over_all_references_of_the_mean_up_to_the_stop():
    model, entries = captioner(10), scene_set().entries
    losses = []
    for entry in entries:
        for caption in entry.captions:
            targets = model.vocabulary.encode(caption, max_length=model.max_length)
            length = targets.index(model.vocabulary.stop) + 1
            inputs = torch.tensor([[model.vocabulary.start, *targets[: length - 1]]])
            vector = torch.from_numpy(entry.values[CLIP]).unsqueeze(0)
            log_p = torch.log_softmax(model.train_forward(vector, inputs), dim=-1)[0]
            losses.append(-np.mean([float(log_p[t, targets[t]]) for t in range(length)]))
    for batch_size in (1, 7, 1000):
        found = measured(model, scene_set(), batch_size=batch_size)
        assert found.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_what_is_no_scene_has_no_exact_match():
    found = measured(captioner(10), scene_set(with_scenes=False))
    assert "exact_match" not in found.metrics
    assert {caption.is_right for caption in found.captions} == {None}


def test_a_field_named_scene_of_another_kind_is_no_scene():
    first, *others = scene_set().entries
    strange = dataclasses.replace(first, scene={"mood": "calm"})
    found = measured(captioner(10), dataclasses.replace(scene_set(), entries=(strange, *others)))
    assert found.captions[0].is_right is None
    assert found.metrics["exact_match_n"] == len(others)


def test_entries_without_a_word_are_left_out():
    first, *others = scene_set().entries
    silent = dataclasses.replace(first, captions=("42", "!"))
    validation_set = dataclasses.replace(scene_set(), entries=(silent, *others))
    assert measured(captioner(10), validation_set).metrics["n"] == len(others)
    with pytest.raises(SettingsError, match="caption with a word"):
        measured(captioner(10), dataclasses.replace(validation_set, entries=(silent,)))


def test_shares_of_empty_captions_and_of_unknown_words_are_measured():
    assert measured(captioner(PERFECT_STEPS), scene_set()).metrics["empty_captions"] == 0
    mute = measured(mute_captioner(), scene_set()).metrics
    assert mute["empty_captions"] == 1
    first = scene_set().entries[0]
    french = dataclasses.replace(first, captions=("a garçon", "42"))
    found = measured(captioner(10), dataclasses.replace(scene_set(), entries=(french,)))
    assert found.metrics["unknown_words"] == 0.5


def test_references_without_a_word_for_the_model_are_unknown_and_cost_it_no_loss():
    """As a version with `--normalization seed` sees Chinese: fails if their loss is taken."""
    model = copy.deepcopy(captioner(10))
    model.vocabulary = dataclasses.replace(model.vocabulary, normalization=Normalization.SEED)
    chinese = dataclasses.replace(scene_set().entries[0], captions=("一只猫",))
    found = measured(model, dataclasses.replace(scene_set(), entries=(chinese,)))
    assert found.metrics["unknown_words"] == 1
    assert "loss" not in found.metrics


def test_caption_of_unknown_words_alone_is_empty():
    model = copy.deepcopy(captioner(10))
    vocabulary = model.vocabulary
    model.prediction.bias[vocabulary.words.index(UNKNOWN)] = 1000.0
    found = measured(model, scene_set())
    assert found.captions[0].text.split() == [UNKNOWN] * model.max_length
    assert found.metrics["empty_captions"] == 1


def test_beam_search_is_passed_on():
    found = measured(captioner(10), scene_set(), beam=3)
    direct = captioner(10).generate(torch.from_numpy(vector_of(0)).unsqueeze(0), beam_width=3)
    assert found.captions[0].text == direct[0].text


def test_a_model_of_another_clip_is_refused():
    with pytest.raises(FeatureMismatch, match="was fitted on clip tiny-1"):
        evaluate_bundle(fitted_bundle(10), measuring(scene_set(clip_version="tiny-2")))
    assert evaluate_bundle(tiny_captioner(), measuring()).metrics["n"] == 12  # it takes any


def test_vectors_of_another_length_are_refused():
    short = tuple(
        dataclasses.replace(entry, values={CLIP: entry.values[CLIP][:-1]})
        for entry in scene_set().entries
    )
    with pytest.raises(FeatureMismatch, match="length 32"):
        measured(captioner(10), dataclasses.replace(scene_set(), entries=short))


def identity():
    projection = Projection(DIMENSION, DIMENSION)
    with torch.no_grad():
        projection.linear.weight.copy_(torch.eye(DIMENSION))
    return projection.eval()


def test_projection_finds_images_by_texts():
    images = torch.stack([torch.from_numpy(entry.values[CLIP]) for entry in scene_set().entries])
    measured = partial(measure_projection, identity(), scene_set(), PROJECTION)
    right = measured(lambda texts: images)
    assert right.metrics == {"recall1": 1, "recall5": 1, "recall10": 1, "median_rank": 1, "n": 12}
    constant = measure_projection(
        identity(), scene_set(), PROJECTION, lambda texts: torch.ones_like(images)
    )
    assert constant.metrics["recall1"] < 0.5
    nothing = measure_projection(
        identity(), scene_set(), PROJECTION, lambda texts: torch.zeros_like(images)
    )
    assert nothing.metrics["median_rank"] == 12


def test_projection_needs_texts():
    bundle = to_bundle(identity(), name="clip_projection", feature="clip")
    with pytest.raises(SettingsError, match="text tower"):
        evaluate_bundle(bundle, measuring(name="clip_projection"))
