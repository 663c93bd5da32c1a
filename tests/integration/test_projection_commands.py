"""The trainer's commands as they are typed, for the projection, with the CLIP that ships."""

import json

import pytest
import torch
from typer.testing import CliRunner

from streams.contract.default_pipeline import DEFAULT
from streams.models import projection
from streams.models.clip import ClipEncoder
from streams.mongo.client import connect, state_database
from streams.mongo.store import DocumentStore
from streams.registry.hot_model import HotModel
from streams.registry.versions import Registry
from streams.settings import ClipSettings, ModelSettings, MongoSettings, Settings
from tests.bench.scenes import embed
from tests.integration.trainer_data import announce_clip, clip_write
from trainer.cli import app
from trainer.scenes.scenes import make_scenes

NAME = "clip_projection"
CLIP = {"model": "scenes", "pretrained": "bundled"}
SCENES = 60
FIT = ("--max-epochs", 2, "--option", "dimension=16", "--threads", 1)


@pytest.fixture
def client(mongo_uri, mongo_database, monkeypatch, tmp_path):
    """A client of the servers that the commands find in their environment."""
    for name, value in {
        "MONGO__URI": mongo_uri,
        "MONGO__DATABASE": mongo_database.name,
        "TRAINER__DIRECTORY": tmp_path,
        **{f"CLIP__{name.upper()}": value for name, value in CLIP.items()},
    }.items():
        monkeypatch.setenv(f"CAPTIONSTREAM_{name}", str(value))
    threads = torch.get_num_threads()
    with connect(MongoSettings(uri=mongo_uri, database=mongo_database.name)) as connected:
        yield connected
    torch.set_num_threads(threads)


@pytest.fixture
def registry(client, mongo_uri, mongo_database):
    """The registry; documents of scenes have their vectors, a third of them are in each fold."""
    settings = Settings(mongo=MongoSettings(uri=mongo_uri, database=mongo_database.name))
    encoder = ClipEncoder(ClipSettings(**CLIP))
    announce_clip(client, settings, encoder.version)
    scenes = list(make_scenes(SCENES, seed=8))
    store = DocumentStore(client, settings.mongo, DEFAULT)
    store.collection.insert_many(
        {"_id": i, "captions": scene.captions(), "_fold": ("train", "valid", "test")[i % 3]}
        for i, scene in enumerate(scenes)
    )
    vectors = embed(encoder, scenes).numpy()
    store.write_outputs(
        [clip_write(i, vector, version=encoder.version) for i, vector in enumerate(vectors)]
    )
    return Registry(state_database(client, settings.mongo))


def trainer(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def last_line(*arguments):
    return json.loads(trainer(*arguments, "--json").splitlines()[-1])


def test_from_documents_to_a_projection_that_the_stage_takes(registry):
    assert trainer("snapshot").startswith("snapshot ")
    fitted = last_line("fit", NAME, *FIT)
    run = fitted["directory"]

    made = last_line("validation-set", "create")
    assert (made["name"], made["entries"]) == ("default", SCENES // 3)
    assert (made["sample_size"], made["chunk_size"]) == (500, 100)
    assert last_line("validation-set", "show") == made
    assert "20 documents (500 asked for)" in trainer("validation-set", "show", "--name", "default")
    assert trainer("validation-set", "list") == "default\n"

    measured = last_line("evaluate", NAME, "--bundle", run)
    assert measured["version"] == fitted["version"]
    assert 0 < measured["metrics"]["recall10"] <= 1
    decision = last_line("publish", NAME, "--bundle", run)
    assert (decision["outcome"], decision["metric"]) == ("promoted", "recall10")

    again = last_line("run", NAME, *FIT, "--seed", 1, "--min-documents", 10, "--force")
    assert again["outcome"] == "promoted"
    assert again["version"] != decision["candidate"]
    hot = HotModel(NAME, projection.from_bundle, projection.check_golden, registry, ModelSettings())
    hot.refresh()
    assert hot.current().version == again["version"]
    assert hot.current().model.dimension_out == 16
    assert hot.self_test()
