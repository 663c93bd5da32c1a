"""The pipeline of models, compiled once from its declarations; everything else asks this value.

A model consumes the topic of one upstream, its carrier, and an event carries every output that was
made on its way. So a join needs no state: all that a model reads must lie on the way of its
carrier, and where it does not, `compile_pipeline` lets one model follow another and says so. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from streams.contract.declaration import Declaration, ModelState
from streams.errors import InvalidPipeline

#: The one field of a document that this system writes.
OUTPUTS: Final = "_outputs"

#: The field that holds an image; a model that reads it gets it decoded.
IMAGE: Final = "img"

#: Topic of the changes of documents; every other one carries the outputs of the model it is named
#: after. Names on the broker have a prefix.
CHANGES: Final = "changes"
_DEAD_LETTERS: Final = ".dlq"


def dead_letter_topic(topic: str) -> str:
    """Return the topic that receives what cannot be processed from `topic`."""
    return topic + _DEAD_LETTERS


def is_dead_letter_topic(topic: str) -> bool:
    """Whether a topic is one of dead letters."""
    return topic.endswith(_DEAD_LETTERS)


# Compared by identity: there is one of each in a pipeline.
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """One active model in its place.

    Attributes:
        declaration: What its user said.
        carrier: The model whose topic it consumes; None for the changes themselves.
        way: The models whose outputs an event carries when it arrives, in the order they ran.
        ancestors: Every model that its output depends on by reading, in topological order.
        descendants: Every model whose output depends on it by reading, in topological order.
        inputs: Fields of the document that its output depends on, its ancestors' included, sorted.
    """

    declaration: Declaration
    carrier: str | None
    way: tuple[str, ...]
    ancestors: tuple[str, ...]
    descendants: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.declaration.name

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the models whose outputs it reads; empty for one that reads the document."""
        return self.declaration.reads

    @property
    def key(self) -> str:
        """The field that it is about; `_base` for the whole document."""
        return self.declaration.key

    @property
    def raw_fields(self) -> tuple[str, ...]:
        """Fields of the document that it reads itself; empty for one that reads outputs only."""
        return self.declaration.raw_fields

    @property
    def has_image(self) -> bool:
        """Whether it reads the image itself."""
        return IMAGE in self.raw_fields

    @property
    def path(self) -> str:
        """Dotted path of its output in the document."""
        return f"{OUTPUTS}.{self.key}.{self.name}"

    @property
    def source_topic(self) -> str:
        """The topic that it consumes."""
        return self.carrier or CHANGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """What follows from a set of declarations.

    Attributes:
        declarations: All of them, inactive ones too, as given.
        models: The active models by name, in topological order.
        added: Pairs (model, follows): ordering that the compiler added so that every event carries
            what its consumers read.
    """

    declarations: tuple[Declaration, ...]
    # Follows from the declarations.
    models: Mapping[str, Model] = field(compare=False)
    added: tuple[tuple[str, str], ...] = field(compare=False)

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics of events, in the order in which a document passes them."""
        return (CHANGES, *self.models)

    @property
    def all_topics(self) -> tuple[str, ...]:
        """Every topic that must exist."""
        return (*self.topics, *map(dead_letter_topic, self.topics))

    @property
    def state_paths(self) -> tuple[str, ...]:
        """Paths in a document that decide its state; all of them are in the state index."""
        return tuple(
            f"{model.path}.{name}"
            for model in self.models.values()
            for name in (
                "version",
                "error.retryable",
                *(f"features.{upstream}" for upstream in model.reads),
            )
        )

    @property
    def watched(self) -> tuple[str, ...]:
        """Fields of the document whose change makes an output stale, sorted."""
        return tuple(sorted({name for model in self.models.values() for name in model.inputs}))

    def touched_by(self, fields: Iterable[str]) -> tuple[str, ...]:
        """Return the models whose outputs depend on one of these fields, in topological order."""
        changed = frozenset(fields)
        return tuple(name for name, model in self.models.items() if changed & {*model.inputs})

    def does_the_same(self, other: "Pipeline", name: str) -> bool:
        """Whether the processes of a model have the same to do in another pipeline."""
        one, two = self.models.get(name), other.models.get(name)
        if one is None or two is None:
            return False
        return _duties(self, one) == _duties(other, two)

    def consumers(self, topic: str) -> tuple[Model, ...]:
        """Return the models that consume a topic."""
        return tuple(model for model in self.models.values() if model.source_topic == topic)

    def ancestors(self, model: Model) -> tuple[Model, ...]:
        """Return every model that an output depends on, in topological order."""
        return tuple(self.models[name] for name in model.ancestors)

    def descendants(self, model: Model) -> tuple[Model, ...]:
        """Return every model whose output depends on that of a model, in topological order."""
        return tuple(self.models[name] for name in model.descendants)

    def passes_by(self, name: str) -> bool:
        """Whether events go through a model to one that does not depend on it.

        Such an event goes on also when the model fails, or has no version.
        """
        return any(
            name in model.way and name not in model.ancestors for model in self.models.values()
        )


def _duties(pipeline: Pipeline, model: Model) -> tuple[Any, ...]:
    """Return all that decides what a process of a model does."""
    # What is stored of those behind it travels along; who reads it, and who only passes, follows.
    behind = [m.declaration for m in pipeline.models.values() if model.name in m.way]
    return (model.declaration, model.way, model.ancestors, model.inputs, behind)


#: MongoDB's own limit for the fields of an index; `_id` is one of them.
_MOST_STATE_PATHS: Final = 31


def compile_pipeline(declarations: Sequence[Declaration]) -> Pipeline:
    """Return what follows from the declarations; the same for the same list, whatever the process.

    1. Check the names. Inactive models take no part; whoever only follows one follows nothing.
    2. Order the active models: upstream first, as declared where nothing decides.
    3. Choose each model's carrier, and join ways that do not meet.

    Raises:
        InvalidPipeline: A name is declared twice, an upstream is unknown or inactive, models read
            each other in a circle, none is active, or there are too many.
    """
    declared = _by_name(declarations)  # 1
    active = {n: d for n, d in declared.items() if d.state is not ModelState.INACTIVE}
    _check_upstreams(active, declared)
    upstreams = {n: [u for u in (*d.reads, *d.after) if u in active] for n, d in active.items()}
    order = _ordered(upstreams)  # 2
    carriers, added = _carried(order, upstreams)  # 3
    order = _ordered({n: [*us, *filter(None, [carriers[n]])] for n, us in upstreams.items()})
    reading = {n: _closure(n, {m: d.reads for m, d in active.items()}) for n in order}
    models = {
        name: Model(
            declaration=active[name],
            carrier=carriers[name],
            way=_way(carriers[name], carriers),
            ancestors=tuple(n for n in order if n in reading[name]),
            descendants=tuple(n for n in order if name in reading[n]),
            inputs=tuple(sorted({f for n in (name, *reading[name]) for f in active[n].raw_fields})),
        )
        for name in order
    }
    pipeline = Pipeline(declarations=tuple(declarations), models=models, added=added)
    _check_number(pipeline)
    return pipeline


def _check_number(pipeline: Pipeline) -> None:
    count, paths = len(pipeline.models), len(pipeline.state_paths)
    if not count:
        msg = "no model is active: declare one, or activate one that is declared"
        raise InvalidPipeline(msg)
    if paths > _MOST_STATE_PATHS:
        msg = (
            f"{count} active models need {paths} fields in the state index, two for each and one"
            f" for each that it reads; MongoDB allows {_MOST_STATE_PATHS}: deactivate some, or"
            " watch the collection with a second pipeline"
        )
        raise InvalidPipeline(msg)


def _by_name(declarations: Sequence[Declaration]) -> dict[str, Declaration]:
    declared: dict[str, Declaration] = {}
    for declaration in declarations:
        if declaration.name in declared:
            msg = f"two models are called {declaration.name!r}: rename one"
            raise InvalidPipeline(msg)
        declared[declaration.name] = declaration
    return declared


def _check_upstreams(
    active: Mapping[str, Declaration], declared: Mapping[str, Declaration]
) -> None:
    for name, declaration in active.items():
        for upstream in (*declaration.reads, *declaration.after):
            if upstream not in declared:
                known = ", ".join(sorted(declared))
                msg = f"{name} names {upstream!r}, which is no model of this pipeline ({known})"
                raise InvalidPipeline(msg)
        for upstream in declaration.reads:
            if upstream not in active:
                msg = (
                    f"{name} reads {upstream!r}, which is inactive: activate it, or deactivate both"
                )
                raise InvalidPipeline(msg)


def _ordered(upstreams: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names, upstream first; among those that are free, as they were declared."""
    sorter = TopologicalSorter(upstreams)
    try:
        sorter.prepare()
    except CycleError as exc:
        circle = " -> ".join(reversed(exc.args[1]))
        msg = f"models read each other in a circle: {circle}; let one of them read less"
        raise InvalidPipeline(msg) from exc
    place = {name: position for position, name in enumerate(upstreams)}
    order: list[str] = []
    free: list[str] = list(sorter.get_ready())
    while free:
        free.sort(key=place.__getitem__)
        order.append(free.pop(0))
        sorter.done(order[-1])
        free += sorter.get_ready()
    return order


