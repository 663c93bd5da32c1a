"""Where a document that is published again enters the pipeline, and with what."""

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, OutputError, error_fields, output_fields
from streams.contract.events import DocumentChanged, ModelApplied, Origin
from streams.contract.pipeline import CHANGES, compile_pipeline
from streams.contract.states import Serving
from streams.reconcile.entry import entry_of, stored_source

BEFORE, SOURCE = Timestamp(50, 1), Timestamp(100, 1)
VERSIONS = {"clip": "c1", "clip_projection": "p1", "conditional_lm": "l1"}


def serving(pipeline=DEFAULT, **versions):
    return Serving(pipeline=pipeline, versions={**VERSIONS, **versions})


def document(pipeline=DEFAULT, *, inputs=None, sources=None, without=(), failed=(), **versions):
    """A finished document, but for what is said otherwise."""
    versions = {**VERSIONS, **versions}
    found = {"_id": 7, "_outputs": {}}
    for name, model in pipeline.models.items():
        if name in without:
            continue
        source = (sources or {}).get(name, SOURCE)
        output = Output(
            value=np.ones(2, np.float32),
            version=versions[name],
            features={read: versions[read] for read in model.reads},
            inputs={field: (inputs or {}).get(name, "i1") for field in model.inputs},
        )
        error = OutputError(
            type="X", message="", attempts=1, is_retryable=True, version=versions[name]
        )
        fields = output_fields(output, source=source)
        if name in failed:
            fields = error_fields(error, source=source)
        found["_outputs"].setdefault(model.key, {})[name] = fields
    return found


def carried(entry):
    """The topic, the model that seems to be applied last, and what the event carries."""
    topic, event = entry
    assert isinstance(event, ModelApplied)
    assert (event.document_id, event.origin) == (7, Origin.RECONCILE)
    return topic, event.model, set(event.outputs)


def begins_at(entry, source):
    """Whether it is a change of that time, on the topic of the changes."""
    topic, event = entry
    assert event == DocumentChanged(document_id=7, source=source, origin=Origin.RECONCILE)
    return topic == CHANGES


def test_promotion_of_the_last_model_enters_before_it_and_reads_no_image():
    """Fails when a repeat begins at the beginning."""
    found = entry_of(document(), serving(conditional_lm="l2"), BEFORE)
    assert carried(found) == ("clip_projection", "clip_projection", {*VERSIONS})
    assert found[1].source == SOURCE
    assert found[1].outputs["clip"].inputs == {"img": "i1"}


def test_promotion_of_a_model_on_the_way_enters_before_it():
    found = entry_of(document(), serving(clip_projection="p2"), BEFORE)
    assert carried(found) == ("clip", "clip", {*VERSIONS})


def test_of_several_models_the_first_one_decides():
    found = entry_of(document(), serving(clip_projection="p2", conditional_lm="l2"), BEFORE)
    assert carried(found)[:2] == ("clip", "clip")


def test_what_is_missing_is_entered_before():
    found = entry_of(document(without={"conditional_lm"}), serving(), BEFORE)
    assert carried(found) == ("clip_projection", "clip_projection", {"clip", "clip_projection"})


def test_failure_is_tried_again_from_its_carrier_on():
    """Fails without `failed_models`: nothing is pending."""
    found = entry_of(document(failed={"conditional_lm"}), serving(), BEFORE)
    assert carried(found) == ("clip_projection", "clip_projection", {"clip", "clip_projection"})


def test_output_that_is_only_on_the_way_may_be_missing():
    """The projection failed for good, or has no version; the captioner does not read it.

    Fails when the event says that a model was applied whose output it does not carry.
    """
    stored = document(failed={"clip_projection"})
    found = entry_of(stored, serving(conditional_lm="l2"), BEFORE)
    assert carried(found) == ("clip_projection", "clip", {"clip", "conditional_lm"})


def test_first_model_begins_at_the_beginning():
    assert begins_at(entry_of(document(), serving(clip="c2"), BEFORE), SOURCE)
    assert begins_at(entry_of(document(failed={"clip"}), serving(), BEFORE), SOURCE)


