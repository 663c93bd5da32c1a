"""Code of a user's, by name: `package.module:function`."""

import importlib
from typing import Any

from streams.errors import TrainerError, bounded


def import_named(name: str) -> Any:
    """Return what a name means: `package.module`, or `package.module:attribute`.

    Raises:
        TrainerError: It cannot be imported here.
    """
    module, _, attribute = name.partition(":")
    if module == "__main__" or not module:
        msg = f"{name[:200]!r} cannot be imported: put it into a package: package.module:name"
        raise TrainerError(msg)
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    except Exception as exc:  # whatever a module does when it is imported
        msg = bounded(
            f"{name[:200]!r} cannot be imported ({type(exc).__name__}: {exc}): install its package"
            " where the trainer runs, or add its directory to PYTHONPATH"
        )
        raise TrainerError(msg) from exc
