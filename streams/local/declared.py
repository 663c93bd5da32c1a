"""Which processes the declared pipeline wants, followed while a stack runs."""

from collections.abc import Callable

from streams.contract.pipeline import Pipeline
from streams.following import Follower
from streams.local.servers import Servers
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations
from streams.stages import processes_of


class DeclaredProcesses:
    """The names of the processes that should run."""

    def __init__(self, servers: Servers, *, say: Callable[[str], None]) -> None:
        """Read the declared pipeline; `start` follows it.

        Raises:
            InvalidPipeline: It is of another release.
            StoreUnavailable: MongoDB does not answer.
        """
        self._servers = servers
        self._say = say
        mongo = servers.settings.mongo
        self._client = connect(mongo)  # one for all looks
        self._declared = Declarations(state_database(self._client, mongo), mongo.tenant)
        self._pipeline: Pipeline = self._declared.read().pipeline
        self._follower = Follower(
            self._look, name="pipeline", seconds=servers.settings.models.poll_interval_seconds
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The processes, in the order in which a document passes them."""
        return processes_of(self._pipeline)

    def start(self) -> None:
        """Look again and again."""
        self._follower.start()

    def stop(self) -> None:
        """Stop looking."""
        self._follower.stop()
        self._client.close()

    def _look(self) -> None:
        pipeline = self._declared.read().pipeline
        if pipeline == self._pipeline:
            return
        self._servers.create_topics(pipeline)  # before a process asks for them
        self._say("another pipeline is declared")
        self._pipeline = pipeline
