"""`verify` and `apply` with models that are classes of a user."""

import io
import json
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
from bson.timestamp import Timestamp
from PIL import Image

from streams.cli import app
from streams.contract.dead_letters import dead_letter_record
from streams.contract.documents import Output, OutputError, fingerprint, lookup
from streams.contract.events import Record
from streams.contract.ids import document_key
from streams.contract.pipeline import CHANGES, dead_letter_topic
from streams.contract.values import encode_vector
from streams.contract.writes import OutputWrite
from streams.errors import DocumentError, InvalidImage, ModelFailed, ModelNotFound
from streams.kafka.producer import publish_all
from streams.kafka.topics import create_topics
from streams.models.clip import ClipEncoder
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations
from streams.mongo.store import DocumentStore
from streams.operate.on_demand import OnDemand
from streams.operate.verify import Verifier
from streams.registry.versions import Registry
from streams.settings import ClipSettings
from tests.command_line import CommandLine
from tests.own_models import OWN, NoTitle, serve_own_models
from tests.tiny import DIMENSION, write_tiny_clip

COLOUR, HALVES, LABEL = (OWN.models[name] for name in ("colour", "halves", "label"))
URL = "http://127.0.0.1:1/gone.png"


def picture(red, width=80):
    data = io.BytesIO()
    Image.new("RGB", (width, 60), (red, 90, 200)).save(data, "PNG")
    return data.getvalue()


class World:
    """The pipeline with a version of each model, and no document."""

    def __init__(self, settings, client, decoders):
        self.settings = settings
        self.decoders = decoders
        self.store = DocumentStore(client, settings.mongo, OWN)
        self.state = state_database(client, settings.mongo)
        self.registry = Registry(self.state)
        self.encoder = ClipEncoder(settings.clip)
        self.registry.announce("clip", self.encoder.version, {"dimension": DIMENSION})
        serve_own_models(self.registry)
        self.documents = self.store.collection

    def apply(self, name, *inputs):
        parts = (self.settings, self.registry, self.store)
        return list(OnDemand(name, None, *parts, decoders=self.decoders).apply(inputs))

    def write(self, document_id, model, result):
        write = OutputWrite(
            document_id=document_id, source=Timestamp(5, 1), model=model, result=result
        )
        assert self.store.write_outputs([write]).written == 1

    def write_error(self, document_id, model, kind):
        version = self.registry.serving(OWN).versions[model.name]
        error = OutputError(
            type=kind, message="wrong", attempts=1, is_retryable=False, version=version
        )
        self.documents.update_one({"_id": document_id}, {"$unset": {model.path: 1}})
        self.write(document_id, model, error)
        self.send_letter(document_id, model, error)

    def send_letter(self, document_id, model, error):
        letter = dead_letter_record(
            Record(
                key=document_key(document_id), value=b"{}", headers=[("ce_clustertime", b"5.1")]
            ),
            stage=model.name,
            topic=CHANGES,
            position="0:0",
            model=model.name,
            error=error,
        )
        publish_all([(dead_letter_topic(CHANGES), letter)], self.settings.kafka)

    def insert_right_documents(self):
        """Three with all outputs, one without a title, and one whose image has no colour."""
        rows = [{"_id": i, "img": picture(i), "title": f"no {i}"} for i in range(3)]
        bare = {"_id": "bare", "img": picture(9)}
        self.documents.insert_many([*rows, bare, {"_id": "thin", "img": picture(9, width=1)}])
        for model in OWN.models.values():
            for row in rows:
                self.write(row["_id"], model, *self.apply(model.name, row["_id"]))
        for name in ("clip", "colour", "halves"):
            self.write("bare", OWN.models[name], *self.apply(name, "bare"))
        for name in ("clip", "halves"):
            self.write("thin", OWN.models[name], *self.apply(name, "thin"))
        self.write_error("bare", LABEL, NoTitle.__name__)
        self.write_error("thin", COLOUR, InvalidImage.__name__)

    @cached_property
    def verifier(self):
        return Verifier(self.settings, self.store, self.registry, self.decoders)

    def findings(self):
        found = self.verifier.verify(patience_seconds=0).findings
        return {finding.document_id: finding.problem for finding in found}


