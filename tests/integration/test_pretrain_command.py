"""`pretrain-scenes`, from the command line to files that the encoder loads."""

import json

import pytest
import typer
from typer.testing import CliRunner

from streams.errors import SettingsError
from streams.models.clip import ClipEncoder
from streams.settings import ClipSettings
from trainer.commands import pretrain
from trainer.scenes.pretrain.attributes import ATTRIBUTES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(pretrain, "_SEEN", (10, 1))
    monkeypatch.setattr(pretrain, "_FRESH", (5, 2))
    app = typer.Typer()
    app.command()(pretrain.pretrain_scenes)

    def run(*arguments):
        return CliRunner().invoke(app, ["--steps", "2", "--batch-size", "4", *arguments])

    return run


def test_command_trains_writes_and_probes(run, tmp_path):
    result = run("--output", str(tmp_path / "new"), "--threads", "1", "--json")
    assert result.exit_code == 0
    step, done = (json.loads(line) for line in result.stdout.splitlines())
    assert step["step"] == 2
    assert step["total"] > 0
    assert done["probes"].keys() == ATTRIBUTES.keys()
    encoder = ClipEncoder(
        ClipSettings(model=str(tmp_path / "new/scenes.json"), pretrained=done["file"])
    )
    assert encoder.version == done["version"]


def test_people_see_a_table_and_programs_the_path(run, tmp_path):
    result = run("--output", str(tmp_path), "--threads", "1")
    assert result.stdout.strip() == str(tmp_path / "model.safetensors")
    assert all(name in result.stderr for name in ATTRIBUTES)


def test_place_that_cannot_be_written_is_named_before_training(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("--output", str(tmp_path / "file/below"))
    assert isinstance(result.exception, SettingsError)
    assert "cannot be written" in str(result.exception)
    assert "--output" in str(result.exception)
