"""The composition root: builds one process from the settings and runs it.

A process is `publisher` or a stage of the declared pipeline. Every process serves its HTTP
endpoints before anything else, so that a slow start can be watched, and waits for neighbours that
are away.
"""

import gc
import time
from collections.abc import Callable
from typing import Final, TypeVar

import stamina
from structlog import get_logger

from streams.capture.copies import CopyRequests
from streams.contract.pipeline import Pipeline
from streams.endpoints import Answers, Check, Endpoints, serve_endpoints
from streams.errors import SettingsError, Unavailable
from streams.following import Follower, end_in_good_order
from streams.kafka.faust.worker import StageWorker
from streams.kafka.offsets import reset_lost_offsets
from streams.kafka.topics import group_name, topic_name
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations, Stored
from streams.mongo.processes import Rate, Report, Reporter
from streams.settings import ModelSettings, Settings
from streams.stages import PUBLISHER, StageSpec, is_same_process, processes_of, stages_of
from streams.stages.outcome import Step
from streams.stages.quarantine import Quarantine
from streams.stages.stage import Stage
from streams.stages.steps import build_step
from streams.stages.watchdog import Watchdog, WatchedStep

log = get_logger(__name__)

T = TypeVar("T")

#: How often a process that is not ready looks whether it may begin.
_LOOK_SECONDS: Final = 0.2


def run_process(name: str, settings: Settings) -> None:
    """Run one process until SIGTERM or SIGINT, or until another pipeline concerns it.

    1. Serve the endpoints: not ready yet.
    2. Read which pipeline is declared; of a model that is inactive, wait until it is not.
    3. Run. A process has one pipeline all its life: when one is declared in which it would do
       something else, it ends in good order, and whoever started it starts it again.

    Raises:
        SettingsError: There is no such process, or a setting is wrong.
        SystemExit: At the end of a stage.
    """
    answers = Answers(
        health=lambda: Check(is_ok=True, reason="starting"),
        readiness=lambda: Check(is_ok=False, reason=waits_for[0]),
    )
    waits_for = ["waits for MongoDB"]
    endpoints = serve_endpoints(settings.http, answers)  # 1
    client = connect(settings.mongo)
    declared = Declarations(state_database(client, settings.mongo), settings.mongo.tenant)
    try:
        stored = wait_for(declared.read)  # 2
        while reason := _why_not(name, stored.pipeline):
            waits_for[0] = reason
            time.sleep(settings.models.poll_interval_seconds)
            stored = wait_for(declared.read)
        watch = PipelineWatch(name, stored, declared, settings.models)
        watch.start()
        if name == PUBLISHER:  # 3
            from streams.capture.process import run_publisher  # noqa: PLC0415 - no stage needs it

            run_publisher(settings, stored.pipeline, endpoints, answers, revision=watch.revision)
        else:
            spec = stages_of(stored.pipeline)[name]
            StageProcess(spec, settings, revision=watch.revision).run(endpoints, answers)
    finally:
        endpoints.close()


def _why_not(name: str, pipeline: Pipeline) -> str:
    """Return why a process has to wait until another pipeline is declared; "" if it has not.

    Raises:
        SettingsError: Nothing declared has this name.
    """
    if name in processes_of(pipeline):
        return ""
    if any(declaration.name == name for declaration in pipeline.declarations):
        return f"{name} is inactive: activate it with `captionstream pipeline activate {name}`"
    known = ", ".join(processes_of(pipeline))
    msg = (
        f"no process is called {name!r}; choose one of {known}, or declare a model of that name"
        " with `captionstream pipeline apply`"
    )
    raise SettingsError(msg)


class PipelineWatch:
    """Ends the process in good order when it has something else to do in the declared pipeline."""

    def __init__(
        self, name: str, stored: Stored, declared: Declarations, settings: ModelSettings
    ) -> None:
        """Keep what is needed; nothing is read yet."""
        self._name = name
        self._pipeline = stored.pipeline
        self._revision = stored.revision
        self._declared = declared
        self._follower = Follower(
            self._look, name="pipeline", seconds=settings.poll_interval_seconds
        )

    def start(self) -> None:
        """Look again and again."""
        self._follower.start()

    def revision(self) -> int:
        """Return the latest revision in which the process has the same to do."""
        return self._revision

    def _look(self) -> None:
        stored = self._declared.read()
        if is_same_process(self._name, self._pipeline, stored.pipeline):
            self._revision = stored.revision
            return
        log.info("another pipeline is declared", process=self._name, revision=stored.revision)
        end_in_good_order()
        self._follower.stop()


