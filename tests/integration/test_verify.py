"""`captionstream verify`: what is right passes, and every kind of wrong is found."""

import io
import json

import numpy as np
import pytest
from bson.timestamp import Timestamp
from PIL import Image

from streams import events
from streams.capture.producer import publish_all
from streams.cli import app
from streams.dead_letter_log import list_dead_letters
from streams.dead_letters import dead_letter_record
from streams.documents import CLIP, MODELS, OutputError, encode_vector, fingerprint
from streams.errors import InvalidImage
from streams.events import Record
from streams.ids import document_key
from streams.models.clip import ClipEncoder
from streams.models.image import decode_image
from streams.models.projection import orthogonal_projection, to_bundle
from streams.mongo import connect, state_database
from streams.on_demand import OnDemand
from streams.registry import Registry
from streams.settings import ClipSettings, ImageSettings
from streams.stages import PROCESSES
from streams.states import Recaption
from streams.store import DocumentStore, OutputWrite
from streams.topics import create_topics, dead_letter_topic
from streams.verify import Verifier
from tests.captioner import tiny_captioner
from tests.command_line import CommandLine
from tests.tiny import DIMENSION, write_tiny_clip

LM = "_outputs._base.conditional_lm"


def picture(red):
    data = io.BytesIO()
    Image.new("RGB", (80, 60), (red, 90, 200)).save(data, "PNG")
    return data.getvalue()


class World:
    """Three documents that are right, and one that carries a true error."""

    def __init__(self, settings, client):
        self.settings = settings
        self.store = DocumentStore(client, settings.mongo)
        self.registry = Registry(state_database(client, settings.mongo))
        clip = ClipEncoder(settings.clip).version
        self.registry.announce(CLIP.name, clip, {"dimension": DIMENSION})
        self.promote(to_bundle(orthogonal_projection(DIMENSION, 8, seed=0)))
        self.promote(tiny_captioner(seed=3, clip_version=clip))
        self.documents = self.store.collection
        self.documents.insert_many([{"_id": i, "img": picture(i)} for i in range(3)])
        self.make_outputs()
        self.documents.insert_one({"_id": "bad", "img": b"no image"})
        self.write_error("bad", InvalidImage.__name__, clip)
        self.send_letter("bad")

    def promote(self, bundle, **options):
        version = self.registry.publish(bundle)
        self.registry.promote(bundle.manifest.name, version, reason="test", **options)

    def make_outputs(self):
        for model in MODELS:
            made = OnDemand(
                model.name, None, self.settings, self.registry, self.store, beam_width=1
            ).apply([0, 1, 2])
            for i, output in enumerate(made):
                self.write(i, model, output, fingerprint(picture(i)))

    def write(self, document_id, model, result, digest=""):
        write = OutputWrite(
            document_id=document_id,
            source=Timestamp(5, 1),
            model=model,
            input=digest,
            result=result,
        )
        assert self.store.write_outputs([write]).written == 1

    def write_error(self, document_id, kind, version):
        error = OutputError(
            type=kind, message="wrong", attempts=1, is_retryable=False, version=version
        )
        self.documents.update_one({"_id": document_id}, {"$unset": {"_outputs": 1}})
        self.write(document_id, CLIP, error)

    def send_letter(self, document_id, *, message="wrong", position="0:0"):
        letter = dead_letter_record(
            Record(key=document_key(document_id), value=b"{}", headers=[]),
            stage="featurize",
            topic=events.IMAGE_CHANGED,
            position=position,
            model=CLIP.name,
            error=OutputError(type="InvalidImage", message=message, attempts=1, is_retryable=False),
        )
        publish_all([(dead_letter_topic(events.IMAGE_CHANGED), letter)], self.settings.kafka)

    def findings(self, **options):
        verifier = Verifier(self.settings, self.store, self.registry)
        found = verifier.verify(**{"patience_seconds": 0, **options})
        return {finding.document_id: finding.problem for finding in found.findings}


@pytest.fixture
def world(settings, tmp_path):
    create_topics(settings.kafka)
    clip = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random")
    with connect(settings.mongo) as client:
        yield World(settings.model_copy(update={"clip": clip}), client)


def test_right_documents_pass_in_batches_of_any_size(world):
    assert world.findings() == {}
    assert world.findings(sample=2) == {}


def changed_vector(dimension):
    return encode_vector(np.full(dimension, 0.5, np.float32))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"img": picture(77)}, "from another image"),
        ({"img": b"no image"}, "it has outputs, and yet"),
        ({f"{CLIP.path}.value": changed_vector(DIMENSION)}, "differs"),
        ({f"{MODELS[1].path}.value": changed_vector(8)}, "clip_projection differs by"),
        ({f"{MODELS[1].path}.value": changed_vector(4)}, "clip_projection has shape (4,)"),
        ({f"{LM}.value": "a red dog"}, "conditional_lm is 'a red dog'"),
        ({f"{LM}.version": "0000000000000000"}, "conditional_lm has to run"),
        ({f"{LM}.features.clip": "other"}, "conditional_lm has to run"),
        ({f"{LM}.input": "0" * 32}, "conditional_lm was made from another image"),
    ],
)
def test_each_kind_of_wrong_is_found(world, change, problem):
    """Fails without the comparison of `_outputs`, `_problem_of_errors` or the recomputation."""
    world.documents.update_one({"_id": 1}, {"$set": change})
    found = world.findings()
    assert list(found) == [1]
    assert problem in found[1]


