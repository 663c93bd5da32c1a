"""`captionstream up`: a whole stack on one machine, until a signal.

Which processes there are and how each is started is decided here; `watch.py` keeps them running.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from streams.errors import SettingsError
from streams.local.stack import locked
from streams.local.watch import Supervisor
from streams.settings import Section, Settings


def worker_command(name: str) -> list[str]:
    """Return the command that runs one process of the pipeline."""
    return [sys.executable, "-P", "-m", "streams.cli", "run", name]


def run_stack(
    settings: Settings,
    *,
    data_dir: Path,
    mongo_uri: str | None,
    kafka: str | None,
    out: TextIO,
    worker_command: Callable[[str], list[str]] = worker_command,
    processes: Sequence[str] | None = None,
) -> int:
    """Run a whole stack until SIGINT, SIGTERM or SIGHUP. To be called in the main thread.

    One line of JSON is written when all processes are ready; what happens goes to stderr. A second
    signal ends everything at once.

    Args:
        settings: Settings of all processes; addresses and HTTP ports are replaced.
        data_dir: Where everything is written; made if absent.
        mongo_uri: Replica set to use; None starts one.
        kafka: Broker to use, host:port; None starts one.
        out: Receives the line of JSON.
        worker_command: Command of a process by its name.
        processes: Names of the processes; None for those of the pipeline, whatever is declared.

    Returns:
        Exit code: 0 after a clean stop.

    Raises:
        SettingsError: The directory is in use or cannot be used, a program is missing, or a process
            refuses its settings.
        Unavailable: A server does not start or does not answer.
    """
    directory = data_dir.resolve()
    with ExitStack() as held:
        with _told(directory):
            (directory / "tmp").mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(directory))
            supervisor = Supervisor(
                _with_absolute_paths(settings),
                directory=directory,
                mongo_uri=mongo_uri,
                kafka=kafka,
                out=out,
            )
        with supervisor.signals():
            return supervisor.run(worker_command, processes)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Turn what the system refuses before anything is started into a `SettingsError`."""
    try:
        yield
    except OSError as exc:
        msg = (
            f"no stack can run in {directory}: {exc}; --data-dir must name a directory that you may"
            " write, on a disk with room"
        )
        raise SettingsError(msg) from exc


def _with_absolute_paths(settings: Settings) -> Settings:
    """Processes run in the data directory: paths relative to here must be found from there."""
    names = {
        "clip": ("model", "pretrained"),
        "mongo": ("tls_ca_file", "tls_certificate_key_file"),
        "kafka": ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file"),
    }
    return settings.model_copy(
        update={name: _resolved(getattr(settings, name), files) for name, files in names.items()}
    )


def _resolved(section: Section, files: tuple[str, ...]) -> Section:
    values = {name: getattr(section, name) for name in files}
    return section.model_copy(
        update={n: str(Path(v).resolve()) for n, v in values.items() if v and Path(v).is_file()}
    )
