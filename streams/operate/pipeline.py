"""The declared pipeline, for whoever declares it: a notebook, a producer's program, a command.

    with open_pipeline() as pipeline:
        pipeline.create_model("colour", "shop_models.colours:DominantColour", key="img")

Running processes follow what is declared here; nothing else has to be told.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pymongo import MongoClient

from streams.capture.copies import CopyRequests
from streams.contract.declaration import (
    BASE,
    Declaration,
    ModelState,
    parse_declarations,
    with_model,
    with_state,
)
from streams.contract.pipeline import compile_pipeline
from streams.contract.plan import Plan, plan
from streams.errors import PointerConflict
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations, Stored
from streams.mongo.processes import rates_of, read_reports
from streams.mongo.store import DocumentStore
from streams.mongo.stored_outputs import count_outputs
from streams.operate.forget import Forgotten, check_forgettable, forget_model
from streams.operate.given import class_path, keep
from streams.registry.versions import Registry
from streams.settings import Settings, load_settings

Rows = tuple[Declaration, ...]

#: Tries to change one model while others change the pipeline, too.
_ATTEMPTS: Final = 10


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
        model_or_kind: object,
        *,
        key: str = BASE,
        features: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
        after: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        active: bool = True,
    ) -> Declaration:
        """Declare one more model. Doing it again with the same words changes nothing.

        A torch module, or another object of a user's class, is kept as a version of the model,
        which serves from now on; its class is the kind.

        Args:
            name: Name of the model.
            model_or_kind: The object; or a built-in kind, or `package.module:Class`. Its class
                must be importable where the model runs.
            key: The field that it is about; `_base` is the whole document.
            features: Upstream model by the field that its output stands for.
            fields: Further fields of the document that it reads as they are.
            after: Upstream models that it follows and does not read.
            options: What its kind is to be told; of an object, what it was made with.
            active: Whether it runs.

        Raises:
            InvalidPipeline: It makes no pipeline with the others, its name is taken, or its class
                cannot be imported.
            InvalidBundle: A weight of the object is not finite.
            PointerConflict: Others change the pipeline all the time.
            StoreUnavailable: MongoDB does not answer.
        """
        given = None if isinstance(model_or_kind, str) else model_or_kind
        kind = model_or_kind if given is None else class_path(given)
        row = {"name": name, "kind": kind, "key": key, "features": dict(features or {})}
        row |= {"fields": list(fields), "after": list(after), "options": dict(options or {})}
        row |= {"state": ModelState.ACTIVE if active else ModelState.INACTIVE}
        [declaration] = parse_declarations([row])
        if given is not None:
            compile_pipeline(with_model(self.read().pipeline.declarations, declaration))
            keep(declaration, given, Registry(self._state))
        self._change(lambda declared: with_model(declared, declaration), f"{name} created")
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
        resting = set(self.list_models(active=False))
        runs_again = any(d.name in resting and d.state is ModelState.ACTIVE for d in declarations)
        requests = CopyRequests(self._state)
        if runs_again:
            requests.ask()  # first, as nobody does it when this is cut off
        stored = self._declarations.replace(
            declarations, expected_revision=expected_revision, reason=reason
        )
        if runs_again:
            requests.ask()  # again, as one may have begun with the pipeline of before
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
