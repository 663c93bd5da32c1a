"""`captionstream apply`: right outputs, nothing written, errors that stay with their input."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from bson.timestamp import Timestamp
from PIL import Image

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, fingerprint
from streams.contract.writes import OutputWrite
from streams.errors import ModelNotFound
from streams.models import conditional_lm
from streams.models.clip import ClipEncoder
from streams.models.projection import orthogonal_projection
from streams.mongo.client import connect, state_database
from streams.mongo.store import DocumentStore
from streams.operate.on_demand import OnDemand
from streams.registry.versions import Registry
from streams.settings import ClipSettings, child_environment
from tests.bundles import projection_bundle
from tests.captioner import tiny_captioner
from tests.pipelines import CLIP, with_options
from tests.tiny import DIMENSION, write_tiny_clip


def picture(red):
    data = io.BytesIO()
    Image.new("RGB", (80, 60), (red, 90, 200)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def tiny(settings, tmp_path):
    clip = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random")
    return settings.model_copy(update={"clip": clip})


@pytest.fixture
def encoder(tiny):
    return ClipEncoder(tiny.clip)


@pytest.fixture
def connected(tiny):
    with connect(tiny.mongo) as client:
        yield (
            Registry(state_database(client, tiny.mongo)),
            DocumentStore(client, tiny.mongo, DEFAULT),
        )


@pytest.fixture
def captioner(connected, encoder):
    """The version that serves; fitted on the CLIP of the settings."""
    registry, _ = connected
    registry.announce("clip", encoder.version, {"dimension": DIMENSION})
    bundle = tiny_captioner(seed=3, clip_version=encoder.version)
    registry.promote("conditional_lm", registry.publish(bundle), reason="test")
    return conditional_lm.from_bundle(bundle)


@pytest.fixture
def results(tiny, connected, decoders):
    """Return what a version makes of inputs."""

    def apply(name, sources, *, version=None, pipeline=DEFAULT):
        registry, store = connected
        store.pipeline = pipeline
        model = OnDemand(name, version, tiny, registry, store, decoders=decoders)
        return list(model.apply(sources))

    return apply


def dump(settings, store):
    """Everything in both databases."""
    client = store.collection.database.client
    return {
        (name, collection): sorted(map(repr, client[name][collection].find()))
        for name in (settings.mongo.database, settings.mongo.state)
        for collection in client[name].list_collection_names()
    }


def store_clip(store, document_id, vector, *, version, image, url=None):
    made_of = {"img": fingerprint(image)}
    output = Output(value=vector, version=version, inputs=made_of, url=url)
    write = OutputWrite(
        document_id=document_id,
        source=Timestamp(5, 1),
        model=CLIP,
        result=output,
    )
    assert store.write_outputs([write]).written == 1


@pytest.mark.parametrize("beam", [1, 4])
def test_file_and_document_get_the_chains_own_outputs(
    results, connected, encoder, captioner, tmp_path, beam
):
    _, store = connected
    (tmp_path / "a.png").write_bytes(picture(10))
    store.collection.insert_one({"_id": 7, "img": picture(10)})
    wide = with_options("conditional_lm", beam_width=beam)
    [file, document] = results("conditional_lm", [tmp_path / "a.png", 7], pipeline=wide)
    pixels = encoder.preprocess(Image.open(tmp_path / "a.png")).unsqueeze(0)
    vector = encoder.encode(pixels)
    [expected] = captioner.generate(torch.from_numpy(vector), beam_width=beam)
    assert file.value == document.value == expected.text
    assert file.score == pytest.approx(expected.score, abs=1e-4)
    assert file.features == {"clip": encoder.version}
    # The version is taken as documents name it, with what its options add.
    [again] = results("conditional_lm", [7], version=document.version, pipeline=wide)
    assert (again.value, again.version) == (document.value, document.version)
    [clip] = results("clip", [7])
    assert np.allclose(clip.value, vector[0], atol=1e-5)


def test_current_stored_vector_is_used_and_nothing_is_written(
    tiny, results, connected, encoder, captioner
):
    _, store = connected
    vector = np.linspace(-2, 2, DIMENSION, dtype=np.float32)  # not that of the image
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    store_clip(store, 1, vector, version=encoder.version, image=picture(10))
    before = dump(tiny, store)
    [found] = results("conditional_lm", [1])
    assert found.value == captioner.generate(torch.from_numpy(vector[None]))[0].text
    assert dump(tiny, store) == before


def test_stored_vector_of_a_dead_url_is_used_but_not_that_of_another_url(
    results, connected, encoder, captioner
):
    """Fails when the URL is fetched before the document's embedding is looked at."""
    _, store = connected
    vector = np.linspace(-2, 2, DIMENSION, dtype=np.float32)
    url = "http://127.0.0.1:1/gone.png"
    store.collection.insert_many([{"_id": 1, "img": {"url": url}}, {"_id": 2, "img": {"url": url}}])
    for document_id, made_from in ((1, url), (2, "http://127.0.0.1:1/before.png")):
        store_clip(
            store, document_id, vector, version=encoder.version, image=picture(10), url=made_from
        )
    known, changed = results("conditional_lm", [1, 2])
    assert known.value == captioner.generate(torch.from_numpy(vector[None]))[0].text
    assert type(changed).__name__ == "InvalidUrl"


