"""Where the programs of the embedded servers are found."""

import importlib.util
import shutil
from pathlib import Path

from streams.errors import SettingsError


def find_program(
    name: str, *, configured: str | None, variable: str, package: str, remedy: str
) -> Path:
    """Return the program to run: the configured one, else on PATH, else in an installed wheel.

    Args:
        name: File name of the program.
        configured: What the settings say; nothing else is tried when it is given.
        variable: Name of that setting, for the error.
        package: Package of the wheel; the program lies in `bin` beside it.
        remedy: The error when there is none anywhere.

    Raises:
        SettingsError: There is none, or the configured one does not exist.
    """
    if configured is not None:
        found = shutil.which(configured)
        if found is None:
            msg = f"{variable}: no executable file {configured!r}"
            raise SettingsError(msg)
    else:
        found = shutil.which(name) or _in_wheel(name, package)
        if found is None:
            raise SettingsError(remedy)
    return Path(found).resolve()


def _in_wheel(name: str, package: str) -> str | None:
    parent = package.rpartition(".")[0]
    if parent and importlib.util.find_spec(parent) is None:
        return None
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    # Beside the module; a wheel's own function may copy the program into the home directory.
    return shutil.which(str(Path(spec.origin).parent / "bin" / name))
