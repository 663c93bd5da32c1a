"""The trainer's command line: what it offers, what it shows, and what is written of it."""

import re
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from trainer.cli import app
from trainer.commands import fit as fit_command
from trainer.fit.captioner import CaptionerOptions
from trainer.fit.fitting import Progress
from trainer.fit.options import FitOptions
from trainer.job.job_metrics import write_job_metrics
from trainer.job.runs import Outcome, Run

OPERATING = Path(__file__).parents[3] / "deploy" / "README.md"


def command_lines(group, *before):
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from command_lines(command, *before, name)
        else:
            yield (*before, name)


@pytest.mark.parametrize("names", list(command_lines(typer.main.get_command(app))), ids=" ".join)
def test_help_of_every_command_has_an_example(names):
    result = CliRunner().invoke(app, [*names, "--help"])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert f"Example: captionstream-trainer {' '.join(names)}" in text


def test_defaults_are_those_of_the_notebook():
    options = FitOptions()
    assert (options.rate, options.batch_size) == (0.001, 50)
    assert CaptionerOptions().min_count == 5


def test_progress_shows_loss_rate_and_the_time_that_remains(monkeypatch):
    shown = StringIO()
    console = Console(file=shown, force_terminal=True, width=160)
    monkeypatch.setattr(fit_command, "err", console)
    now = {"max_epochs": 100, "steps": 8, "loss": 0.25}
    with fit_command.shown("conditional_lm", as_json=False) as progress:
        done = {"valid_loss": 0.5, "rate": 37.0}
        progress(Progress(epoch=1, step=8, done=done, **now))
        progress(Progress(epoch=2, step=4, **now))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.search(
        r"fit conditional_lm .*epoch 2/100  loss 0\.2500  37 steps/s \d:\d\d:\d\d at most \S+", text
    )


def test_page_for_operators_names_the_metrics_that_a_job_writes(tmp_path):
    run = Run(
        model="conditional_lm",
        outcome=Outcome.KEPT,
        reason="",
        started_at=datetime.now(UTC),
        seconds=1.0,
        options={},
    )
    write_job_metrics(tmp_path / "job.prom", run, last_success=run)
    written = set(re.findall(r"^# TYPE (\S+)", (tmp_path / "job.prom").read_text(), re.MULTILINE))
    told = set(re.findall(r"captionstream_trainer_\w+", OPERATING.read_text()))
    assert told == written
