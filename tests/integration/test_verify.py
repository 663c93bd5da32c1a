"""`captionstream verify`: what is right passes, and every kind of wrong is found."""

import io
import json
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from bson.timestamp import Timestamp
from PIL import Image

from streams.cli import app
from streams.contract.dead_letters import dead_letter_record
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import OutputError, fingerprint, lookup
from streams.contract.events import Record
from streams.contract.ids import document_key
from streams.contract.pipeline import CHANGES, dead_letter_topic
from streams.contract.states import Recaption
from streams.contract.values import decode_vector, encode_vector
from streams.contract.writes import OutputWrite
from streams.errors import InvalidImage
from streams.images.image import decode_image
from streams.images.pool import DecodePool
from streams.kafka.producer import publish_all
from streams.kafka.topics import create_topics
from streams.models.clip import ClipEncoder
from streams.models.projection import orthogonal_projection
from streams.mongo.client import connect, state_database
from streams.mongo.store import DocumentStore
from streams.operate.on_demand import OnDemand
from streams.operate.verify import Verifier
from streams.registry.versions import Registry
from streams.settings import ClipSettings, ImageSettings
from streams.stages import processes_of
from tests.bundles import projection_bundle
from tests.captioner import tiny_captioner
from tests.command_line import CommandLine
from tests.pipelines import CLIP, MODELS, with_options
from tests.tiny import DIMENSION, write_tiny_clip

LM = "_outputs._base.conditional_lm"


def picture(red):
    data = io.BytesIO()
    Image.new("RGB", (80, 60), (red, 90, 200)).save(data, "PNG")
    return data.getvalue()


def of_picture(output, number):
    """What is made on demand names no input, as nothing is stored of it."""
    return replace(output, inputs={"img": fingerprint(picture(number))})


class World:
    """Three documents that are right, and one that carries a true error."""

    def __init__(self, settings, client, decoders):
        self.settings = settings
        self.decoders = decoders
        self.store = DocumentStore(client, settings.mongo, DEFAULT)
        self.registry = Registry(state_database(client, settings.mongo))
        clip = ClipEncoder(settings.clip).version
        self.registry.announce(CLIP.name, clip, {"dimension": DIMENSION})
        self.promote(projection_bundle(orthogonal_projection(DIMENSION, 8, seed=0)))
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
            for i, output in enumerate(self.apply(model.name, [0, 1, 2])):
                self.write(i, model, of_picture(output, i))

    def apply(self, name, documents):
        parts = (self.settings, self.registry, self.store)
        model = OnDemand(name, None, *parts, decoders=self.decoders)
        return list(model.apply(documents))

    def write(self, document_id, model, result):
        write = OutputWrite(
            document_id=document_id, source=Timestamp(5, 1), model=model, result=result
        )
        assert self.store.write_outputs([write]).written == 1

    def write_error(self, document_id, kind, version, model=CLIP):
        error = OutputError(
            type=kind, message="wrong", attempts=1, is_retryable=False, version=version
        )
        self.documents.update_one({"_id": document_id}, {"$unset": {"_outputs": 1}})
        self.write(document_id, model, error)

    def send_letter(
        self,
        document_id,
        kind="InvalidImage",
        *,
        message="wrong",
        position="0:0",
        seconds=5,
        model=CLIP.name,
    ):
        source = ("ce_clustertime", f"{seconds}.1".encode())
        letter = dead_letter_record(
            Record(key=document_key(document_id), value=b"{}", headers=[source]),
            stage="clip",
            topic=CHANGES,
            position=position,
            model=model,
            error=OutputError(type=kind, message=message, attempts=1, is_retryable=False),
        )
        publish_all([(dead_letter_topic(CHANGES), letter)], self.settings.kafka)

    def verify(self, **options):
        verifier = Verifier(self.settings, self.store, self.registry, self.decoders)
        return verifier.verify(**{"patience_seconds": 0, **options})

    def findings(self, **options):
        found = self.verify(**options)
        return {finding.document_id: finding.problem for finding in found.findings}


