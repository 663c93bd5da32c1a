"""The declared pipeline, for whoever declares it: a notebook, a producer's program, a command.

    with open_pipeline() as pipeline:
        pipeline.create_model("colour", "shop_models.colours:DominantColour", key="img")

Running processes follow what is declared here; nothing else has to be told.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pymongo import MongoClient
from pymongo.database import Database

from streams.capture.copies import CopyRequests
from streams.contract.declaration import BASE, Declaration, ModelState, parse_declarations
from streams.contract.pipeline import Pipeline, compile_pipeline
from streams.contract.plan import Plan, plan
from streams.errors import InvalidPipeline, PointerConflict
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations, Stored
from streams.mongo.processes import Report, read_reports
from streams.mongo.store import DocumentStore
from streams.mongo.stored_outputs import count_outputs
from streams.operate.forget import Forgotten, check_forgettable, forget_model
from streams.registry.versions import Registry
from streams.settings import Settings, load_settings

Rows = tuple[Declaration, ...]

#: Tries to change one model while others change the pipeline, too.
_ATTEMPTS: Final = 10
_PAUSE_SECONDS: Final = 0.5


class DeclaredPipeline:
    """The pipeline of one collection. Safe to share between threads.

    Every change is one revision, made by compare-and-set: two that are made at once are both kept,
    and what does not compile is refused with nothing changed.
    """

    def __init__(self, settings: Settings, client: MongoClient[dict[str, Any]]) -> None:
        """Keep what is needed; nothing is read."""
        self._settings = settings
        self._client = client
        self._state = state_database(client, settings.mongo)
        self._declarations = Declarations(self._state, settings.mongo.tenant)

    def read(self) -> Stored:
        """Return the pipeline of now.

        Raises:
            InvalidPipeline: It is of another release, which this process cannot read.
            StoreUnavailable: MongoDB does not answer.
        """
        return self._declarations.read()

    def history(self) -> list[Stored]:
        """Return every pipeline that there was, oldest first; the last one holds.

        Raises:
            InvalidPipeline: It is of another release, which this process cannot read.
            StoreUnavailable: MongoDB does not answer.
        """
        return self._declarations.history()

    def create_model(
        self,
        name: str,
        kind: str,
        *,
        key: str = BASE,
        features: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
        after: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        active: bool = True,
    ) -> Declaration:
        """Declare one more model. Doing it again with the same words changes nothing.

        Args:
            name: Name of the model.
            kind: A built-in kind, or `package.module:Class`, importable where the model runs.
            key: The field that it is about; `_base` is the whole document.
            features: Upstream model by the field that its output stands for.
            fields: Further fields of the document that it reads as they are.
            after: Upstream models that it follows and does not read.
            options: What its kind is to be told.
            active: Whether it runs.

        Raises:
            InvalidPipeline: It makes no pipeline with the others, or its name is taken.
            PointerConflict: Others change the pipeline all the time.
            StoreUnavailable: MongoDB does not answer.
        """
        row = {"name": name, "kind": kind, "key": key, "features": dict(features or {})}
        row |= {"fields": list(fields), "after": list(after), "options": dict(options or {})}
        [declaration] = parse_declarations(
            [row | {"state": ModelState.ACTIVE if active else ModelState.INACTIVE}]
        )

        def add(declared: Rows) -> Rows:
            taken = next((other for other in declared if other.name == name), None)
            if taken is not None and taken != declaration:
                msg = (
                    f"a model {name!r} is declared otherwise: change it with `captionstream"
                    " pipeline apply`, forget it first, or choose another name"
                )
                raise InvalidPipeline(msg)
            return declared if taken else (*declared, declaration)

        self._change(add, f"{name} created")
        return declaration

    def list_models(self, *, active: bool | None = None) -> list[str]:
        """Return the names of all models, or of those that run or do not; upstream first.

        Raises:
            InvalidPipeline: The pipeline is of another release, which this process cannot read.
            StoreUnavailable: MongoDB does not answer.
        """
        pipeline = self.read().pipeline
        resting = [d.name for d in pipeline.declarations if d.name not in pipeline.models]
        return [*([] if active is False else pipeline.models), *([] if active else resting)]

    def set_state(self, name: str, state: ModelState | str) -> Stored:
        """Let a model run, or rest; its outputs stay.

        Raises:
            InvalidPipeline: There is no such model, or others cannot do without it.
            PointerConflict: Others change the pipeline all the time.
            StoreUnavailable: MongoDB does not answer.
        """
        wanted = ModelState(state)
        return self._change(
            lambda declared: with_state(declared, name, wanted), f"{name} made {wanted.value}"
        )

    def forget(self, name: str) -> Forgotten:
        """Remove a model that is inactive and that nobody reads: its outputs, versions and topics.

        Repeating it goes on where it stopped. See `forget_model`.

        Raises:
            InvalidPipeline: Somebody needs it, or there is no such model; the message says more.
            PointerConflict: The pipeline was changed meanwhile; nothing is removed.
            StoreUnavailable: MongoDB does not answer.
        """
        return forget_model(name, self._settings, self._client)

    def check_forgettable(self, name: str) -> None:
        """Find out whether `forget` would remove a model; nothing is changed.

        Raises:
            InvalidPipeline: It would not.
            StoreUnavailable: MongoDB does not answer.
        """
        check_forgettable(name, self._declarations, self._state)

    def plan(self, declarations: Sequence[Declaration]) -> tuple[Stored, Plan]:
        """Return the pipeline of now, and what happens when another one replaces it.

        Documents are counted on the server; nothing is changed.

        Raises:
            InvalidPipeline: The declarations make no pipeline.
            StoreUnavailable: MongoDB does not answer.
        """
        before, after = self.read(), compile_pipeline(declarations)
        stored = count_outputs(DocumentStore(self._client, self._settings.mongo, after))
        serving = Registry(self._state).serving(after)
        rates = rates_of(read_reports(self._state))
        return before, plan(before.pipeline, serving, stored, rates)

    def replace(
        self, declarations: Sequence[Declaration], *, expected_revision: int, reason: str
    ) -> Stored:
        """Declare a whole pipeline in place of the one that was looked at.

        Outputs of a model that rested may be of fields that were changed meanwhile, which their
        versions do not show: where one runs again, every document is compared with its fields.

        Raises:
            InvalidPipeline: The declarations make no pipeline.
            PointerConflict: The pipeline has another revision by now.
            StoreUnavailable: MongoDB does not answer.
        """
        rested = {
            d.name for d in self.read().pipeline.declarations if d.state is ModelState.INACTIVE
        }
        stored = self._declarations.replace(
            declarations, expected_revision=expected_revision, reason=reason
        )
        if rested & stored.pipeline.models.keys():
            CopyRequests(self._state).ask()
        return stored

    def serving(self) -> dict[str, str]:
        """Return the version that serves, of each model that has one, inactive ones included.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        pointers = Registry(self._state).pointers().readable
        return {name: p.serving for name, p in pointers.items() if p.serving is not None}

    def _change(self, change: Callable[[Rows], Rows], reason: str) -> Stored:
        for _ in range(_ATTEMPTS):
            before = self.read()
            wanted = change(before.pipeline.declarations)
            if wanted == before.pipeline.declarations:
                return before
            try:
                return self.replace(wanted, expected_revision=before.revision, reason=reason)
            except PointerConflict as exc:
                conflict = exc
        raise conflict


