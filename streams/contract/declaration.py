"""What a user says of the models: a declaration for each, in the words of the notebook. Pure.

    create_model("conditional_lm", model, key="_base", features={"img": "clip"}, active=True)

What follows from a set of declarations is the matter of `pipeline.py`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from streams.contract.values import check_json
from streams.errors import InvalidPipeline

#: The whole document, as the key of a model.
BASE: Final = "_base"

#: A name becomes part of a path in documents, of a topic, of a group and of a metric's label.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: Topics and processes that are there whatever is declared.
_TAKEN: Final = ("changes", "publisher", "sink")
#: Ends the name of a topic of dead letters; Kafka takes `a_dlq` and `a.dlq` for the same name.
_DEAD_LETTERS: Final = "dlq"
#: A field becomes part of a path in documents; ours begin with an underscore.
_FIELD: Final = re.compile(r"[^_$.\0\s][^$.\0]{0,119}")
#: Built-in kinds have a plain name; a user's is a class that can be imported.
_CLASS: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class ModelState(StrEnum):
    """Whether a model runs."""

    INACTIVE = "inactive"  # its outputs stay as they are, nothing new is made
    ACTIVE = "active"


def is_name(value: str) -> bool:
    """Whether a model may be called so."""
    return _NAME.fullmatch(value) is not None


def _name(value: str) -> str:
    if not is_name(value):
        msg = f"{value[:80]!r} is no name: a lower-case letter, then up to 62 of a-z, 0-9 and _"
        raise ValueError(msg)
    if value in _TAKEN or value.endswith(_DEAD_LETTERS):
        msg = f"{value!r} is the name of a topic or of a process of ours: choose another"
        raise ValueError(msg)
    return value


def is_field(value: str) -> bool:
    """Whether a model may read a field of that name."""
    return _FIELD.fullmatch(value) is not None


def _field(value: str) -> str:
    if not is_field(value):
        msg = f"{value[:80]!r} is no field of a document that a model may read"
        raise ValueError(msg)
    return value


def _key(value: str) -> str:
    return value if value == BASE else _field(value)


def _kind(value: str) -> str:
    if value.startswith("__main__:"):
        msg = f"{value!r} cannot be imported where the model runs: put the class into a package"
        raise ValueError(msg)
    if not (_NAME.fullmatch(value) or _CLASS.fullmatch(value)):
        msg = f"{value[:80]!r} is no kind: the name of a built-in one, or 'package.module:Class'"
        raise ValueError(msg)
    return value


def _options(value: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what does not come out of a file or a database as it went in."""
    options = dict(value)
    try:
        check_json(options)
    except ValueError as exc:
        msg = (
            f"they are more than JSON ({exc}): use texts, finite numbers, true, false, null, lists,"
            " objects"
        )
        raise ValueError(msg) from exc
    return options


Name = Annotated[str, AfterValidator(_name)]
FieldName = Annotated[str, AfterValidator(_field)]


class Declaration(BaseModel):
    """One model, as its user declares it.

    Attributes:
        name: Name of the model; the last part of its path in documents.
        kind: Its algorithm: a built-in kind, or `package.module:Class`.
        key: The field that the model is about; `_base` is the whole document.
        features: Upstream model by the field that its output stands for: the model sees that
            output where the field would be.
        fields: Further fields of the document that it reads as they are.
        after: Upstream models that it does not read but follows: they run before it.
        options: What its kind is to be told, as JSON; part of every version.
        state: Whether it runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: Annotated[str, AfterValidator(_kind)]
    key: Annotated[str, AfterValidator(_key)] = BASE
    features: Mapping[FieldName, Name] = Field(default_factory=dict)
    fields: tuple[FieldName, ...] = ()
    after: tuple[Name, ...] = ()
    options: Annotated[Mapping[str, Any], AfterValidator(_options)] = Field(default_factory=dict)
    state: ModelState = ModelState.ACTIVE

    @model_validator(mode="after")
    def _reads_something(self) -> "Declaration":
        if not self.reads and not self.raw_fields:
            msg = f"{self.name} reads nothing: give it a key, features or fields"
            raise ValueError(msg)
        twice = sorted(set(self.features) & set(self.fields))
        if twice:
            msg = f"{self.name} reads {twice[0]!r} both as it is and as a feature: choose one"
            raise ValueError(msg)
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the models whose outputs it reads, each once, as declared."""
        return tuple(dict.fromkeys(self.features.values()))

    @property
    def raw_fields(self) -> tuple[str, ...]:
        """Fields of the document that it reads itself, as declared."""
        key = () if self.key == BASE or self.key in self.features else (self.key,)
        return tuple(dict.fromkeys((*key, *self.fields)))


def parse_declarations(rows: Iterable[Mapping[str, Any]]) -> tuple[Declaration, ...]:
    """Return the declarations in a file or a state document.

    Raises:
        InvalidPipeline: One of them is wrong; the message names the model and the field.
    """
    return tuple(_parse(row, position) for position, row in enumerate(rows, start=1))


def _parse(row: Mapping[str, Any], position: int) -> Declaration:
    try:
        return Declaration.model_validate(row)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        name = row.get("name") if isinstance(row, Mapping) else None
        who = f"model {name[:80]!r}" if isinstance(name, str) else f"model {position}"
        msg = f"{who}: {place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}"
        raise InvalidPipeline(msg) from exc


def with_state(
    declared: Sequence[Declaration], name: str, state: ModelState
) -> tuple[Declaration, ...]:
    """Return declarations with the state of one model changed.

    Raises:
        InvalidPipeline: There is no such model.
    """
    if all(declaration.name != name for declaration in declared):
        known = ", ".join(sorted(declaration.name for declaration in declared))
        msg = f"no model {name[:80]!r} is declared (there are: {known})"
        raise InvalidPipeline(msg)
    return tuple(d.model_copy(update={"state": state}) if d.name == name else d for d in declared)


def with_model(
    declared: Sequence[Declaration], declaration: Declaration
) -> tuple[Declaration, ...]:
    """Return declarations with one more, if it is not among them.

    Raises:
        InvalidPipeline: Another model has its name.
    """
    taken = next((other for other in declared if other.name == declaration.name), None)
    if taken is not None and taken != declaration:
        msg = (
            f"a model {declaration.name!r} is declared otherwise: change it with `captionstream"
            " pipeline apply`, forget it first, or choose another name"
        )
        raise InvalidPipeline(msg)
    return tuple(declared) if taken else (*declared, declaration)
