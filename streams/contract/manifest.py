"""What a model version is: its manifest, and the bundle of manifest and weights. No torch here.

The id of a version is a hash over everything that decides what it computes.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json

from streams.contract.formats import format_problem
from streams.errors import InvalidBundle, UnknownFormat

WEIGHTS: Final = "model.safetensors"
FORMAT_VERSION: Final = 1
#: Preprocessing of a vector that is read as its model made it.
UNCHANGED: Final = "unchanged"


class _Part(BaseModel):
    # JSON has no NaN, and a metric that is NaN compares as nothing.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, revalidate_instances="always"
    )


class Feature(_Part):
    """An upstream model whose output the model reads.

    Attributes:
        dimension: Length of its vector; None when it makes none, or any length will do.
        version: The version it must come from; None when any will do.
    """

    dimension: int | None = Field(default=None, ge=1)
    version: str | None = None


class Golden(_Part):
    """An input and what the model makes of it; checked whenever the version is loaded.

    Attributes:
        seed: Seed of the input: `count` standard normal vectors.
        count: How many.
        vectors: Expected vectors, for a model that makes vectors.
        tokens: Expected token ids of each greedy caption, for a language model.
        scores: Expected mean log-probability of each, natural logarithm.
        texts: Expected texts.
        values: Expected values of a user's class, each a vector's numbers, a text or JSON.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    count: int = Field(ge=1, le=64)
    vectors: list[list[float]] | None = None
    tokens: list[list[int]] | None = None
    scores: list[float] | None = None
    texts: list[str] | None = None
    values: list[JsonValue] | None = None


class Manifest(_Part):
    """What a version is, beside its weights.

    Attributes:
        format_version: Layout of this manifest.
        name: Name of the model.
        kind: Its algorithm, or the path of its class.
        source: sha256 of the file in which a user's class stands; None for a built-in kind.
        config: Arguments of its class.
        dimension: Length of the vectors that it makes; None when it makes none, or it is not known.
        features: What it reads, by name of the upstream model.
        vocabulary: Words of a language model, in the order of their ids.
        preprocessing: How each input was prepared, in words.
        metrics: What was measured on the frozen validation set.
        snapshot_id: The snapshot it was fitted on; None for a version that was not fitted.
        is_initial: Whether the weights of a user's class are those that its options begin with:
            nobody has fitted them, nor given them.
        note: One line for people.
        parts: sha256 of each file, hexadecimal.
        golden: An input with its output; None where no input can be made up.
    """

    format_version: int = FORMAT_VERSION
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: str = Field(min_length=1, max_length=500)
    source: str | None = None
    config: dict[str, JsonValue]
    dimension: int | None = Field(default=None, ge=1)
    features: dict[str, Feature]
    vocabulary: list[str] | None = None
    preprocessing: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    snapshot_id: str | None = None
    is_initial: bool = False
    note: str = ""
    parts: dict[str, str]
    golden: Golden | None = None

    def canonical(self) -> bytes:
        """Return the one JSON text of this content."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")
        ).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A version in memory."""

    manifest: Manifest
    weights: bytes

    @property
    def version(self) -> str:
        """Id of the version: 16 hexadecimal digits of the sha256 of all its content."""
        return hashlib.sha256(self.manifest.canonical()).hexdigest()[:16]

    def check_hash(self) -> None:
        """Compare the weights with the manifest's hash.

        Raises:
            InvalidBundle: They differ.
        """
        digest = hashlib.sha256(self.weights).hexdigest()
        if self.manifest.parts != {WEIGHTS: digest}:
            msg = f"{self.manifest.name}: sha256 of {WEIGHTS} is {digest}, not as the manifest says"
            raise InvalidBundle(msg)


def parse_manifest(data: bytes | str | dict[str, Any]) -> Manifest:
    """Return a manifest from JSON or from a stored document.

    Raises:
        InvalidBundle: It is no manifest.
        UnknownFormat: It is of another format.
    """
    try:
        content = data if isinstance(data, dict) else from_json(data)
    except ValueError as exc:
        msg = f"manifest is no JSON: {exc}"
        raise InvalidBundle(msg) from exc
    number = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(number, int):  # first: another format may have other fields
        problem = format_problem(
            "the manifest", number, reads=FORMAT_VERSION, otherwise="publish the version again"
        )
        if problem:
            raise UnknownFormat(problem)
    try:
        if isinstance(data, dict):
            manifest = Manifest.model_validate(data)
        else:
            manifest = Manifest.model_validate_json(data)
    except ValidationError as exc:
        msg = f"manifest is not valid: {exc.errors(include_url=False, include_input=False)}"
        raise InvalidBundle(msg) from exc
    return manifest
