"""From `package.module:Class` to a class that can be a model."""

import hashlib
import importlib
import inspect
from pathlib import Path
from typing import Final

import torch

from streams.errors import InvalidPipeline

#: What a class may have; a module needs the second or third.
_METHODS: Final = ("preprocess", "forward", "__call__", "postprocess")


def import_class(path: str) -> tuple[type, str]:
    """Return a user's class, and the sha256 of the file in which it stands.

    Args:
        path: `package.module:Class`.

    Raises:
        InvalidPipeline: It cannot be imported here, is no class, lacks what is needed, or has no
            source file.
    """
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:  # a module may raise anything
        msg = (
            f"{path} cannot be imported here ({type(exc).__name__}: {exc}): install its package"
            " where the model runs, or name its directory in PYTHONPATH"
        )
        raise InvalidPipeline(msg) from exc
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        msg = f"{path}: {module_name} ({getattr(module, '__file__', None)}) has no such class"
        raise InvalidPipeline(msg)
    is_module = issubclass(found, torch.nn.Module)
    needed = _METHODS[1:3] if is_module else _METHODS
    if not any(_has(found, method) for method in needed):
        msg = f"{path} can do nothing: give it one of {', '.join(needed)}"
        raise InvalidPipeline(msg)
    return found, _source_of(found, path)


def _has(found: type, method: str) -> bool:
    """Whether a class has a method of its own, not torch's placeholder for one."""
    bases = [base for base in found.__mro__ if base is not torch.nn.Module]
    return any(callable(vars(base).get(method)) for base in bases)


def _source_of(found: type, path: str) -> str:
    try:
        return hashlib.sha256(Path(inspect.getfile(found)).read_bytes()).hexdigest()
    except (OSError, TypeError) as exc:
        msg = f"{path} has no source file that could be compared: put it into a file of a package"
        raise InvalidPipeline(msg) from exc
