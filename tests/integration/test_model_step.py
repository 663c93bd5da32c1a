"""The step of models that read documents, on a real MongoDB: a tiny CLIP, and a user's classes."""

import base64
import http.server
import io
import socket
import threading
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

import numpy as np
import pytest
import torch
from bson.timestamp import Timestamp
from PIL import Image

from streams import metrics
from streams.backoff import Backoff
from streams.contract.dead_letters import DeadLetter
from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, OutputError, field_fingerprint, fingerprint
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.pipeline import compile_pipeline
from streams.contract.versions import output_version
from streams.contract.writes import OutputWrite
from streams.errors import FetchFailed, InvalidEvent, InvalidImage, InvalidUrl, ModelFailed
from streams.images import turns
from streams.images.fetcher import Fetcher
from streams.images.find import InputSource
from streams.images.pool import DecodePool
from streams.images.turns import FetchQueue
from streams.models.clip import ClipEncoder
from streams.models.kinds.clip import ClipPredictor
from streams.models.kinds.find import kind_of
from streams.mongo.client import connect
from streams.mongo.store import DocumentStore
from streams.settings import ClipSettings, FetchSettings, ImageSettings
from streams.stages.model_step import ModelStep, Ready
from streams.stages.outcome import Failed, Ok, Result, Waiting
from streams.stages.sink import Sink
from tests.integration.conftest import publishing
from tests.pipelines import CLIP, CLIP_PROJECTION
from tests.tiny import DIMENSION, write_tiny_clip
from tests.waiting import DEADLINE_SECONDS


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.set_num_threads(1)
    config = write_tiny_clip(tmp_path_factory.mktemp("clip"))
    return ClipEncoder(ClipSettings(model=str(config), pretrained="random"))


@pytest.fixture
def store(settings):
    with connect(settings.mongo) as client:
        yield DocumentStore(client, settings.mongo, DEFAULT)


@pytest.fixture(scope="module")
def decoders():
    pool = DecodePool(
        ImageSettings(max_bytes=100_000, max_seconds=5), workers=2, decode="tests.killers:decode"
    )
    yield pool
    pool.close()


@pytest.fixture
def fetcher():
    return Fetcher(FetchSettings(allow_hosts="localhost", max_seconds=5), max_bytes=100_000)


@pytest.fixture
def images(store, fetcher):
    return InputSource(
        CLIP, store, FetchQueue(fetcher, FetchSettings()), ImageSettings(max_bytes=100_000)
    )


class Patient(ModelStep):
    """Comes again with what waits, as the stage does."""

    def run(self, events):
        outcomes = super().run(events)
        for i, outcome in enumerate(outcomes):
            if isinstance(outcome, Waiting):
                wait([outcome.until], DEADLINE_SECONDS)
                [outcomes[i]] = super().run([outcome.event])
        return outcomes


@pytest.fixture
def step(images, encoder, decoders):
    return clip_step(Patient, images, encoder, decoders)


def clip_step(kind, images, encoder, decoders):
    ready = Ready(version=encoder.version, predictor=ClipPredictor(encoder), features={})
    return kind(CLIP, DEFAULT, lambda: ready, lambda: True, source=images, decoders=decoders)


@pytest.fixture
def source(store):
    return now(store)


def now(store):
    return store.collection.database.client.admin.command("ping")["operationTime"]


def picture(red):
    data = io.BytesIO()
    Image.new("RGB", (80, 60), (red, 90, 200)).save(data, "PNG")
    return data.getvalue()


def changed(document_id, source):
    return DocumentChanged(document_id=document_id, source=source)


def model_calls():
    return metrics.MODEL_CALLS.labels(CLIP.name)._value.get()


def test_embedding_is_that_of_the_encoder_alone(step, store, encoder, source):
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    at = datetime.now(UTC)
    [outcome] = step.run([replace(changed(1, source), changed_at=at)])
    expected = encoder.encode(encoder.preprocess(Image.open(io.BytesIO(picture(10)))).unsqueeze(0))
    assert outcome.result is Result.DONE
    assert inputs_of([outcome]) == [fingerprint(picture(10))]
    assert outcome.event.changed_at == at
    assert np.allclose(outcome.event.outputs["clip"].value, expected[0], atol=1e-6)


