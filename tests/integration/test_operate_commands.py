"""`status`, `wait` and `reconcile` without a running stack."""

import pytest

from streams.cli import app
from streams.mongo.client import state_database
from streams.registry.versions import Registry
from tests.command_line import CommandLine
from tests.pipelines import CLIP


@pytest.fixture
def unfinished(client, settings, documents):
    """Two documents that a version of CLIP has to run for, and no process that does it."""
    registry = Registry(state_database(client, settings.mongo))
    registry.announce(CLIP.name, "v1", {"dimension": 4})
    documents.insert_many([{"_id": number, "img": b"x"} for number in range(2)])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("status", 0),
        ("wait", 0),
        ("reconcile --dry-run", 0),
        ("reconcile --all --dry-run", 0),
        ("show nothing", 2),
        ("models list", 0),
        ("doctor", 1),
    ],
)
def test_reading_commands_create_nothing(client, settings, captionstream, arguments, code):
    """Fails when the state index is made without a look: a mistyped name became a database."""
    assert captionstream(*arguments.split()).code == code
    made = set(client.list_database_names()) & {settings.mongo.database, settings.mongo.state}
    assert made == set()


def test_wait_says_when_its_time_is_over(unfinished, captionstream):
    done = captionstream("wait", "--timeout", "0.1")
    assert done.code == 1
    assert "2 documents: 0 captioned, 0 awaiting a model, 2 pending, 0 failed" in done.out
    assert "2 still pending: see `captionstream status`" in done.err


def test_wait_ends_and_status_says_so_when_outputs_are_refused(
    unfinished, client, settings, captionstream
):
    """Fails without `refused` in `_is_idle`: `wait` would end with its time, and say nothing."""
    report = {
        "format": 1,
        "stage": "sink",
        "url": "",
        "is_ready": True,
        "refused": 2,
        "refusal": "a schema",
    }
    reports = state_database(client, settings.mongo)["processes"]
    in_an_hour = {"$add": ["$$NOW", 3_600_000]}
    reports.update_one({}, [{"$set": {**report, "at": in_an_hour}}], upsert=True)
    said = "outputs of 2 documents are refused: a schema"
    assert said in captionstream("status").out
    done = captionstream("wait", "--timeout", "500")
    assert (done.code, said in done.err) == (1, True)


def test_reconcile_publishes_what_is_unfinished(
    unfinished, settings, monkeypatch, capsys, published
):
    limits = settings.reconciler.model_copy(update={"chunk_timeout_seconds": 0.1})
    quick = settings.model_copy(update={"reconciler": limits})
    captionstream = CommandLine(app, monkeypatch, capsys, quick)
    plan = [
        "2 documents",
        "         2 from clip on, time not known: clip has finished nothing in the last",
    ]
    lines = captionstream("reconcile", "--dry-run").out.splitlines()
    assert [line[:70] for line in lines] == [line[:70] for line in plan]
    assert published.ids() == set()
    done = captionstream("reconcile")
    assert done.code == 0
    assert done.out.startswith("\n".join(lines))
    assert done.out.endswith("\n2 documents published\n")
    assert [published.of(number) for number in range(2)] == [["reconcile"]] * 2
