"""`captionstream`: the command line. Errors are one line and exit code 2, never a traceback."""

import typer

from streams.operate.commands import (
    apply,
    doctor,
    documents,
    models,
    operate,
    pipeline,
    reconcile,
    roles,
    run,
    verify,
)
from streams.operate.commands.entry import run_app

app = typer.Typer(
    name="captionstream",
    help="Insert an image into MongoDB, get a caption back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    run.up,
    run.run,
    documents.insert,
    documents.show,
    apply.apply,
    operate.status,
    operate.wait,
    reconcile.reconcile,
    verify.verify,
    doctor.doctor,
    roles.roles,
):
    app.command()(command)
app.command("import-coco")(documents.import_coco)
app.add_typer(operate.dead_letters, name="dead-letters")
app.add_typer(operate.topics, name="topics")
app.add_typer(pipeline.pipeline, name="pipeline")
app.add_typer(models.models, name="models")


def main() -> None:
    """Run the command that the arguments name."""
    run_app(app)


if __name__ == "__main__":
    main()
