"""Free ports for the servers of tests."""

from streams.local import ports
from streams.settings import ENVIRONMENT_PREFIX, Settings

#: The variable that says which.
PORTS = f"{ENVIRONMENT_PREFIX}LOCAL__PORTS"


def free_port() -> int:
    """Return one of those that this process of pytest may take; see `pytest_configure`."""
    return ports.free_port(Settings().local.port_range)
