"""The step of any model: what it reads is found, what is done is left alone, the rest is computed.

What other models made, an event carries. What a model reads of the document itself is read from
MongoDB; images are decoded side by side in processes of their own. One that cannot be decoded fails
alone, also if it kills its decoder. An image behind a URL is fetched while others are handled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streams import metrics
from streams.contract.documents import Output
from streams.contract.events import DocumentDeleted, ModelApplied, Origin
from streams.contract.manifest import Feature
from streams.contract.pipeline import IMAGE, Model, Pipeline
from streams.contract.states import Recaption, is_good_enough
from streams.errors import DocumentError, FeatureMismatch, InvalidEvent, ModelFailed
from streams.images.find import Arrived, Awaited, Found, FoundInputs, InputSource, Postponed
from streams.images.pool import DecodePool
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import Made, Predictor
from streams.stages.made import applied, inputs_of, lineage_of, misfit, own_output
from streams.stages.outcome import Failed, Input, Ok, Outcome, Result, Waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The version of a model that serves. A batch takes it once and uses nothing else.

    Attributes:
        version: As outputs name it.
        predictor: The model.
        features: What it reads of other models.
        recaption: What its promotion means for outputs that are stored.
    """

    version: str
    predictor: Predictor
    features: Mapping[str, Feature]
    recaption: Recaption = Recaption.ALL


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """An event for which the model has to run.

    Attributes:
        event: The event.
        found: What the model reads of the document itself; None when it reads only outputs.
        inputs: Fingerprint of every field that the output will depend on.
    """

    event: Arrived
    found: FoundInputs | None
    inputs: Mapping[str, str]