def test_image_behind_a_url_is_checked_by_its_url(world):
    """Fails without the comparison of URLs in `_outputs`."""
    url = "http://example.org/a.png"
    world.documents.update_one({"_id": 1}, {"$set": {"img": {"url": url}, f"{CLIP.path}.url": url}})
    assert world.findings() == {}
    world.documents.update_one({"_id": 1}, {"$set": {f"{LM}.value": "a red dog"}})
    assert "conditional_lm is" in world.findings()[1]
    world.documents.update_one({"_id": 1}, {"$set": {"img.url": f"{url}?other"}})
    assert world.findings() == {1: "clip was made from another image"}


def test_error_that_is_not_true_is_found(world):
    world.write_error(2, InvalidImage.__name__, ClipEncoder(world.settings.clip).version)
    world.send_letter(2)
    assert world.findings() == {2: "it carries an error, and yet its image can be decoded"}


def test_caption_of_an_image_that_is_gone_is_found(world):
    row = world.documents.find_one({"_id": 1})
    world.documents.update_one(
        {"_id": "bad"}, {"$set": {LM: row["_outputs"]["_base"]["conditional_lm"]}}
    )
    assert world.findings() == {"bad": "conditional_lm was made from another image"}


def test_error_without_a_dead_letter_is_found(world):
    """Fails without the look at the dead letters."""
    world.documents.insert_one({"_id": "worse", "img": b"no image"})
    world.write_error("worse", "InvalidImage", ClipEncoder(world.settings.clip).version)
    assert world.findings() == {"worse": "clip failed, and no dead letter says so"}


def test_same_failure_told_twice_is_one_entry_and_another_is_not(world):
    """Fails without `merge_causes`."""
    world.send_letter("bad", position="0:7")
    assert len(list_dead_letters(world.settings.kafka)) == 1
    world.send_letter("bad", message="something else")
    entries = list_dead_letters(world.settings.kafka)
    assert sorted(len(entry.positions) for entry in entries) == [1, 2]


def test_document_that_is_finished_meanwhile_is_right(world):
    """Fails when suspects are not looked at again."""
    world.documents.update_one({"_id": 0}, {"$unset": {LM: 1}})

    def repair(_):
        made = OnDemand(
            "conditional_lm", None, world.settings, world.registry, world.store, beam_width=1
        ).apply([0])
        world.write(0, MODELS[2], next(made), fingerprint(picture(0)))

    assert world.findings(patience_seconds=30, watch=repair) == {}


def test_output_that_a_promotion_left_is_checked_with_its_own_version(world):
    clip = ClipEncoder(world.settings.clip).version
    world.promote(tiny_captioner(seed=4, clip_version=clip), recaption=Recaption.NONE)
    assert world.findings() == {}
    world.documents.update_one({"_id": 1}, {"$set": {f"{LM}.value": "a red dog"}})
    assert list(world.findings()) == [1]


def test_limits_of_the_settings_hold_here_too(world):
    small = ImageSettings(max_pixels=100)
    with pytest.raises(InvalidImage):
        decode_image(picture(1), small)
    world.settings = world.settings.model_copy(update={"image": small})
    assert set(world.findings()) == {0, 1, 2}


def test_command_says_what_is_wrong_and_exits_with_1(world, monkeypatch, capsys):
    """As if all processes ran and had nothing to do."""
    state = state_database(world.store.collection.database.client, world.settings.mongo)
    future = {"position": {"cluster_time": Timestamp(2**31, 1)}}
    state["positions"].update_one({"_id": world.store.tenant}, {"$set": future}, upsert=True)
    captionstream = CommandLine(app, monkeypatch, capsys, world.settings)

    def report(stages):
        for stage in stages:
            row = {"stage": stage, "url": stage, "is_ready": True, "at": "$$NOW"}
            state["processes"].update_one({"_id": stage}, [{"$set": row}], upsert=True)

    report(PROCESSES)
    done = captionstream("verify", "--patience", "0")
    assert done.code == 0
    assert done.out.endswith("\n4 documents checked, 0 wrong\n")
    world.documents.update_one({"_id": 1}, {"$set": {f"{LM}.value": "a red dog"}})
    report(PROCESSES)
    done = captionstream("verify", "--patience", "0")
    assert done.code == 1
    assert done.out.endswith("\n4 documents checked, 1 wrong\n")
    assert "\n1: conditional_lm is 'a red dog'" in done.out
    found = json.loads(captionstream("verify", "--patience", "0", "--json").out.splitlines()[-1])
    assert [row["id"] for row in found["wrong"]] == [1]
    assert found["standing_still"] == {}