class StageProcess:
    """One process that runs one stage."""

    def __init__(self, spec: StageSpec, settings: Settings, *, revision: Callable[[], int]) -> None:
        """Keep what is needed; nothing is started.

        Args:
            spec: The stage.
            settings: All settings.
            revision: Of the pipeline, for the report.
        """
        self._revision = revision
        self._spec = spec
        self._settings = settings
        self._stage: Stage | None = None
        self._waits_for: Callable[[], str] = lambda: ""
        self._refused: Callable[[], tuple[int, str]] = lambda: (0, "")
        self._worker = StageWorker(spec, settings.kafka, settings.stage)
        self._rate = Rate()

    def run(self, endpoints: Endpoints, answers: Answers) -> None:
        """Build the step, join the group, work until a signal.

        1. Build the step (loads the model); wait while MongoDB or the broker is away.
        2. Report to the state database.
        3. Wait as long as the process itself is not ready: others get its share of the work.
        4. Consume.

        Raises:
            SettingsError: A setting is wrong.
            SystemExit: At the end; code 0 after a signal.
        """
        name = self._spec.name
        answers.health, answers.readiness = self.health, self.readiness
        client = connect(self._settings.mongo)
        built = wait_for(lambda: build_step(self._spec, client, self._settings))  # 1
        step, self._waits_for, self._refused = built.step, built.waits_for, built.refused
        if self._spec.model is not None:
            step = self._watch(step, Quarantine(state_database(client, self._settings.mongo), name))
        stage = Stage(
            self._spec,
            step,
            self._settings.stage,
            tenant=self._settings.mongo.tenant,
            deliver=self._worker.deliver,
        )
        state = state_database(client, self._settings.mongo)
        wait_for(lambda: self._reset_lost_offsets(CopyRequests(state)))
        self._stage = stage
        reporter = Reporter(state, lambda: self._report(stage, endpoints))  # 2
        reporter.start()
        log.info("stage starts", stage=name, versions=dict(step.versions()))
        try:
            self._wait_until_ready(stage)  # 3
            # What is loaded by now stays. Looking through it for garbage takes a fifth of a second,
            # again and again, in which nothing else is done.
            gc.collect()
            gc.freeze()
            self._worker.run(stage)  # 4
        finally:
            reporter.stop()

    def _watch(self, step: Step, quarantine: Quarantine) -> Step:
        wait_for(quarantine.prepare)
        wait_for(quarantine.refresh)
        watched = WatchedStep(step, quarantine, beat=self._beat)
        # Before anybody finds the process unhealthy and ends it without a note.
        seconds = self._settings.stage.hung_seconds
        Watchdog(watched, quarantine, seconds=seconds).start()
        return watched

    def _wait_until_ready(self, stage: Stage) -> None:
        while self._waits_for():
            stage.progress.beat()
            time.sleep(_LOOK_SECONDS)

    def _beat(self) -> None:
        if self._stage is not None:
            self._stage.progress.beat()

    def _reset_lost_offsets(self, requests: CopyRequests) -> None:
        """A lost update cannot be seen in the documents, so all of them are published again."""
        kafka = self._settings.kafka
        names = [topic_name(name, kafka) for name in self._spec.inputs]
        if reset_lost_offsets(group_name(self._spec.name, kafka), names, kafka):
            requests.ask()

    def health(self) -> Check:
        """Whether it makes progress: not ok when it is broken, or stands while work may wait."""
        stage = self._stage
        if stage is None:
            return Check(is_ok=True, reason="starting")
        if stage.trouble:
            return Check(is_ok=False, reason=f"{stage.trouble}; a restart is the remedy")
        still = self._standstill(stage, self._settings.stage.stall_seconds)
        return Check(is_ok=False, reason=still) if still else Check(is_ok=True)

    def readiness(self) -> Check:
        """Whether it has its model, partitions and neighbours, and makes progress."""
        reason = self._unready()
        return Check(is_ok=False, reason=reason) if reason else Check(is_ok=True)

    def _unready(self) -> str:
        stage = self._stage
        if stage is None:
            return "loading"
        if reason := self._waits_for() or self._worker.waits_for:
            return reason
        if stage.waits_for:
            return f"waits for {stage.waits_for}"
        return self._standstill(stage, self._settings.stage.slow_seconds)

    def _standstill(self, stage: Stage, seconds: float) -> str:
        """Say so if nothing moved for so long although work waits, or may wait."""
        idle, lag = stage.progress.seconds_since_progress, self._worker.lag.value
        if idle <= seconds or (stage.progress.in_flight == 0 and lag == 0):
            return ""
        what = "what waits is unknown" if lag is None else "work waits"
        return f"{what} and nothing moved for {idle:.0f} s"

    def _report(self, stage: Stage, endpoints: Endpoints) -> Report:
        ready = self.readiness()
        refused, refusal = self._refused()
        return Report(
            stage=self._spec.name,
            url=endpoints.url,
            is_ready=ready.is_ok,
            reason="" if ready.is_ok else ready.reason,
            lag=self._worker.lag.value,
            documents=stage.progress.finished,
            rate=self._rate.update(stage.progress.finished),
            versions=dict(stage.step.versions()),
            models=[self._spec.model.name] if self._spec.model and not self._waits_for() else [],
            in_flight=stage.progress.in_flight,
            refused=refused,
            refusal=refusal,
            revision=self._revision(),
        )


def wait_for(action: Callable[[], T]) -> T:
    """Return what `action` returns; repeat it, ever more slowly, while a neighbour is away."""
    for attempt in stamina.retry_context(
        on=Unavailable, attempts=None, timeout=None, wait_initial=0.2, wait_max=10.0
    ):
        with attempt:
            return action()
    msg = "unreachable: there is no limit of attempts"
    raise AssertionError(msg)