@pytest.fixture
def world(settings, tmp_path, decoders):
    create_topics(settings.kafka, DEFAULT)
    clip = ClipSettings(model=str(write_tiny_clip(tmp_path)), pretrained="random")
    with connect(settings.mongo) as client:
        yield World(settings.model_copy(update={"clip": clip}), client, decoders)


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
        ({f"{LM}.score": -0.001}, "conditional_lm has score -0.001, its version gives -"),
        ({f"{LM}.value": "a red dog"}, 'conditional_lm is "a red dog"'),
        ({f"{LM}.version": "0000000000000000"}, "conditional_lm has to run"),
        ({f"{LM}.features.clip": "other"}, "conditional_lm has to run"),
        ({f"{LM}.input.img": "0" * 32}, "conditional_lm was made from another image"),
        (
            {f"{CLIP.path}.format": 2},
            "clip is stored in format 2 and this release reads 1: upgrade this process",
        ),
        (
            {f"{LM}.format": 0},
            "conditional_lm is stored in format 0 and this release reads 1: `captionstream reco",
        ),
    ],
)
def test_each_kind_of_wrong_is_found(world, change, problem):
    """Fails without the comparison of `_outputs`, `problem_of_errors`, the recomputation, or
    `unreadable`."""
    world.documents.update_one({"_id": 1}, {"$set": change})
    found = world.findings()
    assert list(found) == [1]
    assert problem in found[1]


def test_projection_may_differ_in_its_last_digits_only(world):
    """Fails with the tolerance of CLIP for everything."""
    path = f"{MODELS[1].path}.value"
    row = world.documents.find_one({"_id": 1})
    vector = decode_vector(lookup(row, path))
    for share, problems in ((3e-6, 0), (1e-4, 1)):
        changed = vector + np.float32(share) * np.abs(vector).max()
        world.documents.update_one({"_id": 1}, {"$set": {path: encode_vector(changed)}})
        assert len(world.findings()) == problems


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
    """Fails without the two looks at the image in `problem_of_errors`."""
    clip = ClipEncoder(world.settings.clip).version
    kinds = {0: "InvalidImage", 1: "InvalidUrl", 2: "FetchFailed", "bad": "ModelCrashed"}
    for document_id, kind in kinds.items():
        world.write_error(document_id, kind, clip)
        world.send_letter(document_id, kind)
    found = world.findings()
    assert "it has ModelCrashed, and yet: `img`" in found.pop("bad")
    assert found == {
        i: f"it carries {kinds[i]}, and yet its image can be decoded" for i in range(3)
    }


def test_true_errors_are_right(world):
    """Fails when `_check` reads outputs of what is no image."""
    for change in ({"$set": {"img": 5}}, {"$unset": {"img": 1}}):
        world.documents.update_one({"_id": "bad"}, change)
        assert world.findings() == {}


def test_errors_that_are_not_the_images_fault_are_right_and_counted(world):
    """Fails without `is not None` in `_check`, or without the count in `verify`."""
    clip = ClipEncoder(world.settings.clip).version
    for i, kind in enumerate(["ModelCrashed", "ModelHung", "InvalidId"]):
        world.write_error(i, kind, clip)
        if kind != "InvalidId":
            world.send_letter(i, kind)
    found = world.verify()
    assert not found.findings
    assert found.errors == {"InvalidImage": 1, "ModelCrashed": 1, "ModelHung": 1, "InvalidId": 1}


def test_refused_output_is_reported_by_the_sink(world):
    """Fails without "" in `_is_reported`: the sink applies no model."""
    world.write_error(1, "WriteRejected", ClipEncoder(world.settings.clip).version)
    world.send_letter(1, "WriteRejected", model="")
    assert world.findings() == {}


def test_caption_of_an_embedding_that_finds_no_room_is_right(world):
    """Fails without `lay_over` in `_batches`, or without `is_refused`: it cannot be made again."""
    world.documents.update_one({"_id": 1}, {"$unset": {CLIP.path: 1}})
    assert world.findings() == {1: "clip has to run"}
    version = ClipEncoder(world.settings.clip).version
    error = OutputError(
        type="WriteRejected", message="", attempts=1, is_retryable=False, version=version
    )
    world.store.no_room.keep(
        OutputWrite(document_id=1, source=Timestamp(5, 1), model=CLIP, result=error)
    )
    world.send_letter(1, "WriteRejected", model="")
    assert world.findings() == {}


def test_projection_that_fails_beside_a_caption_is_right(world):
    """Fails when an error stops what does not read it."""
    projection = MODELS[1]
    version = lookup(world.documents.find_one({"_id": 1}), f"{projection.path}.version")
    world.documents.update_one({"_id": 1}, {"$unset": {projection.path: 1}})
    error = OutputError(
        type="ModelFailed", message="", attempts=3, is_retryable=True, version=version
    )
    world.write(1, projection, error)
    world.send_letter(1, "ModelFailed", model=projection.name)
    assert world.findings() == {}


