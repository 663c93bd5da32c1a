"""The consumer of a stage gets the fetch wait of the settings: Faust has no option for it."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer

from streams.kafka.faust.application import build_app
from streams.settings import KafkaSettings
from tests.pipelines import STAGES


@pytest.fixture
def run():
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


async def fetch_wait(consumer):
    await consumer.stop()
    return consumer._fetch_max_wait_ms


def test_fetch_wait_of_the_settings_reaches_the_consumer(run):
    """Fails without the assignment in `_create_worker_consumer`."""

    async def consumer():
        settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", fetch_wait_seconds=0.25)
        app = build_app(STAGES["clip"], settings)
        thread = app.consumer._thread
        thread.thread_loop.close()  # it is never started
        return await fetch_wait(thread._create_worker_consumer(app.transport))

    assert run(consumer()) == 250


def test_the_library_still_keeps_it_where_we_set_it(run):
    async def consumer():
        return await fetch_wait(
            AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1", fetch_max_wait_ms=123)
        )

    assert run(consumer()) == 123
