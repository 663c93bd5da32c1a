"""Every strike once, on one loaded stack; `make soak` does the same at random for longer."""

import random

import pytest

from tests.faults.soak import is_good, running, soak
from tests.faults.strikes import STRIKES


@pytest.mark.timeout(600)
def test_every_document_is_right_whatever_was_struck(tmp_path):
    """Fails when `_commit` of the publisher no longer waits for acknowledgements, or a stage acks
    before it has delivered.
    """
    generator = random.Random(7)  # noqa: S311 - which process dies, no secret
    strikes = generator.sample(list(STRIKES), len(STRIKES))
    with running(tmp_path) as (stack, settings):
        report = soak(stack, settings, generator, strikes, pause_seconds=(1, 4), freeze_seconds=8)
    assert is_good(report), report
    assert report["strikes"] == len(STRIKES)
    assert report["documents_by_state"]["failed"] > 0, "broken images were among them"
    assert report["documents_by_state"]["pending"] == 0
