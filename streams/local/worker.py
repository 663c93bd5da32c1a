"""One supervised process: started, watched, started again. Knows nothing about its neighbours."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streams.backoff import Backoff
from streams.local.child import Child
from streams.local.probe import Health, Prober
from streams.settings import LocalSettings, Settings, child_environment

#: A process that ran for so long is well; its next end is a first one again.
_WELL_SECONDS: Final = 30.0
#: A process that is not ready for the same reason for so long says it.
_LONG_SECONDS: Final = 5.0
#: Exit code of our commands for a mistake that waiting does not heal.
USAGE_EXIT_CODE: Final = 2
_ANY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


class Worker:
    """A process of the pipeline that is kept running.

    `tick` does what is due and never blocks; the supervisor calls it again and again.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        settings: Settings,
        *,
        port: int,
        directory: Path,
        prober: Prober,
        say: Callable[[str], None],
    ) -> None:
        """Describe the process; nothing is started.

        Args:
            name: Name of the process.
            command: Program and arguments.
            settings: Settings that it gets, with a port of its own.
            port: Where it serves its endpoints, the same after every restart.
            directory: Its working directory, with `logs/` and `tmp/` in it.
            prober: Asks it for its health.
            say: Takes lines for the user.
        """
        self.name = name
        self.failed_starts = 0
        self._local: LocalSettings = settings.local
        self._port = port
        self._prober = prober
        self._say = say
        host = settings.http.host
        self._host = "127.0.0.1" if host in _ANY_ADDRESS else host
        own = settings.http.model_copy(update={"port": port})
        environment = child_environment(settings.model_copy(update={"http": own}))
        environment["TMPDIR"] = str(directory / "tmp")
        self._child = Child(
            name,
            command,
            log=directory / "logs" / f"{name}.log",
            cwd=directory,
            environment=environment,
        )
        self._health: Health | None = None
        self._said = ""
        self._start_at: float | None = None
        self._kill_at: float | None = None
        self._backoff = Backoff(
            self._local.backoff_initial_seconds, self._local.backoff_max_seconds
        )
        #: Ends in quick succession.
        self._ends = 0

    @property
    def metrics_url(self) -> str:
        """Where Prometheus finds it."""
        return f"http://{self._host}:{self._port}/metrics"

    @property
    def pid(self) -> int | None:
        """Process id; None before the first start."""
        return self._child.pid

    @property
    def log(self) -> Path:
        """File of its output."""
        return self._child.log

    def is_ready(self) -> bool:
        """Return whether it runs and says that it can work."""
        return self.is_alive() and self._health is not None and self._health.is_ready

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._child.is_alive()

    def last_line(self) -> str:
        """Return the last line of its log."""
        return self._child.last_lines(1)

    def start(self) -> None:
        """Start it now; `tick` tries again after a pause if memory, disk or the like are short."""
        self._start_at = self._kill_at = self._health = None
        self._said = ""
        try:
            self._child.start()
        except OSError as exc:
            pause = self._plan_start()
            self._say(f"{self.name} cannot be started: {exc}; next attempt in {pause:g} s")
            return
        self._health = self._prober.watch(self.name, self._host, self._port)

    def tick(self) -> None:
        """Start it again if it is dead and its pause is over; end it if it is stuck."""
        now = time.monotonic()
        if not self.is_alive():
            if self._start_at is None:
                self._note_end(now)
            elif now >= self._start_at:
                self.start()
        elif self._kill_at is not None:
            if now >= self._kill_at:
                self._child.kill()
        elif self._is_stuck(now):
            self._say(f"{self.name} is not healthy: it is ended and started again")
            self._child.terminate()
            self._kill_at = now + self._local.grace_seconds
        else:
            self._say_why_it_waits(now)

    def terminate(self) -> None:
        """Ask it to end; it is not started again unless `tick` or `start` is called."""
        self._prober.forget(self.name)
        self._child.terminate()

    def stop(self, grace_seconds: float) -> None:
        """End it and wait; SIGKILL when the grace is over."""
        self.terminate()
        if not self._child.stop(grace_seconds):
            self._say(f"{self.name} did not end within {grace_seconds:g} s and was killed")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._child.kill()

    def _is_stuck(self, now: float) -> bool:
        if self._health is None:
            return False
        since = self._health.unhealthy_since()
        if since is None:
            return now - self._health.started_at > self._local.start_timeout_seconds
        return now - since > self._local.unhealthy_seconds

    def _say_why_it_waits(self, now: float) -> None:
        """Say once what keeps it from being ready, if that takes long: it may need its user."""
        health = self._health
        if health is None or health.reason == self._said:
            return
        if not health.reason or now - health.reason_since > _LONG_SECONDS:
            self._said = health.reason
            if self._said:
                self._say(f"{self.name} is not ready: {self._said}")

    def _note_end(self, now: float) -> None:
        """Say how it ended, and when it starts again."""
        code = self._child.exit_code
        ran = now - self._health.started_at if self._health else 0.0
        self.failed_starts = self.failed_starts + 1 if code == USAGE_EXIT_CODE else 0
        if ran > _WELL_SECONDS:
            self._ends = 0
        pause = self._plan_start()
        self._say(
            f"{self.name} ended with code {code} after {ran:.1f} s, starts again in"
            f" {pause:g} s; its log ends with: {self.last_line()[:300]}"
        )

    def _plan_start(self) -> float:
        """Choose when it starts again; return the seconds until then."""
        self._ends += 1
        pause = self._backoff.pause(self._ends)
        self._start_at = time.monotonic() + pause
        return pause
