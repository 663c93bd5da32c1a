"""The settings as a Markdown page; `make settings` writes it to `deploy/SETTINGS.md`."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from streams.settings import ENVIRONMENT_PREFIX, Settings

_HEAD: Final = f"""# Settings

Environment variables, and nothing else, set up Captionstream. A name has two parts behind
`{ENVIRONMENT_PREFIX}`, its section and its own, with two underscores between them. A variable that
nobody knows, or a wrong value, ends the program with an error that names it.

This page is generated from `streams/settings.py`: `make settings` writes it again.
"""


def settings_page() -> str:
    """Return the page: for each section what it is about, and a table of variables."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            msg = f"setting {name!r} stands in no section"
            raise TypeError(msg)
        rows = [_row(f"{name}__{key}", value) for key, value in section.model_fields.items()]
        about = inspect.cleandoc(section.__doc__ or "")
        head = ["| Variable | Default | Meaning |", "|---|---|---|"]
        yield "\n".join([f"## {name.upper()}\n", f"{about}\n", *head, *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
    return f"| `{variable}` | {_default(field)} | {field.description or ''} |"


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value in (None, "") else f"`{value}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page(), encoding="utf-8")
