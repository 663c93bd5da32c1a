"""The one loop of every stage: a batch of records in, outcomes delivered, then acknowledged.

Knows records, outcomes and dead letters. Does not know what a step computes, nor Faust: `app.py`
hands in batches, a way to deliver, and acknowledges when `handle` returns.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from structlog import get_logger

from streams import metrics
from streams.contract.dead_letters import DeadLetter, is_replay_mark, parse_dead_letter
from streams.contract.events import Record
from streams.contract.ids import document_key
from streams.contract.pipeline import is_dead_letter_topic
from streams.contract.wire import decode_event, is_of, is_stored
from streams.errors import InvalidEvent
from streams.kafka.records import Delivery, Message
from streams.settings import StageSettings
from streams.stages import StageSpec
from streams.stages.held import Held
from streams.stages.isolate import Isolator
from streams.stages.outcome import Failed, Input, Ok, Outcome, Result, Step, Waiting
from streams.stages.progress import Progress
from streams.stages.records import RecordMaker

log = get_logger(__name__)

_Finished = Ok | Failed


class Stage:
    """Handles batches for one stage. One `handle` at a time."""

    def __init__(
        self,
        spec: StageSpec,
        step: Step,
        settings: StageSettings,
        *,
        tenant: str,
        deliver: Callable[[Delivery], Awaitable[Sequence[int]]],
    ) -> None:
        """Keep what is needed.

        Args:
            spec: Which stage this is.
            step: What it does.
            settings: Batches and retries.
            tenant: `database.collection`; records about others are refused.
            deliver: Returns when the broker has acknowledged every record but those that are too
                large for it, whose positions it returns; raises to have the process end, so that
                the batch is taken again after a restart.
        """
        self.spec = spec
        self.step = step
        self.progress = Progress(spec.name)
        self._tenant = tenant
        self._is_last = spec.output is None
        self._records = RecordMaker(spec, tenant=tenant)
        self._deliver = deliver
        self._stopping = threading.Event()
        #: Events that wait for what the step has begun for them.
        self.held = Held()
        self._isolator = Isolator(
            spec.name, step, settings, pause=self._stopping.wait, beat=self.progress.beat
        )
        # torch never runs on the event loop, and never twice at once.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=spec.name)

    @property
    def waits_for(self) -> str:
        """Why the batch in hand is held; empty while it is not."""
        return self._isolator.waits_for

    @property
    def trouble(self) -> str:
        """Why this process cannot work any more, and will end soon; empty while it can."""
        return self._isolator.trouble

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Give up waiting for neighbours; a batch that is waiting raises `Unavailable`.

        Call it on the event loop. What is held is put back.
        """
        self._stopping.set()
        self.held.give_up(whether=True)

    async def until_ready(self) -> None:
        """Wait until something that is held can be finished."""
        await self.held.until_ready()

    def note_rebalance(self, *, is_under_way: bool) -> None:
        """Put back what is held while partitions are to go, and when the process is to end."""
        self.held.give_up(whether=self.is_stopping or is_under_way)

    def note_lag(self, lag: int | None, *, may_rest: bool) -> None:
        """Keep how many records wait for the metrics; nothing to do is progress."""
        metrics.STAGE_LAG.labels(self.spec.name).set(float("nan") if lag is None else lag)
        if may_rest:
            self.progress.beat()
        metrics.OLDEST_UNACKED_SECONDS.labels(self.spec.name).set(self.progress.oldest_seconds)

    async def handle(self, messages: Sequence[Message]) -> list[Message]:
        """Handle a batch, and what was held and is ready. Return the messages that are finished.

        1. Decode each message; one that is not ours fails alone.
        2. Keep the newest event of each document.
        3. Apply the step, in the worker thread.
        4. Deliver outputs and dead letters, and wait for the broker.
        5. Hold what waits.
        6. Count.

        Raises:
            Unavailable: Nothing was finished; the process is to end and take the batch again.
            ProcessBroken: Likewise.
        """
        started = time.monotonic()
        ready = self.held.take()
        inputs = [  # 1
            *(item for _, item in ready),
            *(self._decode(message) for message in messages),
        ]
        messages = [*(message for message, _ in ready), *messages]
        self.progress.begin(len(messages) + len(self.held))
        chosen = newest_by_document(inputs)  # 2
        events = [item for item in (inputs[i] for i in chosen) if not isinstance(item, _Finished)]
        applied = await asyncio.get_running_loop().run_in_executor(  # 3
            self._worker, self._isolator.apply, events
        )
        outcomes: list[Outcome] = [
            item if isinstance(item, _Finished) else Ok(event=None, result=Result.SUPERSEDED)
            for item in inputs
        ]
        for position, outcome in zip(chosen, applied, strict=True):
            outcomes[position] = outcome
        metrics.STEP_SECONDS.labels(self.spec.name).observe(time.monotonic() - started)
        metrics.BATCH_SIZE.labels(self.spec.name).observe(len(messages))
        outcomes = await self._deliver_all(messages, outcomes)  # 4
        finished, results = [], Counter[Result]()
        for message, outcome in zip(messages, outcomes, strict=True):
            if isinstance(outcome, Waiting):
                self.held.add(message, outcome)  # 5
                continue
            results[outcome.result if isinstance(outcome, Ok) else Result.FAILED] += 1
            finished.append(message)
        for result, count in results.items():  # 6
            metrics.DOCUMENTS.labels(self.spec.name, result.value).inc(count)
        self.progress.finish(len(finished), held=len(self.held))
        return finished

    def _decode(self, message: Message) -> Input | _Finished:
        try:
            if is_dead_letter_topic(message.topic):
                if is_replay_mark(message.headers) or not self._is_ours(message):
                    return Ok(event=None, result=Result.IGNORED)
                return parse_dead_letter(message.key, message.headers)
            if self._is_last and is_stored(message.headers) and self._is_ours(message):
                return Ok(event=None, result=Result.REUSED)
            return decode_event(message.key, message.value, message.headers, tenant=self._tenant)
        except InvalidEvent as exc:
            return Failed(error=exc)

    def _is_ours(self, message: Message) -> bool:
        return is_of(self._tenant, message.headers)

    async def _deliver_all(
        self, messages: Sequence[Message], outcomes: Sequence[Outcome]
    ) -> list[Outcome]:
        """Deliver what was made of a batch, and return the outcomes with what came of that.

        An event that cannot be encoded, or is too large for Kafka, fails alone.
        """
        made = [self._records.make(m, o) for m, o in zip(messages, outcomes, strict=True)]
        final = [outcome for outcome, _ in made]
        sent = [(i, record) for i, (_, records) in enumerate(made) for record in records]
        refused = await self._deliver([record for _, record in sent])
        bare: list[tuple[int, tuple[str, Record]]] = []
        for i in dict.fromkeys(sent[position][0] for position in refused):
            failed = final[i]
            if not isinstance(failed, Failed):
                error = InvalidEvent("what was made of this record is too large for Kafka")
                failed = final[i] = Failed(error=error)
            letters = self._records.dead_letter(messages[i], failed, is_bare=True)
            bare += [(i, letter) for letter in letters]
        left_out = await self._deliver([record for _, record in bare])
        if left_out:
            log.error("dead letter too large for Kafka, left out", stage=self.spec.name)
        self._count_letters(sent, refused, final)
        self._count_letters(bare, left_out, final)
        return final

    def _count_letters(
        self,
        sent: Sequence[tuple[int, tuple[str, Record]]],
        refused: Sequence[int],
        outcomes: Sequence[Outcome],
    ) -> None:
        """Count the dead letters that the broker has taken, by what happened."""
        for position, (i, (topic, _)) in enumerate(sent):
            outcome = outcomes[i]
            is_letter = is_dead_letter_topic(topic) and position not in refused
            if is_letter and isinstance(outcome, Failed):
                reason = type(outcome.error).__name__
                metrics.DEAD_LETTERS.labels(self.spec.name, reason).inc()


def newest_by_document(inputs: Sequence[Input | _Finished]) -> list[int]:
    """Return the positions of the events to process, in order.

    Of several events about the same output of one document only the newest counts; among equals
    the last, since one document's records are in order.
    """
    newest: dict[tuple[bytes, str], int] = {}
    for position, event in enumerate(inputs):
        if isinstance(event, _Finished):
            continue
        about = _about(event, position)
        before = newest.get(about)
        if before is None or _source(inputs[before]) <= _source(event):
            newest[about] = position
    return sorted(newest.values())


def _about(event: Input, position: int) -> tuple[bytes, str]:
    if isinstance(event, DeadLetter):
        return (event.key or b"", f"dead letter {position}")
    # The sink gets several models' outputs of one document; they do not compete.
    return (document_key(event.document_id), getattr(event, "model", ""))


def _source(event: Input | _Finished) -> tuple[int, int]:
    source = None if isinstance(event, _Finished) else event.source
    return (source.time, source.inc) if source is not None else (0, 0)