class ModelStep:
    """One model over the events of a batch."""

    def __init__(
        self,
        model: Model,
        pipeline: Pipeline,
        current: Callable[[], Ready | None],
        self_test: Callable[[], bool],
        *,
        source: InputSource | None = None,
        decoders: DecodePool | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            model: The model.
            pipeline: Where it stands.
            current: Says which version serves; None while none does.
            self_test: Whether that version still computes what it should.
            source: Where documents are; for a model that reads fields of theirs.
            decoders: Decode images, for a model that reads them. Each worker has a thread here that
                prepares inputs, so at most as many decoded images are in memory.
        """
        self._model = model
        self._pipeline = pipeline
        self._current = current
        self._self_test = self_test
        self._source = source
        self._decoders = decoders
        workers = decoders.workers if decoders is not None else 1
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="prepare")

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event; see `Step.run`.

        1. Take the version that serves.
        2. Sort out what needs no model: see `_without_model`.
        3. Find what the model reads of documents, and sort out what is done: see `_or_done`.
        4. Prepare the inputs of the rest, and compute them as one batch.
        """
        ready = self._current()  # 1
        outcomes: list[Outcome | None] = [self._without_model(ready, e) for e in events]  # 2
        if ready is None:
            return [outcome for outcome in outcomes if outcome is not None]
        todo = [i for i, outcome in enumerate(outcomes) if outcome is None]
        arrived = [event for event in (events[i] for i in todo) if isinstance(event, Arrived)]
        work: dict[int, _Work] = {}
        found = self._find(ready, arrived)  # 3
        for i, event, inputs in zip(todo, arrived, found, strict=True):
            step = self._or_done(ready, event, inputs)
            if isinstance(step, _Work):
                work[i] = step
            else:
                outcomes[i] = step
        for i, outcome in zip(work, self._compute(ready, list(work.values())), strict=True):  # 4
            outcomes[i] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def self_test(self) -> bool:
        """Whether the version that serves still computes what it should."""
        return self._self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version that outputs name; empty while there is none."""
        ready = self._current()
        return {self._model.name: ready.version} if ready else {}

    def _without_model(self, ready: Ready | None, event: Input) -> Outcome | None:
        """Return the outcome if the model cannot run for an event, else None.

        Without a version, without an output that it reads, or with one of a version that it was not
        made for, a document awaits a model: while one changes, outputs of either meet versions for
        either, and the reconciler repeats them.
        """
        if isinstance(event, DocumentDeleted):
            return Ok(event=event, result=Result.DELETED)
        if not isinstance(event, Arrived):
            return Failed(error=InvalidEvent(f"{self._model.name} got a {type(event).__name__}"))
        if ready is None:
            return Ok(event=None, result=Result.AWAITING_MODEL)
        problem = misfit(ready.features, event)
        if isinstance(problem, FeatureMismatch):
            return Failed(error=problem, version=ready.version)
        return Ok(event=None, result=Result.AWAITING_MODEL) if problem else None

    def _find(self, ready: Ready, events: Sequence[Arrived]) -> list[Found]:
        if self._source is None:
            return [None] * len(events)
        return self._source.find(
            events, may_stay=lambda event, stored: self._may_stay(ready, event, stored)
        )

    def _or_done(self, ready: Ready, event: Arrived, found: Found) -> Outcome | _Work:
        """Return what is to be computed for an event, or the outcome if nothing is."""
        own = found if isinstance(found, FoundInputs) else None
        if self._source is not None and own is None:
            return self._without_inputs(ready, found)
        inputs = inputs_of(self._model, event, own)
        if inputs is None:  # the document was changed since, and the event of that comes
            return Ok(event=None, result=Result.SUPERSEDED)
        work = _Work(event=event, found=own, inputs=inputs)
        stored = own_output(self._model, event, own, inputs)
        if stored is None or not self._may_stay(ready, event, stored):
            return work
        if own is not None and own.url is not None:
            stored = replace(stored, url=own.url)
        return Ok(event=self._applied(work, stored), result=Result.REUSED)

    def _without_inputs(self, ready: Ready, instead: Found) -> Outcome:
        if isinstance(instead, Awaited):
            return Waiting(event=instead, until=instead.fetched)
        if isinstance(instead, Postponed):
            return Ok(event=None, result=Result.POSTPONED)
        if isinstance(instead, DocumentError):
            return Failed(error=instead, version=ready.version)
        return Ok(event=None, result=Result.DELETED)

    def _may_stay(self, ready: Ready, event: Arrived, stored: Output) -> bool:
        """Whether an output of the same inputs may be sent on as it is.

        So may one that the newest promotion leaves alone, unless the change is a live one.
        """
        return is_good_enough(
            Recaption.ALL if event.origin is Origin.LIVE else ready.recaption,
            is_serving_version=stored.version == ready.version,
            is_of_current_features=dict(stored.features) == lineage_of(self._model, event),
        )

    def _compute(self, ready: Ready, work: Sequence[_Work]) -> list[Outcome]:
        prepared = self._prepared(ready.predictor, work)
        items = [item for is_input, item in prepared if is_input]
        made: Iterator[Made | DocumentError] = iter(())
        if items:
            made = iter(ready.predictor.predict(items))
            metrics.MODEL_CALLS.labels(self._model.name).inc(len(items))
        results = [next(made) if is_input else item for is_input, item in prepared]
        return [self._outcome(ready, w, r) for w, r in zip(work, results, strict=True)]

    def _prepared(self, predictor: Predictor, work: Sequence[_Work]) -> list[tuple[bool, Any]]:
        """Return for each piece of work (True, input), or (False, error)."""

        def prepare(piece: _Work) -> tuple[bool, Any]:
            try:
                return True, predictor.preprocess(self._item(piece))
            except DocumentError as exc:
                return False, exc

        # Threads are for waiting for the decoders; what is cheap is done at once.
        return list((self._threads.map if self._decoders is not None else map)(prepare, work))

    def _item(self, work: _Work) -> Any:
        values: dict[str, Any] = {}
        if work.found is not None:
            values = work.found.values()
            if self._decoders is not None:
                values[IMAGE] = self._decoders.decode(work.found.content)
        if isinstance(work.event, ModelApplied):
            features = self._model.declaration.features
            values |= {field: work.event.outputs[name].value for field, name in features.items()}
        return item_of(self._model.declaration, values)

    def _outcome(self, ready: Ready, work: _Work, made: Made | DocumentError) -> Outcome:
        if isinstance(made, DocumentError):
            return Failed(error=made, version=ready.version)
        numbers = made.value if isinstance(made.value, np.ndarray) else made.score
        if numbers is not None and not np.isfinite(numbers).all():
            msg = f"{self._model.name} {ready.version} gave numbers that are not finite"
            return Failed(error=ModelFailed(msg), version=ready.version)
        output = Output(
            value=made.value,
            version=ready.version,
            features=lineage_of(self._model, work.event),
            inputs=work.inputs,
            score=made.score,
            url=work.found.url if work.found is not None else None,
        )
        return Ok(event=self._applied(work, output), result=Result.DONE)

    def _applied(self, work: _Work, output: Output) -> ModelApplied:
        return applied(self._model, self._pipeline, work.event, output, work.found)
