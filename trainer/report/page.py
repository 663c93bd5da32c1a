"""The frame of a report page, and its plain parts: sections, tiles of figures, tables."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final, NewType

from streams.errors import SettingsError
from trainer.report.style import STYLE

Html = NewType("Html", str)
"""Markup that is used as it is; everything in it that came as text is escaped."""

#: The page may show what it holds and load nothing.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a page under a heading.

    Attributes:
        title: The heading.
        body: What stands under it.
        note: A sentence or two between them.
    """

    title: str
    body: Html
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One figure, written large.

    Attributes:
        label: What it is.
        value: The figure.
        detail: What belongs to it, for example how many images.
    """

    label: str
    value: str
    detail: str = ""


def page(title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = "") -> str:
    """Return a whole HTML document that needs no other file."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>{_paragraph(subtitle, 'subtitle')}</header>\n"
        + "\n".join(_section(section) for section in sections)
        + (f"\n<footer>{escape(footer)}</footer>" if footer else "")
        + "\n</main>\n</body>\n</html>\n"
    )


def tiles(items: Sequence[Tile]) -> Html:
    """Return figures side by side."""
    parts = (
        f'<div class="tile"><span>{escape(item.label)}</span><b>{escape(item.value)}</b>'
        f"<small>{escape(item.detail)}</small></div>"
        for item in items
    )
    return Html(f'<div class="tiles">{"".join(parts)}</div>')


def table(rows: Sequence[Mapping[str, object]]) -> Html:
    """Return rows under the keys of the first one; numbers stand to the right."""
    if not rows:
        return Html('<p class="note">Nothing to show.</p>')
    columns = list(rows[0])
    numeric = {
        name for name in columns if all(isinstance(row.get(name), int | float) for row in rows)
    }

    def cells(tag: str, values: Mapping[str, object]) -> str:
        return "".join(
            f'<{tag} class="number">{escape(_text(values.get(name)))}</{tag}>'
            if name in numeric
            else f"<{tag}>{escape(_text(values.get(name)))}</{tag}>"
            for name in columns
        )

    head = cells("th", {name: name for name in columns})
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return Html(f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>')


def write_page(path: Path, text: str) -> None:
    """Write a page; the file appears whole or not at all.

    Raises:
        SettingsError: It cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(aside).chmod(0o644)  # a temporary file is for its owner only
            Path(aside).replace(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise SettingsError(msg) from exc


def _section(section: Section) -> str:
    return (
        f"<section>\n<h2>{escape(section.title)}</h2>{_paragraph(section.note, 'note')}\n"
        f"{section.body}\n</section>"
    )


def _paragraph(text: str, kind: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
