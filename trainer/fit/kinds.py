"""Which kinds can be fitted, and with which plugs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from streams.contract.kinds import GRU, LINEAR, is_class
from streams.contract.pipeline import Model, Pipeline
from streams.errors import ModelNotFound, SettingsError
from trainer.fit.captioner import CAPTIONER
from trainer.fit.module import module_plugs
from trainer.fit.naming import import_named
from trainer.fit.options import FitOptions, PlugName
from trainer.fit.plugs import Plugs
from trainer.fit.projector import PROJECTOR
from trainer.snapshot.columns import can_be_learned

#: The plugs of each built-in kind that is fitted here; CLIP comes fitted.
PLUGS: Final[Mapping[str, Plugs[Any]]] = {GRU: CAPTIONER, LINEAR: PROJECTOR}


def model_of(pipeline: Pipeline, name: str) -> Model:
    """Return an active model that can be fitted.

    Raises:
        ModelNotFound: There is none of this name.
    """
    model = pipeline.models.get(name)
    if model is not None and can_be_fitted(model):
        return model
    known = ", ".join(n for n, m in pipeline.models.items() if can_be_fitted(m)) or "none"
    why = "it reads images, or comes fitted" if model is not None else "the pipeline has none"
    msg = f"no model {name[:80]!r} can be fitted: {why}; choose one of {known}"
    raise ModelNotFound(msg)


def can_be_fitted(model: Model) -> bool:
    """Whether there are plugs for its kind, and a snapshot holds what it reads."""
    kind = model.declaration.kind
    return (kind in PLUGS or is_class(kind)) and can_be_learned(model)


def plugs_of(model: Model, named: Mapping[PlugName, str] | None = None) -> Plugs[Any]:
    """Return the plugs of a model's kind; those that are named are used instead.

    Raises:
        InvalidPipeline: The model's class cannot be imported here.
        TrainerError: What is named cannot be.
    """
    kind = model.declaration.kind
    plugs = PLUGS[kind] if kind in PLUGS else module_plugs(kind)
    chosen = {str(plug): import_named(name) for plug, name in (named or {}).items()}
    return replace(plugs, **chosen, has_loss=plugs.has_loss or "loss" in chosen)


def options_of(plugs: Plugs[Any], model: Model, options: FitOptions) -> BaseModel:
    """Return the kind's own options: those given, else those of the declaration, else the usual.

    Raises:
        SettingsError: The kind has no such option, or a value is wrong.
    """
    known = plugs.options.model_fields
    declared = {n: value for n, value in model.declaration.options.items() if n in known}
    try:
        return plugs.options.model_validate({**declared, **options.kind})
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:80]
        names = ", ".join(known) or "none; those of a class stand in the model's declaration"
        msg = f"--option {place}: {first['msg']} (options of {model.declaration.kind}: {names})"
        raise SettingsError(msg) from exc


def learned_by(pipeline: Pipeline) -> tuple[str, ...]:
    """Return what models of a user's kind learn from, beside captions.

    Raises:
        InvalidPipeline: A model's class cannot be imported here.
        TrainerError: The plugs that it names cannot be.
    """
    found = (
        name
        for model in pipeline.models.values()
        if can_be_fitted(model)
        for name in plugs_of(model).learns_from
    )
    return tuple(dict.fromkeys(found))
