"""The stages follow from the pipeline: every model that is declared has what it needs."""

from itertools import pairwise

from streams.contract.declaration import Declaration, ModelState
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline, dead_letter_topic
from streams.models.kinds.find import kind_of
from streams.stages import is_same_process, processes_of, stages_of
from tests.pipelines import MODELS, STAGES

FAN = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="line", kind="gru", features={"img": "clip"}),
        Declaration(name="mood", kind="linear", features={"img": "clip"}),
        Declaration(name="rests", kind="gru", features={"img": "clip"}, state=ModelState.INACTIVE),
    ]
)


def test_every_model_has_a_stage_of_its_name_and_a_kind():
    assert [stage.model for stage in STAGES.values()] == [*MODELS, None]
    assert list(STAGES) == [*(model.name for model in MODELS), "sink"]
    for model in MODELS:
        kind_of(model.declaration.kind).check(model.declaration)


def test_each_stage_of_the_chain_reads_what_the_one_before_makes():
    *making, sink = STAGES.values()
    assert making[0].inputs == ("changes",)
    assert all(after.inputs == (before.output,) for before, after in pairwise(making))
    assert tuple(stage.output for stage in making) == DEFAULT.topics[1:]
    assert sink.output is None


def test_sink_stores_what_every_model_makes_and_why_one_did_not():
    """Fails without the dead letters of any topic that a stage reads."""
    for pipeline in (DEFAULT, FAN):
        *making, sink = stages_of(pipeline).values()
        outputs = [stage.output for stage in making]
        letters = {dead_letter_topic(stage.inputs[0]) for stage in making}
        assert sink.inputs[: len(outputs)] == tuple(outputs)
        assert sorted(sink.inputs[len(outputs) :]) == sorted(letters)
        assert set(sink.inputs) <= set(pipeline.all_topics)


def test_models_that_read_the_same_have_stages_side_by_side():
    stages = stages_of(FAN)
    assert list(stages) == ["clip", "line", "mood", "sink"]
    assert stages["line"].inputs == stages["mood"].inputs == ("clip",)
    assert processes_of(FAN) == ("publisher", "clip", "line", "mood", "sink")


def test_only_the_projection_is_not_read_by_a_model_behind_it():
    """Fails when `is_only_on_the_way` goes by the order of stages: a failed image would go on."""
    assert [s.name for s in STAGES.values() if s.is_only_on_the_way] == ["clip_projection"]
    assert not any(stage.is_only_on_the_way for stage in stages_of(FAN).values())


def test_publisher_and_sink_go_on_only_in_the_same_pipeline():
    """They know all of it; a stage knows its part."""
    line = FAN.declarations[1].model_copy(update={"options": {"beam_width": 5}})
    other = compile_pipeline([FAN.declarations[0], line, *FAN.declarations[2:]])
    again = compile_pipeline(FAN.declarations)
    assert all(is_same_process(name, FAN, again) for name in processes_of(FAN))
    same = [name for name in processes_of(FAN) if is_same_process(name, FAN, other)]
    assert same == ["mood"]
