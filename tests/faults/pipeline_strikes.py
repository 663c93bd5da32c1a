"""The declared pipeline changes while documents flow."""

from collections.abc import Iterator, Sequence
from typing import Final

from streams.contract.declaration import Declaration, ModelState
from streams.contract.pipeline import Pipeline
from streams.operate.pipeline import DeclaredPipeline
from tests.faults.data_strikes import insist
from tests.faults.target import Target
from tests.pipelines import CLIP, CLIP_PROJECTION

#: A fourth model, beside the projection: CLIP runs once for both.
FOURTH: Final = Declaration(
    name="second_projection", kind="linear", key="img", features={"img": CLIP.name}
)

_SERVERS: Final = ("supervisor", "mongod", "broker")


def change_pipeline(target: Target) -> str:
    """A model that nobody follows but for its place is declared, left out, or taken in again.

    While it rests its outputs stay, of images that are changed meanwhile, too. Whoever follows it
    reads another topic then.
    """
    chosen = target.random.choice([FOURTH, CLIP_PROJECTION.declaration])
    is_active = chosen.name in target.pipeline.models
    state = ModelState.INACTIVE if is_active else ModelState.ACTIVE
    wanted = with_model(target.pipeline.declarations, chosen.model_copy(update={"state": state}))
    declared = _declared(target)
    insist(lambda: target.note_declared(declare(declared, wanted)))
    return f"{chosen.name} is {state}"


def with_model(declarations: Sequence[Declaration], model: Declaration) -> list[Declaration]:
    """Return the declarations with this one in the place of one of its name, or behind them."""
    others = {each.name: each for each in declarations} | {model.name: model}
    return list(others.values())


def declare(declared: DeclaredPipeline, wanted: Sequence[Declaration]) -> Pipeline:
    """Declare it and return it; again, where an attempt has failed that may have done so."""
    stored = declared.read()
    done = declared.replace(wanted, expected_revision=stored.revision, reason="soak")
    return done.pipeline


def strays(target: Target) -> Iterator[str]:
    """Yield what is declared, or runs, although the last strike left another pipeline."""
    declared = _declared(target).read()
    if declared.pipeline != target.pipeline:
        names = ", ".join(declared.pipeline.models)
        yield f"revision {declared.revision} is declared, with {names}: no strike did that"
    for name in sorted(target.stack.pids().keys() - {*target.processes, *_SERVERS}):
        yield f"{name} runs, and is no process of the declared pipeline"


def _declared(target: Target) -> DeclaredPipeline:
    return DeclaredPipeline(target.settings, target.stack.client)
