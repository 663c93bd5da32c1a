"""The default pipeline's models, for tests that are about them."""

from streams.contract.default_pipeline import DEFAULT

MODELS = tuple(DEFAULT.models.values())
MODEL_BY_NAME = DEFAULT.models
CLIP, CLIP_PROJECTION, CONDITIONAL_LM = MODELS