@pytest.mark.parametrize(("version", "image"), [("older", 10), (None, 20)])
def test_vector_of_another_version_or_image_is_not_used(
    results, connected, encoder, captioner, version, image
):
    _, store = connected
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    vector = np.full(DIMENSION, 3, np.float32)
    store_clip(store, 1, vector, version=version or encoder.version, image=picture(image))
    [found] = results("conditional_lm", [1])
    computed = encoder.encode(encoder.preprocess(Image.open(io.BytesIO(picture(10))))[None])
    assert found.value == captioner.generate(torch.from_numpy(computed))[0].text


def test_named_version_that_does_not_serve_is_applied(results, connected, encoder, captioner):
    registry, store = connected
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    small = projection_bundle(orthogonal_projection(DIMENSION, 4, seed=1))
    version = registry.publish(small)
    [found] = results("clip_projection", [1], version=version[:6])
    assert found.version == version
    assert found.value.shape == (4,)
    assert np.linalg.norm(found.value) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ModelNotFound, match="no version of clip_projection serves"):
        results("clip_projection", [1])


def test_input_that_fails_fails_alone_with_a_reason(results, connected, captioner, tmp_path):
    registry, store = connected
    (tmp_path / "bad.png").write_bytes(b"no image")
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    bad, missing, good = results("conditional_lm", [tmp_path / "bad.png", 9, 1])
    assert type(bad).__name__ == "InvalidImage"
    assert "neither a file nor a document 9" in str(missing)
    assert isinstance(good, Output)
    registry.promote(
        "conditional_lm", registry.publish(tiny_captioner(clip_version="c9")), reason="test"
    )
    [other] = results("conditional_lm", [1])
    assert "was fitted on clip c9, the settings give" in str(other)


def test_unknown_model_and_version_are_refused(results, captioner):
    with pytest.raises(ModelNotFound, match="choose one of clip, clip_projection"):
        results("gpt", [1])
    with pytest.raises(ModelNotFound, match="begins with 'zz'"):
        results("conditional_lm", [1], version="zz")
    with pytest.raises(ModelNotFound, match="is not the one of these settings"):
        results("clip", [1], version="RN50-openai")


BOTH = """
import sys
from streams.cli import app
for options in (["--json"], []):
    try:
        app(["apply", "conditional_lm", *sys.argv[1:], *options])
    except SystemExit as ended:
        print("exit code", ended.code)
"""


def test_command_prints_lines_for_machines_and_a_table_for_people(
    tiny, connected, captioner, tmp_path
):
    """In one process for both: loading torch is what it costs. Nothing is written anywhere."""
    (tmp_path / "a.png").write_bytes(picture(10))
    _, store = connected
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    before = dump(tiny, store)
    done = subprocess.run(
        [sys.executable, "-c", BOTH, "a.png", "1", "gone.png"],
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(tiny),
        cwd=tmp_path,
    )
    good, same, bad, code, *table = done.stdout.splitlines()
    assert (json.loads(good)["input"], json.loads(good)["model"]) == ("a.png", "conditional_lm")
    assert json.loads(good)["score"] < 0
    assert json.loads(same)["value"] == json.loads(good)["value"]
    assert json.loads(bad)["error"]["type"] == "InvalidImage"
    assert code == table[-1] == "exit code 1"
    assert any(json.loads(good)["value"] in line for line in table), table
    assert "Traceback" not in done.stderr
    assert dump(tiny, store) == before
