"""The default pipeline, its models and its stages, for tests that are about them."""

from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import Pipeline, compile_pipeline
from streams.stages import stages_of

MODELS = tuple(DEFAULT.models.values())
MODEL_BY_NAME = DEFAULT.models
CLIP, CLIP_PROJECTION, CONDITIONAL_LM = MODELS
STAGES = stages_of(DEFAULT)


def with_options(name: str, **options: object) -> Pipeline:
    """Return the default pipeline where one model has been told other options."""
    return compile_pipeline(
        [
            each.model_copy(update={"options": options}) if each.name == name else each
            for each in DEFAULT.declarations
        ]
    )
