"""Two publishers at once, of which one sleeps and wakes up as if nothing had happened."""

import signal

import pytest

from tests.faults.processes import running
from tests.integration.test_publisher import mark, position_row
from tests.waiting import DEADLINE_SECONDS, wait_until

LEADS = "captionstream_publisher_leader"


@pytest.mark.timeout(300)
def test_publisher_that_slept_beyond_its_lease_stands_by(settings, client, documents, published):
    """Fails without owner and epoch in the filter of `Lease.write`: both would lead.

    The end fails without the handlers of signals in `run_publisher`: the lease is given away.
    """
    lease = settings.publisher.model_copy(update={"lease_seconds": 10.0})
    settings = settings.model_copy(update={"publisher": lease})
    name = "publisher"
    with running(name, settings) as first:
        wait_until(lambda: first.metric(LEADS), doing="the first to lead")
        mark(documents, published, 0)
        with running(name, settings) as second:
            wait_until(lambda: second.metric(LEADS) is not None, doing="the second")
            first.send_signal(signal.SIGSTOP)
            wait_until(lambda: second.metric(LEADS), doing="the takeover")
            mark(documents, published, 1)
            row = position_row(client, settings)
            first.send_signal(signal.SIGCONT)
            wait_until(lambda: first.metric(LEADS) == 0, doing="the first to stand by")

            mark(documents, published, 2)
            assert second.metric(LEADS) == 1
            now = position_row(client, settings)
            assert (now["owner"], now["epoch"]) == (row["owner"], row["epoch"])
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=DEADLINE_SECONDS) == 0
            assert position_row(client, settings)["owner"] != row["owner"]
