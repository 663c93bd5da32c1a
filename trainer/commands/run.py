"""`captionstream-trainer run`: the retraining job that a scheduler starts."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from streams.errors import SettingsError
from streams.models.manifest import Bundle
from streams.states import Recaption
from trainer.commands.context import AsJson, DataDir, Place, err, out, place_of
from trainer.commands.measuring import Beam, Name, SetName
from trainer.commands.publish import Again, Metric, MinGain, usual_metric
from trainer.fit import Progress, fit
from trainer.gate import Gate
from trainer.options import FitOptions
from trainer.retrain import Plan, retrain
from trainer.runs import Outcome, Run
from trainer.snapshot import Snapshot
from trainer.text_encoder import text_encoder

_WORDS: Final = {
    Outcome.PROMOTED: "a new version serves",
    Outcome.KEPT: "the serving version stays",
    Outcome.NOTHING_NEW: "nothing new",
    Outcome.TOO_LITTLE_DATA: "too little data",
    Outcome.BUSY: "not started",
}

FitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fit-option", help="NAME=VALUE, a setting of the fit; may be given again and again."
    ),
]


def run(  # noqa: PLR0913 - each is an option of the command
    name: Name,
    *,
    min_documents: Annotated[
        int, typer.Option(min=1, help="With fewer usable documents nothing is fitted.")
    ] = 100,
    fit_option: FitOption = None,
    validation_set: SetName = "default",
    metric: Metric = None,
    min_gain: MinGain = 0.0,
    force: Annotated[
        bool, typer.Option("--force", help="Fit and let it serve whatever is found.")
    ] = False,
    beam: Beam = 1,
    recaption: Again = Recaption.ALL,
    metrics_file: Annotated[
        Path | None,
        typer.Option(help="Figures for node_exporter's textfile collector; ends in .prom."),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(min=1, help="How long a killed job keeps others from starting.")
    ] = 60.0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Snapshot, fit, evaluate and publish, if there is enough to learn from and it is new.

    Only one such job runs at a time. The exit code is 0 unless something failed.

    Example: captionstream-trainer run conditional_lm --metrics-file /var/lib/trainer.prom
    """
    options = fit_options(fit_option or ())
    place = place_of(data_dir)
    client, _ = place.connect()
    done = retrain(
        Plan(
            model=name,
            gate=Gate(metric=usual_metric(name, metric), min_gain=min_gain, is_forced=force),
            fit_options=options.model_dump(),
            min_documents=min_documents,
            validation_set=validation_set,
            beam=beam,
            recaption=recaption,
            lease_seconds=lease_seconds,
        ),
        partial(_fit, name=name, options=options, place=place),
        client=client,
        settings=place.settings,
        directory=place.directory,
        metrics_file=metrics_file,
    )
    if as_json:
        typer.echo(json.dumps(done.as_json()))
    else:
        out.print(line_of(done), markup=False)


def _fit(snapshot: Snapshot, *, name: str, options: FitOptions, place: Place) -> Bundle:
    """Fit, and go on where a job that was killed has stopped."""

    def say(progress: Progress) -> None:
        if progress.done is not None:
            done = progress.done
            err.print(
                f"epoch {done['epoch']}: training loss {done['train_loss']:.4f},"
                f" validation loss {done['valid_loss']:.4f}, {done['seconds']:.1f} s"
            )

    encode_texts = text_encoder(place.settings.clip, snapshot.manifest.clip_version)
    return fit(
        name,
        snapshot,
        options,
        place.directory,
        resume=True,
        encode_texts=encode_texts,
        progress=say,
    ).bundle


def fit_options(given: Sequence[str]) -> FitOptions:
    """Return the options of the fit.

    Raises:
        SettingsError: One is not NAME=VALUE, is given twice, is unknown or has a wrong value.
    """
    options: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name in options:
            msg = f"--fit-option {text!r}: expected NAME=VALUE, each name once"
            raise SettingsError(msg)
        options[name] = value
    try:
        return FitOptions.model_validate(options)
    except ValidationError as exc:
        wrong = "; ".join(f"{error['loc'][0]}: {error['msg']}" for error in exc.errors())
        msg = f"--fit-option {wrong}; there is {', '.join(FitOptions.model_fields)}"
        raise SettingsError(msg) from exc


def line_of(run: Run) -> str:
    """Return what came of a job as people read it."""
    version = f" ({run.version})" if run.version else ""
    return f"{run.model}: {_WORDS[run.outcome]}{version}: {run.reason}"
