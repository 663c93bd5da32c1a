"""`captionstream pipeline` as it is typed."""

import io
import json
from contextlib import ExitStack, contextmanager

import pytest

from streams.contract.declaration import parse_declarations
from streams.contract.default_pipeline import DEFAULT
from streams.mongo.declarations import Declarations
from streams.mongo.processes import Report, Reporter, read_reports
from streams.operate.status import wait_until_followed
from tests.waiting import wait_until

COLOUR = "- {name: colour, kind: 'c:Colour', key: img}\n"
LINE = "- {name: line, kind: 'l:Line', features: {img: clip, colour: colour}}\n"
DOCUMENTS = 4


@pytest.fixture
def declared(database, settings):
    return Declarations(database, settings.mongo.tenant)


@pytest.fixture
def file(captionstream, tmp_path):
    """The file that `show --yaml` prints, with more models at its end."""

    def written(*more):
        path = tmp_path / "pipeline.yaml"
        path.write_text(captionstream("pipeline", "show", "--yaml").out + "".join(more))
        return str(path)

    return written


@pytest.fixture
def answer(monkeypatch):
    """What is typed where a command asks."""

    def typed(text):
        monkeypatch.setattr("sys.stdin", io.StringIO(text + "\n"))

    return typed


def test_what_is_shown_is_a_file_that_says_the_same(captionstream, file, declared):
    done = captionstream("pipeline", "apply", file())
    assert (done.code, done.out) == (0, "revision 0 says the same; nothing is changed\n")
    assert declared.read().revision == 0


def test_the_drawing_shows_who_follows_whom(captionstream, file, registry):
    registry.announce("clip", "c1", {})
    captionstream("pipeline", "apply", file(COLOUR, LINE), "--yes", "--reason", "a line")
    captionstream("pipeline", "deactivate", "line")
    head, columns, *lines = captionstream("pipeline", "show").out.splitlines()
    assert "revision 2" in head
    assert head.endswith(": line made inactive")
    kind = columns.index("kind")
    assert [line[:kind].rstrip() for line in lines] == [
        "changes",
        "├─ clip",
        "│  └─ clip_projection",
        "│     └─ conditional_lm",
        "└─ colour",
        "line",
    ]
    assert lines[1][kind:].split() == ["clip", "img", "active", "c1"]
    reads = ["img=clip,", "colour=colour"]
    assert lines[-1][kind:].split() == ["l:Line", *reads, "inactive", "-"]


def test_programs_get_all_that_follows(captionstream, file, settings):
    captionstream("pipeline", "apply", file(COLOUR, LINE), "--yes")
    shown = json.loads(captionstream("pipeline", "show", "--json").out)
    prefix = settings.kafka.prefix
    models = {row["name"]: row for row in shown["models"]}
    assert list(models) == ["clip", "clip_projection", "conditional_lm", "colour", "line"]
    assert shown["added"] == [["colour", "clip"]]
    assert models["line"]["consumes"] == f"{prefix}colour"
    assert models["line"]["topic"] == f"{prefix}line"
    assert models["line"]["dead_letters"] == f"{prefix}line.dlq"
    assert models["line"]["group"] == f"{prefix}captionstream-line"
    assert models["line"]["ancestors"] == ["clip", "colour"]
    assert models["line"]["inputs"] == ["img"]


def test_plan_says_what_apply_does_and_changes_nothing(
    captionstream, file, declared, documents, settings, registry
):
    registry.announce("clip", "c1", {})
    documents.insert_many({"_id": i, "img": b"x"} for i in range(DOCUMENTS))
    path, prefix = file(COLOUR, LINE), settings.kafka.prefix
    plan = captionstream("pipeline", "plan", path)
    assert plan.code == 0
    rows = [line.split() for line in plan.out.splitlines()]
    assert ["start", "colour", "4", "0", "0", "0", "unknown"] in [row[:7] for row in rows]
    for said in (
        "colour follows clip, so that",
        f"topics created: {prefix}colour, {prefix}line, {prefix}colour.dlq, {prefix}line.dlq",
        f"groups created: {prefix}captionstream-colour, {prefix}captionstream-line",
        "colour: no version serves yet",
        "publisher and sink start again",
        "time not known",
    ):
        assert said in plan.out
    found = json.loads(captionstream("pipeline", "plan", path, "--json").out)
    counts = {row["name"]: (row["action"], row["missing"]) for row in found["models"]}
    assert counts["clip"] == ("restart", DOCUMENTS)
    assert counts["line"] == ("start", DOCUMENTS)
    assert declared.read().revision == 0