def test_every_bad_image_of_a_batch_fails_alone(step, store, source):
    bad = {
        "none": {},
        "text": {"img": "a string"},
        "number": {"img": 5},
        "url": {"img": {"url": 5}},
        "empty": {"img": b""},
        "junk": {"img": b"no image"},
        "truncated": {"img": picture(1)[:60]},
        "large": {"img": b"x" * 100_001},
    }
    rows = [{"_id": name, **fields} for name, fields in bad.items()]
    rows[3:3] = [{"_id": number, "img": picture(number)} for number in range(8)]
    store.collection.insert_many(rows)
    outcomes = step.run([changed(row["_id"], source) for row in rows])
    for row, outcome in zip(rows, outcomes, strict=True):
        if row["_id"] in bad:
            assert isinstance(outcome.error, InvalidImage), row["_id"]
            assert outcome.version == step.versions()["clip"]
        else:
            assert outcome.result is Result.DONE
            assert outcome.event.document_id == row["_id"]


def test_same_image_and_version_reuse_the_stored_output(step, store, source):
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    [first] = step.run([changed(1, source)])
    store.write_outputs([write(1, CLIP, first.event, source)])
    before = model_calls()
    later = Timestamp(source.time, source.inc + 1)
    [again] = step.run([DocumentChanged(document_id=1, source=source, origin=Origin.RECONCILE)])
    assert again.result is Result.REUSED
    assert again.event.origin is Origin.RECONCILE
    assert np.array_equal(again.event.outputs["clip"].value, first.event.outputs["clip"].value)
    assert model_calls() == before
    store.collection.update_one({"_id": 1}, {"$set": {"img": picture(11)}})
    now = store.collection.database.client.admin.command("ping")["operationTime"]
    [other] = step.run([changed(1, max(later, now))])
    assert other.result is Result.DONE
    assert model_calls() == before + 1


def test_image_whose_change_was_never_seen_wins_over_late_records_of_the_one_before(
    step, store, source
):
    """Fails without `_source` in `made.py`: a replay would bring the old embedding back."""
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    [first] = step.run([changed(1, source)])
    store.write_outputs([write(1, CLIP, first.event, source)])
    store.collection.update_one({"_id": 1}, {"$set": {"img": picture(11)}})
    repeat = DocumentChanged(document_id=1, source=source, origin=Origin.RECONCILE)
    [second] = step.run([repeat])
    assert source < second.event.source <= now(store), "that of the change, or earlier"
    sink = Sink(store)
    sink.run([second.event])
    sink.run([first.event])
    stored = store.collection.find_one({"_id": 1})["_outputs"]["img"]["clip"]
    assert stored["input"] == {"img": fingerprint(picture(11))}


def test_valid_outputs_downstream_travel_with_the_event(step, store, source):
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    [first] = step.run([changed(1, source)])
    projected = Output(
        value=np.ones(2, np.float32),
        version="p1",
        features={"clip": "c"},
        inputs=first.event.outputs["clip"].inputs,
    )
    event = ModelApplied(
        document_id=1,
        source=source,
        origin=Origin.LIVE,
        model="clip_projection",
        outputs={"clip_projection": projected},
    )
    store.write_outputs([write(1, CLIP_PROJECTION, event, source)])
    [again] = step.run([changed(1, source)])
    assert again.event.outputs["clip_projection"].version == "p1"


def test_deleted_document_is_finished_without_a_model(step, source):
    before = model_calls()
    tombstone = DocumentDeleted(document_id=2, source=source)
    gone, deleted = step.run([changed(1, source), tombstone])
    assert gone == Ok(event=None, result=Result.DELETED)
    assert deleted == Ok(event=tombstone, result=Result.DELETED)
    assert model_calls() == before


def test_image_that_kills_or_hangs_its_decoder_fails_alone(step, store, source):
    """Fails without the second start of a worker in DecodePool.decode."""
    images = [picture(1), b"segfault", picture(2), b"hang", picture(3), b"exit", picture(4)]
    rows = [{"_id": number, "img": image} for number, image in enumerate(images)]
    store.collection.insert_many(rows)
    outcomes = step.run([changed(row["_id"], source) for row in rows])
    assert [isinstance(outcome, Ok) for outcome in outcomes] == [True, False] * 3 + [True]
    assert [str(outcome.error) for outcome in outcomes[1::2]] == [
        "the decoder died of signal 11 (SIGSEGV) on this image (8 bytes)",
        "decoding took longer than 5 s (CAPTIONSTREAM_IMAGE__MAX_SECONDS)",
        "the decoder ended with code 3 on this image (4 bytes)",
    ]
    assert all(isinstance(outcome.error, InvalidImage) for outcome in outcomes[1::2])


