"""The default pipeline, its models and its stages, for tests that are about them."""

from streams.contract.default_pipeline import DEFAULT
from streams.stages import stages_of

MODELS = tuple(DEFAULT.models.values())
MODEL_BY_NAME = DEFAULT.models
CLIP, CLIP_PROJECTION, CONDITIONAL_LM = MODELS
STAGES = stages_of(DEFAULT)
