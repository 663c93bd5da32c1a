"""The loop of a stage, without the waits for its neighbours before it. `python -m tests.starting`.

Prints a line as soon as it is a member of its group.
"""

import sys

from streams.kafka.faust.worker import StageWorker
from streams.logs import configure_logging
from streams.settings import load_settings
from streams.stages.stage import Stage
from tests.pipelines import STAGES


async def report(*_: object, **__: object) -> None:
    """Say so."""
    sys.stdout.write("assigned\n")
    sys.stdout.flush()


SINK = STAGES["sink"]

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings.log, process=SINK.name)
    worker = StageWorker(SINK, settings.kafka, settings.stage)
    worker.app.on_partitions_assigned.connect(report)
    idle: object = None  # no record ever comes
    worker.run(Stage(SINK, idle, settings.stage, tenant="none", deliver=worker.deliver))  # type: ignore[arg-type]
