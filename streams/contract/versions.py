"""What the registry knows about a version, beside its weights; and how outputs name it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from streams.contract.declaration import Declaration
from streams.contract.formats import format_problem
from streams.contract.kinds import deciding_options
from streams.contract.manifest import Manifest, parse_manifest
from streams.errors import InvalidBundle, UnknownFormat

#: Layout of a version's document in the registry. `name`, `version` and `created_at` are in every
#: format.
FORMAT: Final = 1
_AND: Final = "+"
_WITH_ADDED: Final = re.compile(r"(.+)\+[0-9a-f]{8}")


def output_version(declaration: Declaration, version: str) -> str:
    """Return the version that outputs name: of the weights, and of what the declaration adds.

    That is its options other than the usual ones, further fields, and the fields that outputs stand
    for, where there is more than one. So a change of them is another version, and what they decide
    is made again: of a model that reads less than before nothing else that is stored would say so.
    """
    features = dict(declaration.features) if len(declaration.features) > 1 else {}
    added = {"options": deciding_options(declaration), "fields": list(declaration.fields)}
    added |= {"features": features} if features else {}
    if not any(added.values()):
        return version
    text = json.dumps(added, sort_keys=True, separators=(",", ":"))
    return version + _AND + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def weights_version(version: str) -> str:
    """Return the version of the weights that an output's version names."""
    found = _WITH_ADDED.fullmatch(version)
    return found[1] if found else version


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionInfo:
    """A version without its weights.

    Attributes:
        name: Name of the model.
        version: Id of the version.
        created_at: When it was published.
        manifest: What it is; None for an announced one, and for one that cannot be read.
        details: What was said when it was announced.
        problem: Why it, or its manifest, cannot be read; None when it can.
    """

    name: str
    version: str
    created_at: datetime
    manifest: Manifest | None
    details: Mapping[str, Any]
    problem: InvalidBundle | UnknownFormat | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    @property
    def is_announced(self) -> bool:
        """Whether its weights live elsewhere: only processes that were started with it have it."""
        return self.manifest is None and self.problem is None

    @property
    def dimension(self) -> int | None:
        """Length of the vectors that it makes; None when it makes none, or it is not known."""
        if self.manifest is not None:
            return self.manifest.dimension
        dimension = self.details.get("dimension")
        return dimension if isinstance(dimension, int) else None

    def as_json(self) -> dict[str, Any]:
        """Return what a person wants to see; long lists are left out."""
        shown: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "created_at": self.created_at.isoformat(),
            **self.details,
        }
        if self.manifest is not None:
            content = self.manifest.model_dump(mode="json", exclude={"vocabulary", "golden"})
            words = self.manifest.vocabulary
            shown |= content | {"vocabulary_size": len(words) if words else None}
        return shown


def check_version_format(row: Mapping[str, Any]) -> None:
    """Check that the document of a version is of our format.

    Raises:
        UnknownFormat: It is not.
    """
    problem = format_problem(
        "the version",
        row.get("format"),
        reads=FORMAT,
        otherwise="remove it with `captionstream pipeline forget`, or publish another one",
    )
    if problem:
        msg = f"{row['name']} {row['version']}: {problem}"
        raise UnknownFormat(msg)


def version_info(row: Mapping[str, Any]) -> VersionInfo:
    """Return a version as it is stored; one that cannot be read, with the reason."""
    manifest, details, problem = None, {}, None
    try:
        check_version_format(row)
        details = row["details"]
        if row["manifest"] is not None:
            manifest = parse_manifest(row["manifest"])
    except (InvalidBundle, UnknownFormat) as exc:
        problem = exc
    return VersionInfo(
        name=row["name"],
        version=row["version"],
        created_at=row["created_at"],
        manifest=manifest,
        details=details,
        problem=problem,
    )
