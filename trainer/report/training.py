"""How a fit went: the curves of a run's `history.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streams.errors import SettingsError
from trainer.report.curve import Series, curve
from trainer.report.page import Section


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return one object for each epoch; a last line that was not written whole is passed over.

    Raises:
        SettingsError: The file cannot be read, or another line is no JSON object.
    """
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        msg = f"cannot read the history {path}: {exc}"
        raise SettingsError(msg) from exc
    epochs: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            epoch = json.loads(line)
        except ValueError:
            epoch = None
        if isinstance(epoch, dict):
            epochs.append(epoch)
        elif number < len(lines):
            msg = f"line {number} of {path} is no JSON object"
            raise SettingsError(msg)
    return epochs


def training_section(history: Sequence[Mapping[str, Any]]) -> Section:
    """Return the losses over the epochs, with a line at the best one."""
    named = {
        name: [
            (float(epoch["epoch"]), float(epoch[key]))
            for epoch in history
            if isinstance(epoch.get("epoch"), int | float)
            and isinstance(epoch.get(key), int | float)
        ]
        for name, key in (("training loss", "train_loss"), ("validation loss", "valid_loss"))
    }
    judged = named["validation loss"]
    best = min(judged, key=lambda point: point[1])[0] if judged else None
    return Section(
        title="How the training went",
        note="Mean loss per caption, in nats per word. The version is the one of the best epoch.",
        body=curve(
            [Series(name=name, points=points) for name, points in named.items() if points],
            x_label="epoch",
            mark=best,
            mark_label="" if best is None else f"best epoch: {best:.0f}",
        ),
    )
