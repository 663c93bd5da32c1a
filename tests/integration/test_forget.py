"""Forgetting a model: everything of it goes, and nothing of any other."""

import pytest

from streams.errors import InvalidPipeline, StoreUnavailable
from streams.kafka.topics import create_topics, read_topic_states, topic_name
from streams.mongo.client import connect
from streams.mongo.processes import Report, Reporter, read_reports
from streams.operate import forget
from streams.operate.pipeline import open_pipeline
from tests.waiting import wait_until

#: More than a batch.
DOCUMENTS = 1500


def output(version):
    return {"value": "v", "version": version, "features": {}}


@pytest.fixture
def pipeline(settings):
    with open_pipeline(settings) as opened:
        opened.create_model("colour", "colours:Colour", key="img")
        opened.create_model("line", "lines:Line", features={"c": "colour"}, active=False)
        yield opened


@pytest.fixture
def collection(settings):
    with connect(settings.mongo) as client:
        found = client[settings.mongo.database][settings.mongo.collection]
        found.insert_many(
            {
                "_id": i,
                "img": b"x",
                "_outputs": {
                    "img": {"clip": output("c1"), "colour": output("k1")},
                    "photo": {"colour": output("k0")},
                    "_base": {"colour": output("not ours")},
                },
            }
            for i in range(DOCUMENTS)
        )
        yield found


def resting(pipeline):
    pipeline.set_state("colour", "inactive")
    only = [d for d in pipeline.read().pipeline.declarations if d.name != "line"]
    pipeline.replace(only, expected_revision=pipeline.read().revision, reason="test")


def holding(collection, path):
    return collection.count_documents({path: {"$exists": True}})


def test_outputs_versions_and_topics_go_and_all_else_stays(
    pipeline, collection, settings, registry, database
):
    registry.announce("colour", "k1", {})
    registry.announce("clip", "c1", {})
    create_topics(settings.kafka, pipeline.read().pipeline)
    beside = database[f"no_room.{settings.mongo.collection}"]
    beside.insert_one({"_id": 1, "_outputs": {"img": {"colour": {}, "clip": {}}}})
    declared = pipeline.read()
    moved = [
        d.model_copy(update={"key": "photo"}) if d.name == "colour" else d
        for d in declared.pipeline.declarations
    ]
    pipeline.replace(moved, expected_revision=declared.revision, reason="another key")
    resting(pipeline)
    done = pipeline.forget("colour")
    assert (done.documents, done.versions, done.broker_problem) == (DOCUMENTS, 1, "")
    topics = [topic_name(name, settings.kafka) for name in ("colour", "colour.dlq")]
    assert sorted(done.topics) == topics
    assert "colour" not in pipeline.list_models()
    for path, count in {
        "img.clip": 1,
        "_base.colour": 1,
        "img.colour": 0,
        "photo.colour": 0,
    }.items():
        assert holding(collection, f"_outputs.{path}") == count * DOCUMENTS
    assert collection.count_documents({"img": b"x"}) == DOCUMENTS
    assert beside.find_one() == {"_id": 1, "_outputs": {"img": {"clip": {}}}}
    assert registry.pointers().readable.keys() == {"clip"}
    assert [info.name for info in registry.versions()] == ["clip"]
    assert set(read_topic_states(settings.kafka, declared.pipeline).missing) == set(topics)


def test_repeating_it_goes_on_where_it_stopped(pipeline, collection, monkeypatch, registry):
    """Fails when a model that is no longer declared is not known, or when versions go first."""
    registry.announce("colour", "k1", {})
    resting(pipeline)

    def stops(done):
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(forget, "_BATCH", 100)
        with pytest.raises(StoreUnavailable):
            forget.forget_model("colour", pipeline._settings, pipeline._client, watch=stops)
    assert holding(collection, "_outputs.img.colour") == DOCUMENTS - 100
    assert "colour" not in pipeline.list_models()
    done = pipeline.forget("colour")
    assert (done.documents, done.versions) == (DOCUMENTS - 100, 1)
    assert holding(collection, "_outputs.img.colour") == 0
    assert pipeline.forget("colour").documents == 0


def test_a_broker_that_does_not_answer_is_said(pipeline, collection, settings, monkeypatch):
    resting(pipeline)
    nowhere = settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    with open_pipeline(settings.model_copy(update={"kafka": nowhere})) as cut_off:
        done = cut_off.forget("colour")
    assert done.documents == DOCUMENTS
    assert "its topics may be left" in done.broker_problem
    assert "forget colour again" in done.broker_problem
    assert pipeline.forget("colour").broker_problem == ""


@pytest.mark.parametrize(
    ("name", "prepare", "says"),
    [
        ("colour", lambda _: None, "colour is active: `captionstream pipeline deactivate colour`"),
        (
            "colour",
            lambda p: p.set_state("colour", "inactive"),
            "line reads or follows colour: change or forget line first",
        ),
        ("colours", lambda _: None, "no model 'colours' was ever declared"),
    ],
)
def test_a_model_that_somebody_needs_is_not_forgotten(pipeline, collection, name, prepare, says):
    prepare(pipeline)
    with pytest.raises(InvalidPipeline, match=says):
        pipeline.forget(name)
    assert holding(collection, "_outputs.img.colour") == DOCUMENTS
    assert "colour" in pipeline.list_models()


def test_a_model_of_which_a_process_runs_is_not_forgotten(pipeline, collection, database):
    resting(pipeline)
    report = Report(stage="colour", url="", is_ready=True, models=["colour"])
    reporter = Reporter(database, lambda: report)
    reporter.start()
    wait_until(lambda: read_reports(database), doing="the report")
    with pytest.raises(InvalidPipeline, match="a process of colour still runs"):
        pipeline.forget("colour")
    reporter.stop()
    assert pipeline.forget("colour").documents == DOCUMENTS


@pytest.mark.parametrize("stage", ["sink", "publisher"])
def test_a_model_of_which_outputs_may_still_be_stored_is_not_forgotten(
    pipeline, collection, database, stage
):
    """Fails without the revision in the reports: such a process has no model of its own."""
    active = pipeline.read().revision
    resting(pipeline)
    revisions = [active]
    reporter = Reporter(
        database, lambda: Report(stage=stage, url="", is_ready=True, revision=revisions[-1])
    )
    reporter.start()
    wait_until(lambda: read_reports(database), doing="the report")
    with pytest.raises(InvalidPipeline, match=f"a {stage} works by revision {active}, in which"):
        pipeline.forget("colour")
    assert "colour" in pipeline.list_models()
    revisions.append(active + 1)
    wait_until(lambda: read_reports(database)[0].revision > active, doing="another report")
    assert pipeline.forget("colour").documents == DOCUMENTS
    reporter.stop()
