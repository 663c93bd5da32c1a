"""The gate between a fitted bundle and the pointer, on a real MongoDB."""

from functools import partial

import pytest
from pymongo import MongoClient

from streams.contract.default_pipeline import DEFAULT
from streams.contract.manifest import Bundle
from streams.contract.states import Recaption
from streams.errors import (
    FeatureMismatch,
    InvalidBundle,
    LeaseLost,
    PointerConflict,
    SettingsError,
)
from streams.models.conditional_lm import from_bundle
from streams.mongo.client import state_database
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from tests.bundles import captioner_bundle
from tests.captioner import serve_clip, tiny_captioner
from tests.fitted import CLIP_VERSION, fitted_bundle, measuring, mute_captioner, scene_set
from trainer.evaluate.evaluate import evaluate_bundle
from trainer.job.decisions import Decisions
from trainer.job.gate import Gate
from trainer.job.publish import check_current, publish
from trainer.snapshot.writer import serving_versions

NAME = "conditional_lm"
POOR, FAIR, GOOD = 5, 10, 30  # steps


@pytest.fixture
def state(mongo_client: MongoClient, mongo_database):
    return state_database(mongo_client, MongoSettings(database=mongo_database.name))


@pytest.fixture
def registry(state):
    return Registry(state)


@pytest.fixture
def decisions(state):
    return Decisions(state)


@pytest.fixture
def send(registry, decisions):
    """Publish a bundle measured on the scenes; options are those of the gate."""

    def do(
        bundle,
        *,
        validation_set=None,
        evaluate=None,
        recaption=Recaption.ALL,
        before_promotion=lambda: None,
        **gate,
    ):
        chosen = validation_set or scene_set()
        return publish(
            bundle,
            chosen,
            evaluate=evaluate or partial(evaluate_bundle, measuring=measuring(chosen)),
            registry=registry,
            decisions=decisions,
            gate=Gate(**{"metric": "bleu4", **gate}),
            recaption=recaption,
            before_promotion=before_promotion,
        )

    return do


def test_the_first_version_serves_with_its_metrics_in_the_manifest(send, registry):
    result = send(fitted_bundle(POOR))
    pointer = registry.pointer(NAME)
    assert pointer.version == result.decision.candidate == result.bundle.version
    stored = registry.fetch(NAME, pointer.version).manifest
    assert stored.metrics == result.candidate.metrics
    assert stored.metrics["n"] == 12
    assert stored.note.endswith("; measured on scenes dddddddddddddddd")
    from_bundle(registry.fetch(NAME, pointer.version))


def test_better_is_promoted_worse_is_kept_and_both_are_recorded(send, registry, decisions):
    fair = send(fitted_bundle(FAIR)).decision
    good = send(fitted_bundle(GOOD)).decision
    poor = send(fitted_bundle(POOR)).decision
    assert [d.outcome for d in (fair, good, poor)] == ["promoted", "promoted", "kept"]
    assert registry.pointer(NAME).version == good.candidate
    assert [d.serving for d in (fair, good, poor)] == [None, fair.candidate, good.candidate]
    assert good.serving_value == fair.candidate_value
    assert poor.candidate_value < poor.serving_value == good.candidate_value
    recorded = decisions.list(NAME)
    assert [d.reason for d in recorded] == [d.reason for d in (fair, good, poor)]
    assert recorded[2].digest == scene_set().digest
    assert decisions.list(limit=1) == recorded[2:]
    assert {info.version for info in registry.versions(NAME)} == {
        d.candidate for d in (fair, good, poor)
    }  # what lost can still be promoted by hand


def test_force_promotes_what_is_worse_and_tells_the_reconciler(send, registry):
    send(fitted_bundle(GOOD))
    forced = send(fitted_bundle(POOR), is_forced=True, recaption=Recaption.STALE)
    assert forced.is_promoted
    pointer = registry.pointer(NAME)
    assert pointer.version == forced.decision.candidate
    assert pointer.recaption is Recaption.STALE
    assert "forced" in pointer.reason


def test_empty_captions_do_not_serve_even_if_forced(send, registry):
    """Fails without `empty_captions` in the gate: the first version served whatever it said."""
    found = send(captioner_bundle(mute_captioner(), clip_version=CLIP_VERSION), is_forced=True)
    assert found.candidate.metrics["empty_captions"] == 1
    assert registry.pointer(NAME) is None
    assert "its empty_captions is 1, at most 0.1 may serve" in found.decision.reason


