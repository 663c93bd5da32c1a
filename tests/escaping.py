"""A process of `sink` whose loop fails as nobody expected. `python -m tests.escaping`."""

from streams.app import run_process
from streams.settings import load_settings
from streams.stages.stage import Stage


async def fail(*_: object) -> None:
    """Raise what is no error of ours, as a mistake in our code would."""
    msg = "nobody expected this"
    raise ZeroDivisionError(msg)


if __name__ == "__main__":
    Stage.handle = fail  # type: ignore[method-assign,assignment]
    run_process("sink", load_settings())
