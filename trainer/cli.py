"""`captionstream-trainer`: the command line of the offline half."""

import typer

from streams.commands.entry import run_app
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


def main() -> None:
    """Run the command that the arguments name."""
    run_app(app)


if __name__ == "__main__":
    main()