def _carried(
    order: Sequence[str], upstreams: Mapping[str, Sequence[str]]
) -> tuple[dict[str, str | None], tuple[tuple[str, str], ...]]:
    """Choose carriers: the last upstream, behind which all others lie.

    Where one does not lie on the way of the last, the ways are joined: the first model in which the
    way of the last differs follows the other one. It loses nothing that way, as it was carried the
    models that both ways share and is carried them still; and no circle arises, as the other one
    depends on nothing behind that fork.
    """
    carriers: dict[str, str | None] = {}
    added: list[tuple[str, str]] = []
    for name in order:
        carriers[name] = None
        for upstream in sorted(set(upstreams[name]), key=order.index):
            last = carriers[name]
            if last is None or last in _way(upstream, carriers):
                carriers[name] = upstream
            elif upstream not in _way(last, carriers):
                fork = _fork(upstream, last, carriers)
                carriers[fork] = last
                added.append((fork, last))
                carriers[name] = upstream
    return carriers, tuple(added)


def _fork(model: str, other: str, carriers: Mapping[str, str | None]) -> str:
    """Return the first model on the way to `model`, itself included, not on the way to `other`."""
    shared = _way(other, carriers)
    return next(name for name in _way(model, carriers) if name not in shared)


def _way(name: str | None, carriers: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return a model and all that come before it, in the order in which an event passes them."""
    way: list[str] = []
    while name is not None:
        way.append(name)
        name = carriers[name]
    return tuple(reversed(way))


def _closure(name: str, reads: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Return everything that a model reads, directly or through others."""
    found: set[str] = set()
    todo = list(reads[name])
    while todo:
        upstream = todo.pop()
        if upstream not in found:
            found.add(upstream)
            todo += reads[upstream]
    return frozenset(found)