@pytest.fixture
def world(settings, tmp_path, decoders):
    create_topics(settings.kafka, OWN)
    clip = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random")
    with connect(settings.mongo) as client:
        yield World(settings.model_copy(update={"clip": clip}), client, decoders)


def test_each_kind_of_wrong_is_found_in_each_model(world):
    """Fails with one root, with readers of one vector, and without the whole `features`."""
    world.insert_right_documents()
    assert world.findings() == {}
    changes = [
        (1, {f"{COLOUR.path}.value.red": 1.5}, "colour is {"),
        (1, {f"{COLOUR.path}.value.others": [90.0]}, "colour is {"),
        (1, {f"{COLOUR.path}.input.img": "0" * 32}, "colour was made from another image"),
        (1, {f"{HALVES.path}.value": encode_vector(np.ones(4))}, "halves differs by"),
        (1, {f"{HALVES.path}.version": "0" * 16}, "halves has to run"),
        (1, {f"{LABEL.path}.value": "no 2: 1"}, 'label is "no 2: 1" instead of "no 1: 1 '),
        (1, {"title": "renamed"}, "label was made from another title"),
        (1, {"img": picture(77)}, "colour was made from another image"),
        (1, {f"{LABEL.path}.features.clip": "older"}, "label was made of what another version"),
        (1, {f"{COLOUR.path}.version": "0" * 16}, "colour has to run"),
        ("bare", {"title": "no longer bare"}, "it carries NoTitle, and yet label can read it"),
        ("bare", {f"{LABEL.path}.error.type": "InvalidUrl"}, "label failed, and no dead letter"),
        ("thin", {"img": b"no image"}, "it has outputs, and yet: `img`"),
    ]
    for document_id, change, problem in changes:
        before = world.documents.find_one({"_id": document_id})
        world.documents.update_one({"_id": document_id}, {"$set": change})
        found = world.findings()
        assert list(found) == [document_id], change
        assert problem in found[document_id]
        world.documents.replace_one({"_id": document_id}, before)
    assert world.findings() == {}


def test_errors_and_outputs_that_no_version_gives_are_found(world):
    """Fails when the errors of one model only are looked at, or one poisons the batch."""
    world.insert_right_documents()
    world.write_error(0, COLOUR, "InvalidImage")
    row = world.documents.find_one({"_id": 1})
    stored = {LABEL.path: lookup(row, LABEL.path)}
    world.documents.update_one({"_id": "bare"}, {"$set": stored})
    found = world.findings()
    assert found.pop("bare") == "label was made from another image"
    assert found == {0: "label is there without colour"}
    world.documents.update_one({"_id": 0}, {"$unset": {LABEL.path: 1}})
    assert world.findings()[0] == "it carries InvalidImage, and yet its image can be decoded"
    poisoned = {"title": "poison", f"{LABEL.path}.input.title": fingerprint(b'"poison"')}
    world.documents.update_one({"_id": 2}, {"$set": poisoned})
    assert world.findings()[2] == (
        "label is there, and yet its version gives none: label raised RuntimeError: poisoned"
    )


def test_what_was_made_of_an_image_behind_a_url_is_checked(world):
    """Its own outputs by the URL, all that was made of those by their numbers."""
    world.insert_right_documents()
    urls = {f"{OWN.models[name].path}.url": URL for name in ("clip", "colour")}
    world.documents.update_one({"_id": 1}, {"$set": {"img": {"url": URL}, **urls}})
    assert world.findings() == {}
    world.documents.update_one({"_id": 1}, {"$set": {f"{LABEL.path}.value": "x"}})
    assert "label is" in world.findings()[1]


def test_what_was_made_of_outputs_that_find_no_room_is_right_behind_a_url_too(world):
    """Fails when the image of a URL counts as another one where no root says which it was."""
    world.insert_right_documents()
    version = world.registry.serving(OWN).versions
    for name in ("clip", "colour"):
        error = OutputError(
            type="WriteRejected",
            message="",
            attempts=1,
            is_retryable=False,
            version=version[name],
        )
        model = OWN.models[name]
        world.store.no_room.keep(
            OutputWrite(document_id=1, source=Timestamp(5, 1), model=model, result=error)
        )
        world.send_letter(1, model, error)
        world.documents.update_one({"_id": 1}, {"$unset": {model.path: 1}})
    world.documents.update_one({"_id": 1}, {"$set": {"img": {"url": URL}}})
    assert world.findings() == {}
    world.documents.update_one({"_id": 1}, {"$set": {"title": "renamed"}})
    assert world.findings() == {1: "label was made from another title"}


