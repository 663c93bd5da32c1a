"""`fit`, from the command line to the directory of a run."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from streams.errors import ModelNotFound, TrainerError
from streams.models.bundle import from_directory
from tests.unit.trainer.snapshots import colour_rows, write_snapshot
from tests.waiting import DEADLINE_SECONDS
from trainer.commands.fit import fit
from trainer.fit.fit import BUNDLE
from trainer.fit.fitting import HISTORY

#: A shell that starts a program in the background lets it ignore this signal; this one does not.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from trainer.cli import main
main()
"""
SMALL = (
    *("conditional_lm", "--batch-size", "16"),
    *("--option", "hidden=16", "--option", "min_count=2"),
)


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_TRAINER__DIRECTORY", str(tmp_path))
    return write_snapshot(tmp_path, colour_rows(150))


@pytest.fixture
def run(snapshot):
    app = typer.Typer()
    app.command()(fit)
    threads = torch.get_num_threads()
    yield lambda *arguments: CliRunner().invoke(app, [*arguments, "--threads", "1"])
    torch.set_num_threads(threads)


def test_json_has_a_line_for_each_epoch_and_one_for_the_version(run, tmp_path):
    result = run(*SMALL, "--max-epochs", "3", "--json")
    assert result.exit_code == 0
    *epochs, version = (json.loads(line) for line in result.stdout.splitlines())
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    directory = tmp_path / "runs" / version["run"]
    assert version["directory"] == str(directory)
    assert version["version"] == from_directory(directory / BUNDLE).version
    assert version["valid_loss"] == min(epoch["valid_loss"] for epoch in epochs)
    assert epochs[version["best_epoch"] - 1]["valid_loss"] == version["valid_loss"]
    assert (directory / HISTORY).read_text() == "".join(result.stdout.splitlines(keepends=True)[:3])


def test_people_get_one_line_at_the_end(run, tmp_path):
    result = run(*SMALL, "--max-epochs", "2")
    (directory,) = (tmp_path / "runs").iterdir()
    (line,) = result.stdout.splitlines()
    assert line.startswith(
        f"version {from_directory(directory / BUNDLE).version}: best of 2 epochs"
    )
    assert line.endswith(str(directory))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("nonesuch",), ModelNotFound, "choose one of clip_projection, conditional_lm"),
        ((*SMALL, "--snapshot", "beef"), TrainerError, "captionstream-trainer snapshot"),
        ((*SMALL, "--rate", "inf"), TrainerError, "lower --rate"),
        ((*SMALL, "--option", "min_count=999"), TrainerError, "lower min_count"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(run, arguments, error, words):
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_interrupted_fit_keeps_its_checkpoint_and_resumes_to_the_same_version(
    snapshot, run, tmp_path
):
    options = (*SMALL, "--max-epochs", "100", "--patience", "100", "--json")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "fit", *options, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CAPTIONSTREAM_TRAINER__DIRECTORY": str(tmp_path)},
        pipesize=4096,  # room for a third of the lines: it cannot end before it is stopped
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        done = 1 + len(process.stdout.readlines())  # `communicate` forgets what was read ahead
        errors = process.stderr.read()
        process.wait(DEADLINE_SECONDS)
    assert process.returncode == 130
    assert 0 < done < 100
    assert errors.splitlines() == [
        "stopped; the same command with --resume goes on behind the last whole epoch"
    ]
    (directory,) = (tmp_path / "runs").iterdir()
    assert not (directory / BUNDLE).exists()
    resumed = [json.loads(line) for line in run(*options, "--resume").stdout.splitlines()]
    # The last checkpoint may have been kept and not yet said.
    assert resumed[0]["epoch"] in (done + 1, done + 2)
    whole = [json.loads(line) for line in run(*options).stdout.splitlines()]
    assert resumed[-1] == whole[-1]