def test_numbers_that_are_not_finite_fail_as_a_broken_model(
    step, store, encoder, source, monkeypatch
):
    """Fails without the check for finite numbers in `_outcome`."""
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    monkeypatch.setattr(encoder, "encode", lambda x: np.full((len(x), DIMENSION), np.nan))
    [outcome] = step.run([changed(1, source)])
    assert isinstance(outcome.error, ModelFailed)


def test_dead_letter_is_refused(step, source):
    """Only the sink reads them."""
    error = OutputError(type="E", message="m", attempts=1, is_retryable=False)
    letter = DeadLetter(
        stage="clip",
        topic="changes",
        position="0:1",
        model="clip",
        error=error,
        at=datetime.now(UTC),
        key=b"1",
        source=source,
    )
    [outcome] = step.run([letter])
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, InvalidEvent)


OWN = "tests.unit.models.kinds.own_models"
#: Two roots, one behind the other; a model that reads both and a field; one that reads an image and
#: an embedding of it.
HOUSE = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="colour", kind=f"{OWN}:Colour", key="img", after=["clip"]),
        Declaration(name="shout", kind=f"{OWN}:Shout", key="title"),
        Declaration(
            name="headline",
            kind=f"{OWN}:Headline",
            features={"img": "clip", "colour": "colour"},
            fields=["title"],
        ),
        Declaration(name="twice", kind=f"{OWN}:Twice", features={"v": "clip"}, fields=["img"]),
    ]
)


@pytest.fixture
def own_step(settings, client, fetcher, decoders):
    """Make the step of a user's model in that pipeline, with its default version."""

    def make(name):
        model = HOUSE.models[name]
        kind = kind_of(model.declaration.kind)
        bundle = kind.default_bundle(model.declaration, {"clip": DIMENSION})
        version = output_version(model.declaration, bundle.version)
        predictor = kind.load(model.declaration, bundle)
        ready = Ready(version=version, predictor=predictor, features=bundle.manifest.features)
        house = DocumentStore(client, settings.mongo, HOUSE)
        fetches = FetchQueue(fetcher, FetchSettings())
        limits = ImageSettings(max_bytes=100_000)
        return Patient(
            model,
            HOUSE,
            lambda: ready,
            lambda: True,
            source=InputSource(model, house, fetches, limits),
            decoders=decoders if model.has_image else None,
        )

    return make


def clip_applied(source, image, *, url=None, document_id=1, **outputs):
    value = np.ones(DIMENSION, np.float32)
    made = Output(value=value, version="c1", inputs={"img": fingerprint(image)}, url=url)
    return ModelApplied(
        document_id=document_id,
        source=source,
        origin=Origin.LIVE,
        model="clip",
        outputs={"clip": made, **outputs},
    )


def test_model_of_a_field_runs_when_that_field_was_changed(own_step, store, source):
    """Fails when outputs are compared by their versions alone."""
    shout = own_step("shout")
    store.collection.insert_one({"_id": 1, "title": "a"})
    [first] = shout.run([changed(1, source)])
    assert first.event.outputs["shout"].value == "A"
    assert first.event.outputs["shout"].inputs == {"title": field_fingerprint("a")}
    store.write_outputs([write(1, HOUSE.models["shout"], first.event, source)])
    later = now(store)
    assert [o.result for o in shout.run([changed(1, later)])] == [Result.REUSED]
    store.collection.update_one({"_id": 1}, {"$set": {"title": "b"}})
    [again] = shout.run([changed(1, source)])
    assert again.event.outputs["shout"].value == "B"
    assert again.event.source > source, "that of the first record must not win over it"


def test_model_behind_another_root_reads_the_image_itself(own_step, store, source):
    """It gets what the other made, or the change itself where that failed."""
    colour = own_step("colour")
    store.collection.insert_one({"_id": 1, "img": picture(10)})
    behind, past = colour.run([clip_applied(source, picture(10)), changed(1, source)])
    assert behind.event.outputs.keys() == {"clip", "colour"}
    assert past.event.outputs.keys() == {"colour"}
    for outcome in (behind, past):
        assert outcome.event.outputs["colour"].value["blue"] == 200.0
        assert outcome.event.outputs["colour"].inputs == {"img": fingerprint(picture(10))}


