"""`captionstream models list` and `show` as they are typed."""

import json

import pytest
from typer.testing import CliRunner

from streams.commands.models import models
from streams.errors import SettingsError
from streams.mongo import connect, state_database
from streams.registry import Registry
from tests.captioner import tiny_captioner

NAME = "conditional_lm"


@pytest.fixture
def registry(settings, monkeypatch):
    uri = settings.mongo.uri.get_secret_value()
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__URI", uri)
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__DATABASE", settings.mongo.database)
    with connect(settings.mongo) as client:
        yield Registry(state_database(client, settings.mongo))


def command(*arguments):
    result = CliRunner().invoke(models, arguments, catch_exceptions=False)
    assert result.exit_code == 0
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


@pytest.mark.parametrize("arguments", [("promote", "clip", "c1"), ("rollback", "clip")])
def test_pointer_that_a_process_announces_is_not_moved_by_hand(registry, arguments):
    """Fails without `_check_is_movable`: every document would look unfinished."""
    for version in ("c1", "c2"):
        registry.announce("clip", version, {"dimension": 4})
    with pytest.raises(SettingsError, match="CAPTIONSTREAM_CLIP__MODEL"):
        command(*arguments)
    assert registry.pointer("clip").version == "c2"