def test_letter_about_something_else_is_none(world):
    """Fails without the type or the source in `Failure`, or without the look at the error's age."""
    world.documents.insert_one({"_id": "worse", "img": b"no image"})
    world.write_error("worse", "InvalidImage", ClipEncoder(world.settings.clip).version)
    world.send_letter("worse", "ModelFailed")
    world.send_letter("worse", seconds=4)
    assert world.findings() == {"worse": "clip failed, and no dead letter says so"}

    written = world.documents.find_one({"_id": "worse"})["_outputs"]["img"]["clip"]["at"]
    kept = timedelta(hours=world.settings.kafka.dead_letter_retention_hours + 1)
    world.documents.update_one({"_id": "worse"}, {"$set": {f"{CLIP.path}.at": written - kept}})
    assert world.findings() == {}, "its letter may be gone"

    world.documents.update_one({"_id": "worse"}, {"$set": {f"{CLIP.path}.at": written}})
    world.send_letter("worse")
    assert world.findings() == {}


def test_caption_of_an_image_that_is_gone_is_found(world):
    row = world.documents.find_one({"_id": 1})
    world.documents.update_one(
        {"_id": "bad"}, {"$set": {LM: row["_outputs"]["_base"]["conditional_lm"]}}
    )
    assert world.findings() == {"bad": "conditional_lm was made from another image"}


def test_document_that_is_finished_meanwhile_is_right(world):
    """Fails when findings are not looked at again."""
    world.documents.update_one({"_id": 0}, {"$unset": {LM: 1}})

    def repair(_):
        [made] = world.apply("conditional_lm", [0])
        world.write(0, MODELS[2], of_picture(made, 0))

    assert world.findings(patience_seconds=30, watch=repair) == {}


def test_output_that_a_promotion_left_is_checked_with_its_own_version(world):
    clip = ClipEncoder(world.settings.clip).version
    world.promote(tiny_captioner(seed=4, clip_version=clip), recaption=Recaption.NONE)
    assert world.findings() == {}
    world.documents.update_one({"_id": 1}, {"$set": {f"{LM}.value": "a red dog"}})
    assert list(world.findings()) == [1]


def test_caption_is_checked_with_the_options_that_its_version_names(world):
    """Fails without options in `output_version`, in `Gru.load`, or without the look at them."""
    clip = ClipEncoder(world.settings.clip).version
    world.promote(tiny_captioner(seed=4, clip_version=clip), recaption=Recaption.NONE)
    [greedy] = world.apply(MODELS[2].name, [1])
    world.write(1, MODELS[2], of_picture(greedy, 1))
    wide = with_options(MODELS[2].name, beam_width=4)
    client = world.store.collection.database.client
    world.store = DocumentStore(client, world.settings.mongo, wide)
    assert world.findings() == {}, "it was made with options that are no longer declared"
    [made] = world.apply(MODELS[2].name, [1])
    world.write(1, wide.models[MODELS[2].name], of_picture(made, 1))  # by the same weights
    assert world.findings() == {}
    world.documents.update_one({"_id": 1}, {"$set": {f"{LM}.value": greedy.value}})
    assert "its version gives" in world.findings()[1]


def test_limits_of_the_settings_hold_here_too(world):
    small = ImageSettings(max_pixels=100)
    with pytest.raises(InvalidImage):
        decode_image(picture(1), small)
    with closing(DecodePool(small, workers=1)) as world.decoders:
        assert set(world.findings()) == {0, 1, 2}


def test_command_says_what_is_wrong_and_exits_with_1(world, monkeypatch, capsys):
    """As if all processes ran and had nothing to do."""
    state = state_database(world.store.collection.database.client, world.settings.mongo)
    future = {"format": 1, "position": {"cluster_time": Timestamp(2**31, 1)}}
    state["positions"].update_one({"_id": world.store.tenant}, {"$set": future}, upsert=True)
    captionstream = CommandLine(app, monkeypatch, capsys, world.settings)

    for stage in processes_of(DEFAULT):
        # From the future: these three checks may take longer than a report counts.
        later = {"$add": ["$$NOW", 600_000]}
        row = {"format": 1, "stage": stage, "url": stage, "is_ready": True, "at": later}
        state["processes"].update_one({"_id": stage}, [{"$set": row}], upsert=True)

    done = captionstream("verify", "--patience", "0")
    assert done.code == 0
    assert done.out.endswith("\n4 documents checked, 0 wrong\n")
    world.documents.update_one({"_id": 1}, {"$set": {f"{LM}.value": "a red dog"}})
    done = captionstream("verify", "--patience", "0")
    assert done.code == 1
    assert done.out.endswith("\n4 documents checked, 1 wrong\n")
    assert '\n1: conditional_lm is "a red dog"' in done.out
    found = json.loads(captionstream("verify", "--patience", "0", "--json").out.splitlines()[-1])
    assert [row["id"] for row in found["wrong"]] == [1]
    assert found["standing_still"] == {}
