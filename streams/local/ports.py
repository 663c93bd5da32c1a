"""Free loopback ports, and the book that remembers them. Does not know who uses a port."""

import json
import random
import socket
from pathlib import Path
from typing import Final

from streams.errors import SettingsError

_ATTEMPTS: Final = 200
_random = random.SystemRandom()


def is_free(port: int) -> bool:
    """Return whether a server could listen on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: connections of the one before, still in TIME_WAIT, do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(ports: range, but_not: frozenset[int] = frozenset()) -> int:
    """Return a loopback port that nobody listens on at this moment.

    Args:
        ports: Which may be taken.
        but_not: Ports that are promised to somebody already.

    Raises:
        SettingsError: There is none.
    """
    for _ in range(_ATTEMPTS):
        port = _random.choice(ports)
        if port not in but_not and is_free(port):
            return port
    msg = (
        f"no free port found between {ports.start} and {ports.stop - 1} on 127.0.0.1: end programs"
        " that listen there, or set CAPTIONSTREAM_LOCAL__PORTS"
    )
    raise SettingsError(msg)


class PortBook:
    """Ports by name, kept in a file, so that a restarted stack has its old addresses if it can."""

    def __init__(self, path: Path, ports: range) -> None:
        """Read the book if there is one; one that cannot be read is as good as none."""
        self._path = path
        self._range = ports
        self._ports: dict[str, int] = {}
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        if isinstance(known, dict):
            self._ports = {str(k): v for k, v in known.items() if isinstance(v, int)}

    def port(self, name: str) -> int:
        """Return the remembered port if it is free, else a new one, and remember it.

        Raises:
            SettingsError: No port is free, or the book cannot be written.
        """
        port = self._ports.get(name)
        if port is None or not is_free(port):
            port = free_port(self._range, but_not=frozenset(self._ports.values()))
            self._ports[name] = port
            self._write()
        return port

    def _write(self) -> None:
        try:
            self._path.write_text(json.dumps(self._ports))
        except OSError as exc:
            msg = f"cannot remember ports: {exc}; free some of its disk, or use another --data-dir"
            raise SettingsError(msg) from exc