def test_join_reads_features_and_a_field(own_step, store, source):
    headline = own_step("headline")
    store.collection.insert_one({"_id": 1, "img": picture(10), "title": "Sea"})
    colour = Output(value={"red": 1}, version="k1", inputs={"img": fingerprint(picture(10))})
    event = clip_applied(source, picture(10), colour=colour)
    [made] = headline.run([event])
    output = made.event.outputs["headline"]
    assert output.value == f"Sea: {DIMENSION}.0"
    assert output.features == {"clip": "c1", "colour": "k1"}
    assert output.inputs == {"img": fingerprint(picture(10)), "title": field_fingerprint("Sea")}
    [again] = headline.run([made.event])
    assert again.result is Result.REUSED
    store.collection.update_one({"_id": 1}, {"$set": {"title": "Lake"}})
    [other] = headline.run([replace(made.event, source=now(store))])
    assert other.event.outputs["headline"].value.startswith("Lake")
    store.collection.delete_one({"_id": 1})
    assert headline.run([event]) == [Ok(event=None, result=Result.DELETED)]


def test_image_that_was_changed_after_its_embedding_is_not_joined_with_it(own_step, store, source):
    """The event of that change comes. Fails when one of both fingerprints wins."""
    store.collection.insert_one({"_id": 1, "img": picture(11)})
    before, after = own_step("twice").run(
        [clip_applied(source, picture(10)), clip_applied(source, picture(11))]
    )
    assert before == Ok(event=None, result=Result.SUPERSEDED)
    assert after.result is Result.DONE


def test_image_behind_a_url_counts_as_the_one_that_was_fetched_first(own_step, store, source):
    """Its server may give other bytes each time. Fails without `known` in `inputs_of`."""
    with web({"a.png": picture(11)}) as (url, _):
        address = f"{url}/a.png"
        store.collection.insert_one({"_id": 1, "img": {"url": address}})
        event = clip_applied(source, picture(10), url=address)
        for name in ("twice", "colour"):
            [outcome] = own_step(name).run([event])
            output = outcome.event.outputs[name]
            assert output.inputs == {"img": fingerprint(picture(10))}
            assert output.url == address


def write(document_id, model, event, source):
    return OutputWrite(
        document_id=document_id,
        source=source,
        model=model,
        result=event.outputs[model.name],
    )


def inputs_of(outcomes):
    """The images that embeddings were made of."""
    return [outcome.event.outputs["clip"].inputs["img"] for outcome in outcomes]


