"""What is wrong with documents: outputs that are not what their models compute, false errors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from streams.contract.documents import (
    Output,
    current_inputs,
    lineage,
    lookup,
    stored_image,
    stored_output,
    url_of,
)
from streams.contract.pipeline import IMAGE, Model, Pipeline
from streams.contract.states import Recaption, Serving, is_good_enough
from streams.contract.versions import output_version, weights_version
from streams.errors import InvalidImage, ModelError, UnknownFormat, WriteRejected
from streams.mongo.client import Document
from streams.operate.computing import Computing
from streams.operate.recomputed import Task, compare
from streams.operate.reported import WITHOUT_LETTER, errors_of

#: Errors that do not say that the version can make nothing of what the document holds.
_NOT_THE_DOCUMENT: Final = (
    frozenset({"FeatureMismatch", "ModelFailed", "ModelHung", "ModelCrashed", "WriteRejected"})
    | WITHOUT_LETTER
)
#: Errors that stand in a document whose image cannot be decoded.
_OF_NO_IMAGE: Final = frozenset({InvalidImage.__name__, "FeatureMismatch"}) | WITHOUT_LETTER


class _Wrong(Exception):
    """What is wrong with a document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What is known of one document.

    Attributes:
        document: The document.
        inputs: Fingerprint of each field that models read, as it holds them now.
        outputs: Outputs that were made of those.
        errors: Type of each error, by model.
        image: The image, or why there is none; None when it was not looked at.
    """

    document: Document
    inputs: Mapping[str, str]
    outputs: Mapping[str, Output]
    errors: Mapping[Model, str]
    image: Image.Image | InvalidImage | None


class Recomputer:
    """Computes outputs again and compares them with stored ones. One thread at a time."""

    def __init__(self, computing: Computing, pipeline: Pipeline) -> None:
        """Keep what is needed."""
        self._computing = computing
        self._pipeline = pipeline

    def problems(self, documents: Sequence[Document], serving: Serving) -> list[str]:
        """Return what is wrong with the outputs of each document; "" where they are right.

        Each is computed with the version that made it, of the fields and the stored outputs that it
        was made of. One that was made of an output that is gone by now, or with options that are no
        longer declared, cannot be computed again, and is right if a promotion said that it stays.

        1. Look at each document, and prepare what is to be computed; no decoded image is kept.
        2. Compute and compare, one batch for each version.

        Raises:
            SettingsError: CLIP or a user's class cannot be had.
            StoreUnavailable: MongoDB does not answer.
        """
        problems = [""] * len(documents)
        todo: dict[tuple[str, str], list[tuple[int, Task]]] = {}
        for i, document in enumerate(documents):  # 1
            try:
                tasks = list(self._tasks(document, serving))
            except _Wrong as exc:
                problems[i] = str(exc)
                continue
            for task in tasks:
                todo.setdefault((task.model.name, task.version), []).append((i, task))
        for tasks_of_version in todo.values():  # 2
            first = tasks_of_version[0][1]
            predictor = self._computing.predictor(first.model, first.version)
            items = [task.item for _, task in tasks_of_version]
            made = self._computing.compute(first.model, predictor, items)
            for (i, task), result in zip(tasks_of_version, made, strict=True):
                problems[i] = problems[i] or compare(task, result)
        return problems

    def _tasks(self, document: Document, serving: Serving) -> Iterator[Task]:
        """Yield what is to be computed of a document.

        Raises:
            _Wrong: What it holds shows already that something is wrong.
        """
        seen = self._look(document)
        for model in self._pipeline.models.values():
            if lookup(document, model.path) is None:
                continue
            error = seen.errors.get(model)
            if model.has_image and isinstance(seen.image, InvalidImage):
                if error not in _OF_NO_IMAGE:
                    msg = f"it has {error or 'outputs'}, and yet: {seen.image}"
                    raise _Wrong(msg)
                continue
            expected = error or self._output(model, seen, serving)
            if expected and (task := self._task(model, seen, expected, serving)):
                yield task

    def _look(self, document: Document) -> _Seen:
        errors = errors_of(document, self._pipeline)
        inputs = current_inputs(document, self._pipeline)
        images = [model for model in self._pipeline.models.values() if model.has_image]
        if url_of(document) is not None and all(model in errors for model in images):
            inputs.pop(IMAGE, None)  # nobody can know it
        found = {m.name: stored_output(document, m, inputs) for m in self._pipeline.models.values()}
        return _Seen(
            document=document,
            inputs=inputs,
            outputs={name: output for name, output in found.items() if output is not None},
            errors=errors,
            image=self._image(document) if images else None,
        )

    def _image(self, document: Document) -> Image.Image | InvalidImage | None:
        """Return the image; None for one behind a URL, where other bytes may be by now."""
        if url_of(document) is not None:
            return None
        try:
            return self._computing.decode(stored_image(document))
        except InvalidImage as exc:
            return exc

    def _output(self, model: Model, seen: _Seen, serving: Serving) -> Output | None:
        """Return a stored output that is to be computed again.

        Raises:
            _Wrong: It is not of what the document holds.
        """
        output = seen.outputs.get(model.name)
        if output is None:
            raise _Wrong(_why_not_current(model, seen))
        missing = [name for name in model.reads if name not in seen.outputs]
        if missing:
            # What was made of an output that finds no room is right.
            refused = {m.name for m, e in seen.errors.items() if e == WriteRejected.__name__}
            if refused.intersection(model.ancestors):
                return None
            msg = f"{model.name} is there without {missing[0]}"
            raise _Wrong(msg)
        if dict(output.features) != lineage(model, seen.outputs):
            if _has_to_be_of_now(model, seen, serving):
                msg = f"{model.name} was made of what another version made"
                raise _Wrong(msg)
            return None
        return output

    def _task(
        self, model: Model, seen: _Seen, expected: Output | str, serving: Serving
    ) -> Task | None:
        """Return what is to be computed; None where nothing can be said of an error or output."""
        is_output = isinstance(expected, Output)
        stored = lookup(seen.document, f"{model.path}.version")
        version = str(stored or serving.versions.get(model.name, ""))  # not every error names one
        if version != output_version(model.declaration, weights_version(version)):
            return None  # with options that are no longer declared
        if model.has_image and seen.image is None:
            return None
        if not is_output and (
            expected in _NOT_THE_DOCUMENT or not seen.outputs.keys() >= {*model.reads}
        ):
            return None
        try:
            predictor = self._computing.predictor(model, version)
        except (ModelError, UnknownFormat) as exc:
            if not is_output:
                return None
            msg = f"{model.name} was made by a version that cannot be loaded: {exc}"
            raise _Wrong(msg) from exc
        image = seen.image if isinstance(seen.image, Image.Image) else None
        item = self._computing.prepare(model, predictor, seen.document, seen.outputs, image)
        return Task(model=model, version=version, item=item, expected=expected)


def _why_not_current(model: Model, seen: _Seen) -> str:
    for name, content in seen.inputs.items():
        made_of = lookup(seen.document, f"{model.path}.input.{name}")
        if name in model.inputs and made_of != content:
            return f"{model.name} was made from another {'image' if name == IMAGE else name}"
    return f"{model.name} holds something that is no output"


def _has_to_be_of_now(model: Model, seen: _Seen, serving: Serving) -> bool:
    """Whether an output has to be made again if something far upstream was.

    Of what the model reads itself, `unfinished` has said so before.
    """
    output = seen.outputs[model.name]
    if any(output.features.get(name) != seen.outputs[name].version for name in model.reads):
        return False
    return serving.can_run(model) and not is_good_enough(
        serving.recaption.get(model.name, Recaption.ALL),
        is_serving_version=output.version == serving.versions[model.name],
        is_of_current_features=False,
    )
