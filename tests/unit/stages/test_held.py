"""An event that waits for something holds up no work, and what is acknowledged stays in order."""

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest

from streams.contract.events import Origin
from streams.contract.pipeline import CHANGES
from streams.errors import FetchFailed
from streams.kafka.faust.worker import StageWorker
from streams.settings import KafkaSettings, StageSettings
from streams.stages.isolate import Isolator
from streams.stages.outcome import Failed, Ok, Result, Waiting
from streams.stages.stage import Stage
from tests.unit.stages.test_stage import CLIP, TENANT, EchoStep, changed, message
from tests.waiting import DEADLINE_SECONDS


class SlowStep(EchoStep):
    """Waits for the futures of some documents."""

    def __init__(self, *ids):
        super().__init__()
        self.until = {name: Future() for name in ids}

    def _one(self, event):
        until = self.until.get(event.document_id)
        if until is not None and not until.done():
            return Waiting(event=replace(event, origin=Origin.REPLAY), until=until)
        return super()._one(event)


class Run:
    """A stage in its worker, with batches that a test gives one by one."""

    def __init__(self, step):
        self.acknowledged = []
        self.delivered = []
        self.stage = Stage(CLIP, step, StageSettings(), tenant=TENANT, deliver=self._deliver)
        self.worker = StageWorker(CLIP, KafkaSettings(), StageSettings())
        self._batches = asyncio.Queue()
        self._offset = 0

    async def __aenter__(self):
        self._task = asyncio.create_task(self.worker._consume(self.stage, self))
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.wait([self._task])

    async def take(self, *_, within):
        return await self._batches.get()

    def ack(self, event):
        self.acknowledged.append(event.offset)

    def give(self, *ids):
        batch = []
        for name in ids:
            made = message(changed(name))
            batch.append(
                SimpleNamespace(
                    key=made.key,
                    value=made.value,
                    topic=made.topic,
                    partition=0,
                    offset=self._offset,
                    tp=("t", 0),
                    headers=made.headers,
                )
            )
            self._offset += 1
        self._batches.put_nowait(batch)

    async def _deliver(self, records):
        self.delivered += [(topic, record.key) for topic, record in records]
        return []

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await asyncio.sleep(0.005)


def key(name):
    return message(changed(name)).key


def test_event_that_waits_holds_up_no_other_and_acknowledgements_stay_in_order():
    """Fails when `handle` waits for it, or when what is finished behind it is acknowledged."""
    step = SlowStep("slow", "slower")

    async def scenario():
        async with Run(step) as run:
            run.give("a", "slow", "b")
            run.give("c", "slower")
            run.give("d")
            await run.until(lambda: len(run.delivered) == 4)
            assert run.delivered == [(CLIP.output, key(name)) for name in "abcd"]
            assert run.acknowledged == [0]
            assert run.stage.progress.in_flight == 2
            step.until["slow"].set_result(None)
            await run.until(lambda: len(run.acknowledged) == 4)
            assert run.acknowledged == [0, 1, 2, 3]
            assert run.worker._next_offset == {("t", 0): 4}
            step.until["slower"].set_result(None)
            await run.until(lambda: len(run.acknowledged) == 6)
            assert run.delivered[4:] == [
                (CLIP.output, key("slow")),
                (CLIP.output, key("slower")),
            ]
            assert run.acknowledged == list(range(6))
            assert run.stage.progress.in_flight == len(run.worker._order) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("why", ["stop", "rebalance"])
def test_what_waits_is_put_back_when_the_partitions_go(why):
    """Fails without `give_up`: Faust waits until everything that was taken is acknowledged."""
    step = SlowStep("slow")

    async def scenario():
        async with Run(step) as run:
            run.give("slow", "a")
            await run.until(lambda: len(run.delivered) == 1)
            if why == "stop":
                run.stage.stop()
            else:
                run.worker.app.rebalancing = True
                await run.worker._measure_lag(run.stage)
            await run.until(lambda: len(run.acknowledged) == 2)
            assert run.delivered[1:] == [(CHANGES, key("slow"))]

    asyncio.run(scenario())


def test_what_is_put_back_is_the_same_record():
    original = message(changed("a"), offset=4)
    sent = []

    async def deliver(records):
        sent.extend(records)
        return []

    class Later(EchoStep):
        def _one(self, event):
            return Ok(event=None, result=Result.POSTPONED)

    stage = Stage(CLIP, Later(), StageSettings(), tenant=TENANT, deliver=deliver)
    assert asyncio.run(stage.handle([original])) == [original]
    [(topic, record)] = sent
    assert (topic, record.key, record.value) == (original.topic, original.key, original.value)
    assert record.headers == original.headers
    assert topic in StageWorker(CLIP, KafkaSettings(), StageSettings())._channels


def test_newer_event_of_the_document_takes_the_place_of_one_that_waited():
    """Fails when what was held is put behind what is new: of equals the last one counts."""
    step = SlowStep("slow")

    async def scenario():
        async with Run(step) as run:
            run.give("slow")
            await run.until(lambda: len(run.stage.held) == 1)
            step.until["slow"].set_result(None)
            run.give("slow")
            await run.until(lambda: len(run.acknowledged) == 2)

    asyncio.run(scenario())
    assert {len(batch) for batch in step.batches} == {1}
    assert step.batches[-1][0].origin is Origin.LIVE


def test_url_whose_server_is_away_is_not_tried_again_while_others_wait():
    """Fails without FetchFailed in `_may_pass`: the stage would pause between its attempts."""
    pauses = []

    class Away(EchoStep):
        def _one(self, event):
            return Failed(error=FetchFailed("away"))

    isolator = Isolator("clip", Away(), StageSettings(), pause=pauses.append, beat=lambda: None)
    [outcome] = isolator.apply([changed("a")])
    assert isinstance(outcome.error, FetchFailed)
    assert pauses == []
