"""What earlier jobs left in the trainer's directory, and when it is removed."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from structlog import get_logger

from trainer.fit.run_directory import RUN, try_lock
from trainer.snapshot.writer import TAKING

log = get_logger(__name__)

#: A snapshot that is being taken grows all the time; one that has not for so long never will.
_STALE_SECONDS: Final = 3600.0


def remove_old(directory: Path, *, keep: int) -> None:
    """Remove old runs, old snapshots, and snapshots that nobody finished. Never fails.

    What stays: the newest runs of jobs, every run that `fit` made, every run that a process works
    in; the newest snapshots, and those that a run which stays has learned from.

    Args:
        directory: Directory of the trainer.
        keep: How many runs of jobs and how many snapshots are the newest.
    """
    try:
        _remove_runs(directory / "runs", keep)
        _remove_snapshots(directory, keep)
    except OSError as exc:
        log.warning("old files not removed", directory=str(directory), reason=str(exc))


def _remove_runs(parent: Path, keep: int) -> None:
    made_by_jobs = [place for place in _newest_first(parent) if _about(place).get("is_job")]
    for place in made_by_jobs[keep:]:
        lock = try_lock(place)
        if lock is not None:
            _remove(place)
            os.close(lock)


def _remove_snapshots(directory: Path, keep: int) -> None:
    used = {_about(place).get("snapshot_id") for place in _newest_first(directory / "runs")}
    places = _newest_first(directory / "snapshots")
    taken = [place for place in places if not place.name.startswith(".")]
    for place in taken[keep:]:
        if place.name not in used:
            _remove(place)
    for place in places:
        if place.name.startswith(TAKING) and time.time() - _changed_at(place) > _STALE_SECONDS:
            _remove(place)


def _newest_first(parent: Path) -> list[Path]:
    places = [place for place in parent.glob("*") if place.is_dir()]
    return sorted(places, key=lambda place: place.stat().st_mtime, reverse=True)


def _changed_at(place: Path) -> float:
    return max(path.stat().st_mtime for path in (place, *place.iterdir()))


def _about(place: Path) -> Mapping[str, Any]:
    try:
        about = json.loads((place / RUN).read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    log.info("removed", directory=str(place))
