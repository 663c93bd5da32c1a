"""One loop for all stages, and what each reads and writes: it follows from the pipeline.

There is a stage for each active model, and `sink`. It knows events, outcomes and how to fail alone.
It does not know Faust, which hands batches in, nor who has sent an event.
"""

from dataclasses import dataclass
from typing import Final

from streams.contract.pipeline import Model, Pipeline, dead_letter_topic


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """One stage.

    Attributes:
        name: Name of the stage; part of its consumer group.
        inputs: Topics it consumes, without prefix.
        output: Topic it produces to, None for the sink.
        model: The model it applies, None for the sink.
        pipeline: What is declared.
    """

    name: str
    inputs: tuple[str, ...]
    output: str | None
    model: Model | None
    pipeline: Pipeline

    @property
    def is_only_on_the_way(self) -> bool:
        """Whether a model behind this stage does not read its model, so that it needs no output."""
        return self.model is not None and self.pipeline.passes_by(self.model.name)


SINK: Final = "sink"
PUBLISHER: Final = "publisher"


def stages_of(pipeline: Pipeline) -> dict[str, StageSpec]:
    """Return the stages by name, in the order in which a document passes them."""
    stages = [
        StageSpec(
            name=model.name,
            inputs=(model.source_topic,),
            output=model.name,
            model=model,
            pipeline=pipeline,
        )
        for model in pipeline.models.values()
    ]
    letters = dict.fromkeys(dead_letter_topic(stage.inputs[0]) for stage in stages)
    # The dead letters too: an error belongs in its document, and the sink is the only writer.
    sink = StageSpec(
        name=SINK, inputs=(*pipeline.models, *letters), output=None, model=None, pipeline=pipeline
    )
    return {stage.name: stage for stage in (*stages, sink)}


def processes_of(pipeline: Pipeline) -> tuple[str, ...]:
    """Return every process, in the order in which a document passes them."""
    return (PUBLISHER, *stages_of(pipeline))


def is_same_process(name: str, before: Pipeline, after: Pipeline) -> bool:
    """Whether a process has the same to do in another pipeline. Two know all of it."""
    if name in (PUBLISHER, SINK):
        return before == after
    return before.does_the_same(after, name)
