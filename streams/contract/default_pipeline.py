"""The pipeline that runs when nobody has declared another: CLIP, a projection, a captioner."""

from typing import Final

from streams.contract.declaration import Declaration
from streams.contract.pipeline import compile_pipeline

DEFAULT: Final = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        Declaration(name="clip_projection", kind="linear", key="img", features={"img": "clip"}),
        Declaration(
            name="conditional_lm", kind="gru", features={"img": "clip"}, after=("clip_projection",)
        ),
    ]
)
