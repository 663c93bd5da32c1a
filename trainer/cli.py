"""`captionstream-trainer`: the command line of the offline half."""

import typer

from streams.logs import configure_logging
from streams.operate.commands.entry import run_app
from streams.settings import load_settings
from trainer.commands.evaluate import evaluate
from trainer.commands.fit import fit
from trainer.commands.pretrain import pretrain_scenes
from trainer.commands.publish import decisions, publish
from trainer.commands.run import run
from trainer.commands.snapshot import snapshot
from trainer.commands.validation_set import validation_set

app = typer.Typer(
    name="captionstream-trainer",
    help="Fit model versions on a snapshot of the documents, and publish them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(snapshot)
app.add_typer(validation_set, name="validation-set")
for command in (fit, evaluate, publish, decisions, run):
    app.command()(command)
app.command("pretrain-scenes")(pretrain_scenes)


def main() -> None:
    """Run the command that the arguments name; its log goes to stderr."""
    app.callback()(_configure_logging)
    run_app(app)


def _configure_logging() -> None:
    configure_logging(load_settings().log, process="trainer")


if __name__ == "__main__":
    main()