def test_chain_is_computed_upstream_first(world, tmp_path):
    world.documents.insert_one({"_id": 1, "img": picture(10), "title": "a dog"})
    [label] = world.apply("label", 1)
    image = Image.open(io.BytesIO(picture(10)))
    [vector] = world.encoder.encode(world.encoder.preprocess(image)[None])
    assert label.value == f"a dog: 10 {vector[0] / 2:.3f}"
    assert label.features.keys() == {"clip", "colour", "halves"}
    assert label.features["clip"] == world.encoder.version
    assert label.inputs.keys() == {"img", "title"}
    (tmp_path / "a.png").write_bytes(picture(10))
    colour, halves = (world.apply(name, tmp_path / "a.png", 1) for name in ("colour", "halves"))
    assert [made.value for made in colour] == [{"red": 10.0, "others": [90.0, 200.0]}] * 2
    assert np.allclose([made.value for made in halves], vector[:4] / 2, atol=1e-5)
    [refused] = world.apply("label", tmp_path / "a.png")
    assert isinstance(refused, DocumentError)
    assert "label depends on the field 'title', which a file does not have" in str(refused)


@pytest.mark.parametrize(("change", "red"), [({}, 123), ({"version": "older"}, 10)], ids=str)
@pytest.mark.parametrize("image", [picture(10), {"url": URL}], ids=["inside", "url"])
def test_stored_outputs_are_used_where_they_are_current(world, change, red, image):
    """Of a URL that is dead by now they are all there is. Fails when anything stored is used."""
    world.documents.insert_one({"_id": 1, "img": image, "title": "a dog"})
    serving = world.registry.serving(OWN).versions
    made_of = {"img": fingerprint(picture(10))}
    url = URL if isinstance(image, dict) else None
    vector = np.full(DIMENSION, 3, np.float32)
    clip = Output(value=vector, version=serving["clip"], inputs=made_of, url=url)
    values = {"red": 123.0, "others": []}
    version = change.get("version", serving["colour"])
    world.write(1, OWN.models["clip"], clip)
    world.write(1, COLOUR, Output(value=values, version=version, inputs=made_of, url=url))
    [label] = world.apply("label", 1)
    if url and change:
        assert type(label).__name__ == "InvalidUrl"
    else:
        assert label.value == f"a dog: {red} 1.500"


def test_input_that_fails_fails_alone(world):
    titles = {1: "a dog", 2: "poison", 3: None, 4: "a cat"}
    world.documents.insert_many(
        [{"_id": i, "img": picture(i), "title": title} for i, title in titles.items()]
    )
    world.documents.insert_one({"_id": 5, "img": picture(1, width=1), "title": "thin"})
    found = world.apply("label", *titles, 5)
    assert [type(made) for made in found] == [Output, ModelFailed, NoTitle, Output, InvalidImage]
    assert "label raised RuntimeError: poisoned" in str(found[1])


def test_model_that_reads_one_without_a_version_cannot_be_applied(world):
    world.registry.forget("halves")
    with pytest.raises(ModelNotFound, match="no version of halves serves; let one serve first"):
        world.apply("label", 1)


def test_commands_show_json(world, monkeypatch, capsys):
    """Fails with the default pipeline, or when a long value is shown in full."""
    declarations = Declarations(world.state, world.store.tenant)
    declarations.replace(OWN.declarations, expected_revision=0, reason="test")
    world.documents.insert_one({"_id": 1, "img": picture(10)})
    [colour] = world.apply("colour", 1)
    world.write(1, COLOUR, replace(colour, value={"many": ["ä"] * 5000}))
    captionstream = CommandLine(app, monkeypatch, capsys, world.settings)
    done = captionstream("apply", "colour", "1")
    assert '{"red": 10.0, "others": [90.0, 200.0]}' in done.out
    made = json.loads(captionstream("apply", "colour", "1", "--json").out.splitlines()[-1])
    assert made["value"] == {"red": 10.0, "others": [90.0, 200.0]}
    done = captionstream("show", "1")
    [line] = [line for line in done.out.splitlines() if line.startswith("colour")]
    assert '{"many": ["ä", "ä"' in line
    assert len(line) < 400
