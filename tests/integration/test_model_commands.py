"""`captionstream models` as it is typed."""

import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from streams.mongo.client import connect, state_database
from streams.mongo.processes import Report, Reporter, read_reports
from streams.operate.commands.models import models
from streams.registry.versions import Registry
from tests.captioner import tiny_captioner
from tests.waiting import wait_until

NAME = "conditional_lm"


@pytest.fixture
def registry(settings, monkeypatch):
    uri = settings.mongo.uri.get_secret_value()
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__URI", uri)
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__DATABASE", settings.mongo.database)
    with connect(settings.mongo) as client:
        yield Registry(state_database(client, settings.mongo))


def command(*arguments, err=None):
    result = CliRunner().invoke(models, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    if err is not None:
        assert " ".join(result.stderr.split()).startswith(err)
        assert bool(result.stderr) == bool(err)
    return result.stdout


def test_star_stands_at_the_version_that_serves_in_place_of_a_refused_one(registry):
    """Fails when `list` or `show` look at the version that the pointer names."""
    good, bad = (registry.publish(tiny_captioner(seed=seed)) for seed in range(2))
    for version in (good, bad):
        registry.promote(NAME, version, reason="test")
    registry.refuse(registry.pointer(NAME), reason="golden", serving=good)
    [first, second] = command("list").splitlines()
    assert (first[:2], second[:2]) == ("* ", "  ")
    assert good in first
    rows = [json.loads(line) for line in command("list", "--json").splitlines()]
    assert {row["version"]: row["serving"] for row in rows} == {good: True, bad: False}
    shown = command("show", NAME)
    assert f'"version": "{good}"' in shown
    assert "refused:  golden" in shown


def test_show_tells_of_a_refused_version_when_none_serves(registry):
    bad = registry.publish(tiny_captioner(seed=0))
    registry.refuse(registry.promote(NAME, bad, reason="test"), reason="golden", serving=None)
    assert "refused:  golden" in command("show", NAME)
    assert command("list").startswith("  ")


def test_announced_version_is_promoted_and_rolled_back_like_any_other(registry, settings):
    """Without a process that has it, nothing would be embedded: the command says so."""
    for version in ("c1", "c2"):
        registry.announce("clip", version, {"dimension": 4})
    assert "c2 (before: c1)" in command("promote", "clip", "c2")
    assert registry.pointer("clip").version == "c2"
    with reporting(settings, versions={"clip": "c1"}):
        assert "1 process" in command("list").splitlines()[0]
        rows = [json.loads(line) for line in command("list", "--json").splitlines()]
        assert {row["version"]: row["processes"] for row in rows} == {"c1": 1, "c2": 0}
        assert command("rollback", "clip", err="") == "clip now serves c1 (before: c2)\n"
        command("promote", "clip", "c2", err="no running process has clip c2")


@contextmanager
def reporting(settings, **fields):
    report = Report(stage="clip", url="http://x", is_ready=True, **fields)
    with connect(settings.mongo) as client:
        state = state_database(client, settings.mongo)
        reporter = Reporter(state, lambda: report)
        reporter.start()
        wait_until(lambda: read_reports(state), doing="the report")
        yield
        reporter.stop()
