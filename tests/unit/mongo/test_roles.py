"""Roles follow the pipeline: who reads documents, and who writes versions."""

import pytest

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline
from streams.mongo.roles import role_name, roles, script
from streams.settings import MongoSettings

SETTINGS = MongoSettings()


def may(pipeline, name, action, collection):
    granted = roles(SETTINGS, pipeline)[role_name(name, SETTINGS)]
    return any(
        action in privilege["actions"]
        for privilege in granted
        if privilege["resource"]["collection"] == collection
    )


def test_every_process_of_a_pipeline_has_a_role():
    """Fails with the names of the default pipeline: a further model could not be started."""
    own = Declaration(name="own", kind="house.models:Own", features={"img": "clip"})
    names = [*roles(SETTINGS, compile_pipeline([*DEFAULT.declarations, own]))]
    assert names == [
        f"captionstream.captions.documents.{name}"
        for name in (
            *("publisher", "clip", "clip_projection", "conditional_lm", "own", "sink"),
            *("producer", "trainer", "operator"),
        )
    ]


@pytest.mark.parametrize(
    ("kind", "fields", "reads_documents", "publishes"),
    [
        ("gru", (), False, False),
        ("gru", ("title",), True, False),
        ("linear", (), False, True),
        ("house.models:Own", ("title",), True, True),
    ],
)
def test_a_model_may_what_its_declaration_needs(kind, fields, reads_documents, publishes):
    own = Declaration(name="own", kind=kind, features={"img": "clip"}, fields=fields)
    pipeline = compile_pipeline([*DEFAULT.declarations, own])
    assert may(pipeline, "own", "find", "documents") is reads_documents
    assert may(pipeline, "own", "insert", "model_versions") is publishes
    assert may(pipeline, "own", "insert", "model_files.chunks") is publishes
    assert may(pipeline, "own", "find", "model_files.chunks")


def test_the_script_names_the_role_of_the_sink():
    """Fails when it is found by its place: with another pipeline that is another role."""
    one = compile_pipeline(DEFAULT.declarations[:1])
    assert 'roles: ["captionstream.captions.documents.sink"]' in script(roles(SETTINGS, one))