@contextmanager
def open_pipeline(settings: Settings | None = None) -> Iterator[DeclaredPipeline]:
    """Give the pipeline of the collection that the settings name.

    Args:
        settings: Those of the environment when None.

    Raises:
        SettingsError: A setting is wrong.
    """
    chosen = settings or load_settings()
    with connect(chosen.mongo) as client:
        yield DeclaredPipeline(chosen, client)


def with_state(declared: Rows, name: str, state: ModelState) -> Rows:
    """Return declarations with the state of one model changed.

    Raises:
        InvalidPipeline: There is no such model.
    """
    if all(declaration.name != name for declaration in declared):
        known = ", ".join(sorted(declaration.name for declaration in declared))
        msg = f"no model {name[:80]!r} is declared (there are: {known})"
        raise InvalidPipeline(msg)
    return tuple(d.model_copy(update={"state": state}) if d.name == name else d for d in declared)


def wait_until_followed(
    pipeline: Pipeline, state: Database[dict[str, Any]], *, timeout_seconds: float
) -> bool:
    """Wait until every model of a pipeline runs somewhere, and no other one; whether that is so.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        running = {name for report in read_reports(state) for name in report.models}
        if running == set(pipeline.models):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def rates_of(reports: Sequence[Report]) -> dict[str, float]:
    """Return the documents a second of each model that is at work, over all its processes."""
    rates: dict[str, float] = {}
    for report in reports:
        for name in report.models:
            rates[name] = rates.get(name, 0.0) + report.rate
    return rates