def test_a_gain_below_the_least_one_is_not_enough(send):
    send(fitted_bundle(FAIR))
    assert not send(fitted_bundle(GOOD), min_gain=2.0).is_promoted
    assert send(fitted_bundle(GOOD), min_gain=0.1).is_promoted


def test_of_the_loss_less_is_better(send):
    send(fitted_bundle(FAIR))
    overfitted = send(fitted_bundle(GOOD), metric="loss").decision
    assert overfitted.candidate_value > overfitted.serving_value
    assert overfitted.outcome == "kept"


def test_publishing_the_same_again_changes_nothing(send, registry):
    first = send(fitted_bundle(GOOD))
    again = send(first.bundle)
    assert again.bundle == first.bundle
    assert again.decision.reason == "it serves already"
    assert registry.pointer(NAME).revision == 1


def test_a_serving_version_of_another_clip_loses(send, registry):
    old = registry.publish(fitted_bundle(GOOD, clip_version="tiny-0"))
    registry.promote(NAME, old, reason="test")
    result = send(fitted_bundle(POOR))
    assert result.is_promoted
    assert result.decision.serving == old
    assert result.decision.serving_value is None
    assert "fitted on clip tiny-0" in result.decision.reason


def test_a_serving_version_that_cannot_be_loaded_loses(send, registry, state):
    send(fitted_bundle(GOOD))
    state["model_files.chunks"].delete_many({})
    result = send(fitted_bundle(POOR))
    assert result.is_promoted
    assert "weights are missing" in result.decision.reason


def test_a_pointer_moved_meanwhile_is_compared_again(send, registry):
    send(fitted_bundle(POOR))
    other = registry.publish(fitted_bundle(GOOD))
    seen = []

    def evaluate(bundle: Bundle):
        seen.append(bundle.version)
        if len(seen) == 2:  # the serving version is being measured
            registry.promote(NAME, other, reason="somebody else")
        return evaluate_bundle(bundle, measuring())

    result = send(fitted_bundle(FAIR), evaluate=evaluate)
    assert len(seen) == 3
    assert seen[2] == other
    assert not result.is_promoted
    assert result.decision.serving == other
    assert registry.pointer(NAME).version == other


def test_a_pointer_that_never_rests_is_an_error_and_nothing_is_overwritten(send, registry):
    send(fitted_bundle(POOR))
    places = [registry.publish(fitted_bundle(POOR, clip_version=v)) for v in (None, CLIP_VERSION)]

    def evaluate(bundle: Bundle):
        if bundle.manifest.vocabulary and bundle.version != candidate.version:
            pointer = registry.pointer(NAME)
            registry.promote(NAME, places[pointer.revision % 2], reason="somebody else")
        return evaluate_bundle(bundle, measuring())

    candidate = fitted_bundle(GOOD)
    with pytest.raises(PointerConflict):
        send(candidate, evaluate=evaluate)
    assert registry.pointer(NAME).version in places


def test_a_lease_lost_while_it_was_measured_prevents_the_promotion(send, registry):
    """Fails without `before_promotion`."""

    def lost():
        msg = "test"
        raise LeaseLost(msg)

    with pytest.raises(LeaseLost):
        send(fitted_bundle(POOR), before_promotion=lost)
    assert registry.pointer(NAME) is None


def test_a_candidate_that_does_not_hold_never_gets_into_the_registry(send, registry):
    good = fitted_bundle(GOOD)
    damaged = Bundle(manifest=good.manifest, weights=good.weights[:-1] + b"\x00")
    with pytest.raises(InvalidBundle):
        send(damaged)
    with pytest.raises(FeatureMismatch):
        send(fitted_bundle(GOOD, clip_version="tiny-0"))
    with pytest.raises(SettingsError, match="recall1 was not measured"):
        send(good, metric="recall1")
    assert registry.versions(NAME) == []


def test_a_set_of_another_clip_than_the_one_that_serves_is_refused(send, registry):
    serve_clip(registry, "tiny-2")
    with pytest.raises(FeatureMismatch, match="--refresh"):
        check_current(tiny_captioner(), scene_set(), serving_versions(registry, DEFAULT))
    serve_clip(registry, CLIP_VERSION)
    check_current(tiny_captioner(), scene_set(), serving_versions(registry, DEFAULT))
