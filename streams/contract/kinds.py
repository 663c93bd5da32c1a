"""What is known of kinds without torch: their options, and what they read.

A user's kind, `package.module:Class`, is known where it can be imported: `streams/models/kinds`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streams.contract.declaration import Declaration
from streams.contract.pipeline import IMAGE
from streams.errors import InvalidPipeline

CLIP: Final = "clip"
LINEAR: Final = "linear"
GRU: Final = "gru"


class Options(BaseModel):
    """What a kind can be told in a declaration."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: Those that decide what a version computes and that its bundle does not hold.
    beside_the_bundle: ClassVar[tuple[str, ...]] = ()


class ClipOptions(Options):
    """None: which CLIP there is, a process is told by its settings."""


class LinearOptions(Options):
    """Of a linear projection.

    Attributes:
        dimension: Length of the vectors of the version that is made when none was trained.
    """

    dimension: int = Field(512, ge=1, le=1_000_000)


class GruOptions(Options):
    """Of a language model.

    Attributes:
        beam_width: Sentences kept while one is decoded; 1 is greedy.
    """

    beside_the_bundle: ClassVar[tuple[str, ...]] = ("beam_width",)

    beam_width: int = Field(1, ge=1, le=64)


#: The options of each built-in kind.
OPTIONS: Final[Mapping[str, type[Options]]] = {
    CLIP: ClipOptions,
    LINEAR: LinearOptions,
    GRU: GruOptions,
}
#: Kinds whose weights live elsewhere: a process announces the version that it was started with.
ANNOUNCED: Final = frozenset({CLIP})

OptionsT = TypeVar("OptionsT", bound=Options)


def is_class(kind: str) -> bool:
    """Whether a kind is a user's class."""
    return ":" in kind


def parse_options(declaration: Declaration, options: type[OptionsT]) -> OptionsT:
    """Return the options of a declared model of a built-in kind; defaults where it says nothing.

    Raises:
        InvalidPipeline: The kind has no such option, or a value is wrong.
    """
    try:
        return options.model_validate(dict(declaration.options))
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(options.model_fields) or "none"
        msg = (
            f"{declaration.name}: option {place!r}: {first['msg']}"
            f" (options of {declaration.kind}: {known})"
        )
        raise InvalidPipeline(msg) from exc


def check_declaration(declaration: Declaration) -> None:
    """Check what a model of a built-in kind is told and reads; of a user's class, nothing.

    Raises:
        InvalidPipeline: No kind has this name, an option is wrong, or its kind cannot read
            what it reads.
    """
    name, kind = declaration.name, declaration.kind
    if is_class(kind):
        return
    if kind not in OPTIONS:
        known = ", ".join(OPTIONS)
        msg = f"{name}: there is no kind {kind!r}; choose {known}, or name 'package.module:Class'"
        raise InvalidPipeline(msg)
    parse_options(declaration, OPTIONS[kind])
    found = ", ".join((*declaration.features.values(), *declaration.raw_fields)) or "nothing"
    if kind == CLIP:
        if declaration.features or declaration.raw_fields != (IMAGE,):
            msg = f"{name}: {kind} reads the image, so its key is {IMAGE!r}; it reads {found}"
            raise InvalidPipeline(msg)
    elif len(declaration.features) != 1 or declaration.raw_fields:
        msg = f"{name}: {kind} reads the vector of one model and nothing else; it reads {found}"
        raise InvalidPipeline(msg)


def deciding_options(declaration: Declaration) -> dict[str, Any]:
    """Return the declared options that decide what a version computes; empty for the usual ones.

    Those of a built-in kind count only where the bundle does not hold them and they are not at
    their defaults. Of a user's class, and of a release that has other options, any does.
    """
    known = OPTIONS.get(declaration.kind)
    if known is None:
        return dict(declaration.options)
    try:
        given, default = parse_options(declaration, known), known()
    except InvalidPipeline:
        return dict(declaration.options)
    chosen = {name: getattr(given, name) for name in known.beside_the_bundle}
    return {name: value for name, value in chosen.items() if value != getattr(default, name)}
