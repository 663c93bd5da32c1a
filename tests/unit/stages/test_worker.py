"""The shell around a stage: what is acknowledged, and what Faust does beside."""

import asyncio

from streams.settings import KafkaSettings
from streams.stages import FEATURIZE
from streams.stages.worker import build_app


def test_start_leaves_the_working_directory_alone(tmp_path, monkeypatch):
    """Fails without `_create_directories`: a read-only directory would end the process."""
    monkeypatch.chdir(tmp_path)
    asyncio.run(build_app(FEATURIZE, KafkaSettings()).on_first_start())
    assert list(tmp_path.iterdir()) == []