def test_document_that_is_finished_begins_at_the_beginning():
    assert begins_at(entry_of(document(), serving(), BEFORE), SOURCE)


def test_document_without_outputs_begins_at_the_beginning_from_before_the_scan():
    assert begins_at(entry_of({"_id": 7}, serving(), BEFORE), BEFORE)


def test_event_is_of_the_newest_change_that_something_stored_is_of():
    """Fails with the oldest: what is made would be kept away by what is stored."""
    stored = document(sources={"clip": Timestamp(90, 1), "conditional_lm": Timestamp(110, 2)})
    assert stored_source(stored, DEFAULT) == Timestamp(110, 2)
    found = entry_of(stored, serving(conditional_lm="l2"), BEFORE)
    assert found[1].source == Timestamp(110, 2)
    assert begins_at(entry_of(stored, serving(clip="c2"), BEFORE), Timestamp(110, 2))


def test_what_is_of_another_image_than_the_upstream_is_not_carried():
    """Fails when all that is stored is carried: it would be sent on as the output of this image."""
    stored = document(inputs={"conditional_lm": "i2"})
    found = entry_of(stored, serving(clip_projection="p2"), BEFORE)
    assert carried(found) == ("clip", "clip", {"clip", "clip_projection"})


def test_upstream_that_cannot_be_read_is_made_again():
    """Fails without the look at what is read: the model would get no features."""
    stored = document()
    stored["_outputs"]["img"]["clip"]["value"] = 5 + 1j
    assert begins_at(entry_of(stored, serving(conditional_lm="l2"), BEFORE), SOURCE)


FAN = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="boxes", kind="boxes:Boxes", key="img", features={"img": "clip"}),
        Declaration(name="line", kind="gru", features={"img": "boxes"}),
        Declaration(name="text", kind="gru", features={"img": "boxes"}, fields=("title",)),
        Declaration(name="mood", kind="linear", features={"img": "clip"}),
    ]
)
FAN_VERSIONS = {"boxes": "b1", "line": "n1", "text": "t1", "mood": "m1"}


@pytest.mark.parametrize(
    ("moved", "carrier"),
    [
        (["line"], "boxes"),
        (["line", "text"], "boxes"),
        (["line", "mood"], "clip"),
        (["boxes", "mood"], "clip"),
        (["mood"], "clip"),
    ],
)
def test_several_models_are_entered_where_their_ways_part(moved, carrier):
    """Fails with the carrier of the first one: the others would get no event."""
    stored = document(FAN, **FAN_VERSIONS)
    now = serving(FAN, **{**FAN_VERSIONS, **dict.fromkeys(moved, "new")})
    assert carried(entry_of(stored, now, BEFORE))[:2] == (carrier, carrier)


def test_what_lies_on_no_common_way_travels_along_if_it_is_of_the_same_inputs():
    stored = document(FAN, **FAN_VERSIONS)
    _, event = entry_of(stored, serving(FAN, **{**FAN_VERSIONS, "line": "n2"}), BEFORE)
    assert set(event.outputs) == {"clip", *FAN_VERSIONS}
    assert event.outputs["text"].inputs == {"img": "i1", "title": "i1"}


def test_two_roots_have_no_common_way():
    pipeline = compile_pipeline(
        [
            Declaration(name="clip", kind="clip", key="img"),
            Declaration(name="mood", kind="linear", key="img", features={"img": "clip"}),
            Declaration(name="words", kind="words:Words", key="title"),
            Declaration(name="topic", kind="linear", key="title", features={"title": "words"}),
        ]
    )
    versions = {"clip": "c1", "mood": "m1", "words": "w1", "topic": "t1"}
    stored = document(pipeline, **versions)
    now = serving(pipeline, **{**versions, "mood": "m2", "topic": "t2"})
    assert begins_at(entry_of(stored, now, BEFORE), SOURCE)
    now = serving(pipeline, **{**versions, "topic": "t2"})
    assert carried(entry_of(stored, now, BEFORE))[:2] == ("words", "words")
