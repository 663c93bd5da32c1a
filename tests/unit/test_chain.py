"""The chain is data: every stage and model that is declared has what it needs."""

from itertools import pairwise

from streams.contract.events import MODEL_APPLIED
from streams.registry.computations import LOADERS
from streams.stages import CHAIN
from streams.stages.steps import STEPS
from tests.pipelines import CLIP, MODELS


def test_every_stage_has_a_builder():
    assert list(STEPS) == [stage.name for stage in CHAIN]


def test_every_model_has_a_stage_and_all_but_clip_a_loader():
    assert [stage.model for stage in CHAIN if stage.model] == list(MODELS)
    assert list(LOADERS) == [model.name for model in MODELS if model is not CLIP]


def test_outputs_of_models_are_the_events_that_the_wire_knows_and_the_sink_stores():
    *making, sink = CHAIN
    assert tuple(stage.output for stage in making) == MODEL_APPLIED
    assert set(MODEL_APPLIED) <= set(sink.inputs)
    assert all(after.inputs == (before.output,) for before, after in pairwise(making))


def test_only_the_projection_is_not_read_by_a_model_behind_it():
    """Fails when `is_only_on_the_way` goes by the order of stages: a failed image would go on."""
    assert [stage.name for stage in CHAIN if stage.is_only_on_the_way] == ["project"]