def test_nothing_is_declared_when_the_answer_is_no(captionstream, file, declared, answer):
    path = file(COLOUR)
    answer("n")
    assert captionstream("pipeline", "apply", path).code == 1
    assert declared.read().revision == 0
    answer("y")
    done = captionstream("pipeline", "apply", path, "--reason", "we sell by colour")
    assert done.out.endswith("revision 1 is declared\n")
    assert declared.read().reason == "we sell by colour"


def test_a_pipeline_that_was_changed_while_somebody_thought_is_not_replaced(
    captionstream, file, declared, monkeypatch
):
    def change(*_, **__):
        declared.replace(DEFAULT.declarations[:1], expected_revision=0, reason="meanwhile")

    path = file(COLOUR)
    monkeypatch.setattr("typer.confirm", change)
    done = captionstream("pipeline", "apply", path)
    assert (done.code, "by somebody else meanwhile" in done.err) == (2, True)
    assert declared.read().reason == "meanwhile"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("deactivate", "clip"),
            "reads 'clip', which is inactive: activate it, or deactivate both",
        ),
        (("activate", "colour"), "no model 'colour' is declared (there are: clip, "),
        (("forget", "clip", "--yes"), "clip is active: `captionstream pipeline deactivate clip`"),
        (("apply", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(captionstream, declared, arguments, says):
    done = captionstream("pipeline", *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert declared.read().revision == 0


def test_a_model_is_forgotten_when_the_answer_is_yes(captionstream, file, documents, answer):
    captionstream("pipeline", "apply", file(COLOUR), "--yes")
    documents.insert_one({"_id": 1, "_outputs": {"img": {"colour": {"version": "k1"}}}})
    captionstream("pipeline", "deactivate", "colour")
    answer("n")
    assert captionstream("pipeline", "forget", "colour").code == 1
    assert "colour" in documents.find_one()["_outputs"]["img"]
    answer("y")
    done = captionstream("pipeline", "forget", "colour")
    assert done.code == 0
    assert done.out.endswith("colour is forgotten: 1 documents, 0 versions\n")
    assert documents.find_one()["_outputs"] == {"img": {}}


def test_wait_waits_for_processes_that_follow(captionstream, file, database):
    """Fails without `wait_until_followed`: with nothing to make, all would be done at once."""
    path = file(COLOUR)
    done = captionstream("pipeline", "apply", path, "--yes", "--wait", "0")
    assert (done.code, done.err) == (1, "not done yet: see `captionstream status`\n")
    models = ("clip", "clip_projection", "conditional_lm")
    with running(database, *models, revision=2):
        assert captionstream("pipeline", "deactivate", "colour", "--wait", "500").code == 0
        assert captionstream("pipeline", "activate", "colour", "--wait", "0").code == 1


def test_the_sink_of_a_pipeline_before_has_not_followed(database, declared):
    """Fails when only the models that run are looked at: a sink has none."""
    chain = DEFAULT.declarations
    stored = declared.replace(chain, expected_revision=0, reason="test")
    with running(database, *DEFAULT.models, revision=1):
        with running(database, "sink", revision=0):
            assert not wait_until_followed(stored, database, timeout_seconds=0)
        with running(database, "sink", revision=1):
            assert wait_until_followed(stored, database, timeout_seconds=0)


@contextmanager
def running(database, *stages, revision):
    with ExitStack() as stack:
        for name in stages:
            models = [] if name == "sink" else [name]
            report = Report(
                stage=name, url="", is_ready=True, lag=0, models=models, revision=revision
            )
            reporter = Reporter(database, lambda report=report: report)
            reporter.start()
            stack.callback(reporter.stop)
        wait_until(lambda: {*stages} <= stages_of(read_reports(database)), doing="the reports")
        yield


def stages_of(reports):
    return {report.stage for report in reports}


def test_declarations_of_a_file_are_those_that_are_stored(captionstream, file, declared):
    captionstream("pipeline", "apply", file(COLOUR), "--yes")
    [colour] = parse_declarations([{"name": "colour", "kind": "c:Colour", "key": "img"}])
    assert declared.read().pipeline.declarations == (*DEFAULT.declarations, colour)