@contextmanager
def web(files):
    """A web server of these bytes by name, that counts what it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = files.get(self.path[1:])
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://localhost:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_image_behind_a_url_is_fetched_once_for_a_batch(step, store, source):
    """Fails without `begun` in `InputSource.find`."""
    files = {"a.png": picture(10), "b.png": picture(20), "c.png": b"no image"}
    with web(files) as (url, asked):
        store.collection.insert_many(
            {"_id": i, "img": {"url": f"{url}/{name}.png"}} for i, name in enumerate("aabcd")
        )
        outcomes = step.run([changed(i, source) for i in range(5)])
        assert inputs_of(outcomes[:3]) == [fingerprint(picture(red)) for red in (10, 10, 20)]
        assert isinstance(outcomes[3].error, InvalidImage)
        assert isinstance(outcomes[4].error, InvalidUrl)
        assert sorted(asked) == ["/a.png", "/b.png", "/c.png", "/d.png"]

        # Another URL, and other bytes behind the same one, both mean another embedding.
        store.write_outputs(
            [write(i, CLIP, outcome.event, source) for i, outcome in enumerate(outcomes[:3])]
        )
        store.collection.update_one({"_id": 0}, {"$set": {"img.url": f"{url}/b.png"}})
        files["b.png"] = picture(30)
        later = now(store)
        again = step.run([changed(i, later) for i in range(3)])
        assert [o.result for o in again] == [Result.DONE, Result.REUSED, Result.DONE]
        assert inputs_of(again) == [fingerprint(picture(red)) for red in (30, 10, 30)]


@pytest.mark.parametrize("origin", [Origin.COPY, Origin.RECONCILE, Origin.REPLAY])
def test_repeat_does_not_fetch_again(step, store, source, origin, monkeypatch):
    """Fails without `InputSource._stored`: a dead URL would take its caption along."""
    monkeypatch.setattr(turns, "_AGAIN", Backoff(0.01, 1))
    with web({"a.png": picture(10)}) as (url, _):
        store.collection.insert_one({"_id": 1, "img": {"url": f"{url}/a.png"}})
        [first] = step.run([changed(1, source)])
        store.write_outputs([write(1, CLIP, first.event, source)])
    repeat = DocumentChanged(document_id=1, source=now(store), origin=origin)
    [redelivered, repeated, live] = [
        step.run([event])[0] for event in (changed(1, source), repeat, changed(1, now(store)))
    ]
    assert redelivered.result is repeated.result is Result.REUSED
    assert inputs_of([repeated]) == [fingerprint(picture(10))]
    assert repeated.event.outputs["clip"].url == f"{url}/a.png"
    assert isinstance(live.error, FetchFailed)

    # What was made from another URL, or from an image in the document, does not count.
    store.collection.update_one({"_id": 1}, {"$set": {"img.url": f"{url}/b.png"}})
    assert isinstance(step.run([repeat])[0].error, FetchFailed)
    store.collection.update_one({"_id": 1}, {"$unset": {"_outputs.img.clip.url": 1}})
    assert isinstance(step.run([repeat])[0].error, FetchFailed)


def test_image_in_the_batch_of_a_silent_url_does_not_wait_for_it(
    images, encoder, decoders, store, source
):
    """Fails when `find` waits for what it has begun."""
    step = clip_step(ModelStep, images, encoder, decoders)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://localhost:{silent.getsockname()[1]}/x"
        store.collection.insert_many(
            [{"_id": 1, "img": {"url": address}}, {"_id": 2, "img": picture(1)}]
        )
        slow, good = step.run([changed(1, source), changed(2, source)])
        assert isinstance(slow, Waiting)
        assert good.result is Result.DONE
        [again] = step.run([slow.event])
        assert again.until is slow.until, "it is fetched once"
    assert isinstance(slow.until.result(DEADLINE_SECONDS), FetchFailed)


@pytest.mark.parametrize("head", ["data:image/png;base64", "DATA:;base64", "data:image/png"])
def test_data_url_is_the_image_it_holds(step, store, source, head):
    """Fails without `stored_image`: it would be fetched."""
    image = picture(10)
    text = base64.b64encode(image).decode() if "base64" in head else quote(image)
    store.collection.insert_one({"_id": 1, "img": {"url": f"{head},{text}"}})
    [outcome] = step.run([changed(1, source)])
    assert outcome.result is Result.DONE
    assert inputs_of([outcome]) == [fingerprint(image)]
    assert outcome.event.outputs["clip"].url is None, "nobody stores it twice"


def test_server_that_is_away_fails_its_own_document_and_may_pass(step, store, source):
    store.collection.insert_many(
        [{"_id": 1, "img": {"url": "http://localhost:1/x"}}, {"_id": 2, "img": picture(1)}]
    )
    away, good = step.run([changed(1, source), changed(2, source)])
    assert isinstance(away.error, FetchFailed)
    assert away.error.is_retryable
    assert good.result is Result.DONE


def test_id_that_is_deleted_and_used_again_gets_the_outputs_of_its_last_image(
    settings, client, documents, published, step, store
):
    """Fails without the order of sources in `update_of`, or with `upsert`.

    From MongoDB to `sink`; what was made before the delete arrives at any time after it.
    """

    def sink(outcomes):
        for event in [outcome.event for outcome in outcomes if outcome.event is not None]:
            Sink(store).run([event])

    with publishing(settings, client):
        documents.insert_one({"_id": 1, "img": picture(1)})
        published.wait_for(1, ["live"])
        made = step.run(published.events())
        documents.update_one({"_id": 1}, {"$set": {"img": picture(2)}})
        documents.delete_one({"_id": 1})
        documents.insert_one({"_id": 1, "img": picture(3)})
        published.wait_for(1, ["live", "live", "delete", "live"])
        made += step.run(published.events())
        for order in (made, made[::-1]):
            documents.update_one({"_id": 1}, {"$unset": {"_outputs": 1}})
            sink(order)
            stored = documents.find_one({"_id": 1})["_outputs"]["img"]["clip"]
            assert stored["input"] == {"img": fingerprint(picture(3))}
            assert stored["source"] == published.events()[-1].source

        for red in (4, 5):
            documents.update_one({"_id": 1}, {"$set": {"img": picture(red)}})
        documents.delete_one({"_id": 1})
        published.wait_for(1, ["live", "live", "live", "delete"])
        sink([*step.run(published.events()), *made])
        assert documents.find_one({"_id": 1}) is None
