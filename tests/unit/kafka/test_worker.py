"""The shell around a stage: what is acknowledged, and what Faust does beside."""

import asyncio
import math
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError

from streams.contract.events import Record
from streams.kafka.faust.application import build_app
from streams.kafka.faust.worker import StageWorker
from streams.settings import KafkaSettings, StageSettings
from streams.stages.held import Held
from tests.pipelines import STAGES

CLIP = STAGES["clip"]


def test_start_leaves_the_working_directory_alone(tmp_path, monkeypatch):
    """Fails without `_create_directories`: a read-only directory would end the process."""
    monkeypatch.chdir(tmp_path)
    asyncio.run(build_app(CLIP, KafkaSettings()).on_first_start())
    assert list(tmp_path.iterdir()) == []


class FakeChannel:
    """A topic that fails as it is told, by key: at once, or when the broker answers."""

    def __init__(self):
        self.sent = []
        self.at_once = {}
        self.later = {}

    async def send(self, *, key, value, headers):
        if error := self.at_once.pop(key, None):
            msg = "Error while sending"
            raise ProducerSendError(msg) from error
        self.sent.append(key)
        future = asyncio.get_running_loop().create_future()
        if error := self.later.pop(key, None):
            future.set_exception(error)
        else:
            future.set_result(None)
        return future


@pytest.fixture
def channel():
    return FakeChannel()


@pytest.fixture
def worker(channel):
    made = StageWorker(CLIP, KafkaSettings(), StageSettings(backoff_initial_seconds=0))
    made._channels = {CLIP.output: channel}
    return made


def deliver(worker, keys):
    records = [(CLIP.output, Record(key=key, value=b"", headers=[])) for key in keys]
    return asyncio.run(worker.deliver(records))


@pytest.mark.parametrize("when", ["at_once", "later"])
def test_record_that_is_too_large_is_told_and_not_repeated(worker, channel, when):
    """Fails when its error is retried, as others are."""
    getattr(channel, when)[b"b"] = MessageSizeTooLargeError()
    assert deliver(worker, [b"a", b"b", b"c"]) == [1]
    assert channel.sent.count(b"a") == channel.sent.count(b"c") == 1


@pytest.mark.parametrize("when", ["at_once", "later"])
def test_failed_send_repeats_the_batch_in_order(worker, channel, when):
    """Fails without `ProducerSendError`: it would leave the loop and end the process."""
    getattr(channel, when)[b"b"] = KafkaConnectionError()
    channel.later[b"c"] = MessageSizeTooLargeError()
    assert deliver(worker, [b"a", b"b", b"c"]) == [2]
    assert channel.sent[-2:] == [b"a", b"b"]


def test_fault_of_ours_while_sending_ends_the_process(worker, channel):
    channel.later[b"b"] = RuntimeError("scripted")
    with pytest.raises(RuntimeError, match="scripted"):
        deliver(worker, [b"a", b"b"])


class FakeSource:
    """Gives batches of offsets, and notes what is acknowledged, and how many were asked for."""

    def __init__(self, batches):
        self._batches = iter(batches)
        self.acknowledged = []
        self.asked = []

    async def take(self, most, *, within):
        self.asked.append((most, round(within / StageSettings().batch_wait_seconds)))
        return [fake_message(offset) for offset in next(self._batches)]

    def ack(self, message):
        self.acknowledged.append(message.offset)


def fake_message(offset):
    place = {"topic": "t", "partition": 0, "offset": offset, "tp": ("t", 0)}
    return SimpleNamespace(**place, key=b"", value=b"", headers=())


def test_batch_is_acknowledged_in_order_when_it_is_finished(worker):
    """Fails when a batch is acknowledged before `handle` returns, or although it raises."""
    source = FakeSource([[0, 1], [2], [3, 4]])
    seen = []

    async def handle(messages):
        seen.append(list(source.acknowledged))
        if messages[0].offset == 3:
            msg = "scripted"
            raise RuntimeError(msg)
        return messages

    stage = SimpleNamespace(handle=handle, is_stopping=False, held=Held())
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="scripted")):
        asyncio.run(worker._consume(stage, source))
    assert seen == [[], [0, 1], [0, 1, 2]]
    assert source.acknowledged == [0, 1, 2]
    assert worker._next_offset == {("t", 0): 3}
    assert worker.app.conf.agent_supervisor.__name__ == "CrashingSupervisor"


@pytest.mark.parametrize(
    ("quick_seconds", "asked"),
    [(math.inf, [(2, 1), (8, 1), (8, 4), (2, 1), (8, 1)]), (0.0, [(2, 1)] * 5)],
)
def test_quick_batches_grow_and_get_time_to_fill(monkeypatch, quick_seconds, asked):
    """Fails when they do not: what a batch costs is most of what a finished document costs."""
    monkeypatch.setattr("streams.kafka.faust.worker._QUICK_SECONDS", quick_seconds)
    worker = StageWorker(CLIP, KafkaSettings(), StageSettings(batch_size=2))
    source = FakeSource([[0, 1], range(2, 10), [10], [11, 12]])  # 8 are many

    async def handle(messages):
        return messages

    stage = SimpleNamespace(handle=handle, is_stopping=False, until_ready=Held().until_ready)
    with pytest.RaisesGroup(RuntimeError):  # there are no more
        asyncio.run(worker._consume(stage, source))
    assert source.asked == asked
