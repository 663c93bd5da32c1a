"""The plugs of a user's kind: any `torch.nn.Module` that can be imported.

What is learned of it, its class says in an attribute `trainer`, the name of a module or of an
object in one (`"package.training"`, `"package.training:Tone"`), which is imported by the trainer
alone. Of these names it may have any; `--target`, `--loss`, `--splitter` and `--metrics` stand in
for the first four:

    def target(document) -> ...         # a target, a list of several, or None: nothing to learn
    def loss(outputs, targets) -> ...   # of what `forward` returned; a scalar
    def splitter(examples, *, seed, epoch) -> (documents, targets)
    def metrics(values, targets) -> {"name": figure}    # of what is stored, and all its targets
    learns_from = ("field", "_outputs.model")    # what `target` reads beside captions
    decides = "name"                    # the metric by which the better version is chosen
    lower_is_better, must_not_fall = {"loss", ...}, ("name", ...)
    at_most = {"name": 0.1}             # with more, a version does not serve at all
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from streams.contract.manifest import Bundle, Feature
from streams.contract.pipeline import Model
from streams.errors import TrainerError, bounded
from streams.models.kinds.custom import Custom
from streams.models.kinds.items import item_of
from trainer.fit.dataset import Examples, Fold, captions_of
from trainer.fit.naming import import_named
from trainer.fit.plugs import Material, Plugs, Task
from trainer.fit.rules import Rules
from trainer.fit.splitter import draw

_RULES: Final = ("decides", "lower_is_better", "must_not_fall", "at_most")


def module_plugs(path: str) -> Plugs[torch.nn.Module]:
    """Return the plugs of a class, `package.module:Class`.

    Raises:
        InvalidPipeline: It cannot be imported here.
        TrainerError: The plugs that it names cannot be.
    """
    kind = Custom(path)
    named = getattr(import_named(path), "trainer", None)
    training = import_named(named) if isinstance(named, str) else None

    def own(name: str, usual: Any) -> Any:
        return getattr(training, name, usual)

    rules = Rules(decides=own("decides", "loss"))
    own_rules = {name: own(name, getattr(rules, name)) for name in _RULES}
    own_rules["lower_is_better"] = frozenset({"loss", *own_rules["lower_is_better"]})
    return Plugs(
        task=lambda material: make_task(path, material),
        outputs=lambda module, inputs, targets: module(inputs),
        loss=own("loss", _no_loss(path)),
        bundle=lambda module, material, found: _bundle(kind, module, material, found),
        rules=Rules(**own_rules),
        target=own("target", captions_of),
        splitter=own("splitter", draw),
        metrics=own("metrics", None),
        learns_from=tuple(own("learns_from", ())),
        has_loss=hasattr(training, "loss"),
    )


def make_task(path: str, material: Material) -> Task[torch.nn.Module]:
    """Return a new object of the class, and what it makes of each document by `preprocess`.

    Raises:
        TrainerError: It is no module with weights, or fails at a document.
    """
    module = made(path, material.model)
    return Task(
        model=module,
        train=_examples(module, material.train, material.model),
        valid=_examples(module, material.valid, material.model),
    )


def made(path: str, model: Model) -> torch.nn.Module:
    """Return a new object of a class, with the options of the declaration.

    Raises:
        TrainerError: It takes other options, or is no module with weights.
    """
    try:
        module = import_named(path)(**model.declaration.options)
    except Exception as exc:  # of somebody else's code
        options = dict(model.declaration.options)
        msg = f"{path} cannot be made with the options {options} ({type(exc).__name__}: {exc})"
        raise TrainerError(bounded(msg)) from exc
    if not isinstance(module, torch.nn.Module) or not any(True for _ in module.parameters()):
        msg = f"{path} has no weights to fit: it has to be a torch.nn.Module with parameters"
        raise TrainerError(msg)
    return module


def preprocessed(module: object, model: Model, inputs: Mapping[str, Any]) -> Any:
    """Return what a module makes of one document, as a stage would ask it.

    Raises:
        TrainerError: It fails.
    """
    item = item_of(model.declaration, inputs)
    preprocess: Callable[[Any], Any] | None = getattr(module, "preprocess", None)
    if preprocess is None:
        return item
    try:
        return preprocess(item)
    except Exception as exc:  # of somebody else's code
        kind = model.declaration.kind
        msg = f"{kind}.preprocess failed at a document ({type(exc).__name__}: {exc})"
        raise TrainerError(bounded(msg)) from exc


def _examples(module: torch.nn.Module, fold: Fold, model: Model) -> Examples:
    inputs = [
        preprocessed(module, model, {field: _plain(data[n]) for field, data in fold.inputs.items()})
        for n in range(len(fold))
    ]
    return Examples(inputs=inputs, targets=list(fold.targets), offsets=fold.offsets)


def _plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _bundle(
    kind: Custom, module: torch.nn.Module, material: Material, found: Mapping[str, float]
) -> Bundle:
    columns = material.manifest.features
    features = {
        name: Feature(dimension=columns[name].dimension, version=columns[name].version)
        for name in material.model.reads
    }
    return kind.to_bundle(
        material.model.declaration,
        module,
        features,
        metrics=dict(found),
        snapshot_id=material.manifest.snapshot_id,
    )


def _no_loss(path: str) -> Callable[[Any, Any], torch.Tensor]:
    def loss(outputs: Any, targets: Any) -> torch.Tensor:
        msg = (
            f"{path} says no loss: name one by --loss package.module:function, or a module that has"
            ' one in the class\'s attribute `trainer = "package.module"`'
        )
        raise TrainerError(msg)

    return loss
