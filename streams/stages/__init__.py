"""One loop for all stages, the step of each, and the stages as data: what each reads and writes.

It knows events, outcomes and how to fail alone. It does not know Faust, which hands batches in, nor
who has sent an event. A later model is one more entry here, in `steps.py`, `kafka/topics.py`,
`contract/default_pipeline.py`, `contract/events.py` and `registry/computations.py`.
"""

from dataclasses import dataclass
from typing import Final

from streams.contract import events
from streams.contract.default_pipeline import (
    CLIP,
    CLIP_PROJECTION,
    CONDITIONAL_LM,
    DEFAULT,
)
from streams.contract.pipeline import (
    Model,
)
from streams.kafka.topics import TOPICS, dead_letter_topic


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """One stage of the chain.

    Attributes:
        name: Name of the stage; part of its consumer group.
        inputs: Topics it consumes, without prefix.
        output: Topic it produces to, None for the last stage.
        model: The model it applies, None for a stage without one. Its `reads` names the features.
    """

    name: str
    inputs: tuple[str, ...]
    output: str | None
    model: Model | None

    @property
    def is_only_on_the_way(self) -> bool:
        """Whether a model behind this stage does not read its model, so that it needs no output."""
        return self.model is not None and DEFAULT.passes_by(self.model.name)


FEATURIZE: Final = StageSpec(
    name="featurize",
    inputs=(events.IMAGE_CHANGED,),
    output=events.IMAGE_FEATURIZED,
    model=CLIP,
)
PROJECT: Final = StageSpec(
    name="project",
    inputs=(events.IMAGE_FEATURIZED,),
    output=events.IMAGE_PROJECTED,
    model=CLIP_PROJECTION,
)
CAPTION: Final = StageSpec(
    name="caption",
    inputs=(events.IMAGE_PROJECTED,),
    output=events.CAPTION_GENERATED,
    model=CONDITIONAL_LM,
)
SINK: Final = StageSpec(
    name="sink",
    # The dead letters too: an error belongs in its document, and the sink is the only writer.
    inputs=(*TOPICS[1:], *(dead_letter_topic(topic) for topic in TOPICS[:-1])),
    output=None,
    model=None,
)

#: In the order in which a document passes them.
CHAIN: Final = (FEATURIZE, PROJECT, CAPTION, SINK)
STAGE_BY_NAME: Final = {stage.name: stage for stage in CHAIN}

PUBLISHER: Final = "publisher"
#: Every process of the pipeline, in the order in which a document passes them.
PROCESSES: Final = (PUBLISHER, *STAGE_BY_NAME)
