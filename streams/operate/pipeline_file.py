"""A pipeline in a file, YAML or JSON, that people edit: `models`, a list of declarations.

models:
- name: clip
  kind: clip
  key: img
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from streams.contract.declaration import Declaration, parse_declarations
from streams.errors import SettingsError

_MODELS: Final = "models"
#: Far more than any pipeline has.
_MOST_BYTES: Final = 1 << 20


def read_pipeline_file(path: Path) -> tuple[Declaration, ...]:
    """Return the declarations in a file.

    Raises:
        SettingsError: It cannot be read, or is no YAML or JSON of that form.
        InvalidPipeline: A declaration is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        msg = f"{path} cannot be read: {exc.strerror}"
        raise SettingsError(msg) from exc
    if len(data) > _MOST_BYTES:
        msg = f"{path} has more than {_MOST_BYTES} bytes: a pipeline is much shorter"
        raise SettingsError(msg)
    content = _parse(path, data)
    rows = content.get(_MODELS) if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or content.keys() != {_MODELS}:
        msg = (
            f"{path} is no pipeline: it must hold `{_MODELS}`, a list, and nothing else, as"
            " `captionstream pipeline show --yaml` prints it"
        )
        raise SettingsError(msg)
    return parse_declarations(rows)


def pipeline_yaml(declarations: Sequence[Declaration]) -> str:
    """Return the file of some declarations; what is as usual is left out."""
    rows = [d.model_dump(mode="json", exclude_defaults=True) for d in declarations]
    text: str = yaml.safe_dump({_MODELS: rows}, sort_keys=False, allow_unicode=True)
    return text


def _parse(path: Path, data: bytes) -> Any:
    try:
        if path.suffix == ".json":
            return json.loads(data)
        return yaml.load(data, _Loader)  # noqa: S506 - a safe loader that refuses even more
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        reason = " ".join(str(exc).split())
        msg = f"{path} is neither YAML nor JSON: {reason}"
        raise SettingsError(msg) from exc


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """Refuses a key that stands twice, of which YAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key.value, str)):
            if key.value in seen:
                msg = f"{key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, msg, key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
