"""A loaded version of a user's class: what is called when, and what is made of what it returns."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from streams.contract.manifest import Manifest
from streams.errors import CodeMismatch, DocumentError, ModelFailed, Unavailable
from streams.models.kinds.batches import batches_of, split, to_device
from streams.models.kinds.kind import Made, Tolerance
from streams.models.kinds.results import as_json, difference, made_of

#: As for our own models: processors differ in the last digits, another operation in the first.
_GOLDEN: Final = Tolerance(numbers=1e-3)


class CustomPredictor:
    """An object of a user's class; its three methods are optional."""

    def __init__(
        self, made: Any, manifest: Manifest, golden: Sequence[Any] | None, device: str = "cpu"
    ) -> None:
        """Keep the object; a module goes to the device, and is switched to evaluation.

        Args:
            made: The object.
            manifest: What its version is.
            golden: Inputs for its golden output; None where none can be made up.
            device: Where a module computes.
        """
        self._manifest = manifest
        self._golden = golden
        self._who = manifest.kind
        self._device = "cpu"
        if isinstance(made, torch.nn.Module):
            made.to(device).eval().requires_grad_(False)
            self._device = device
        self._preprocess: Callable[[Any], Any] | None = getattr(made, "preprocess", None)
        self._postprocess: Callable[[Any], Any] | None = getattr(made, "postprocess", None)
        self._forward = _forward_of(made)

    def preprocess(self, item: Any) -> Any:
        """Return what the class makes of one item.

        Raises:
            DocumentError: It raised; `ModelFailed` unless it chose another one itself.
            Unavailable: It says that something it needs is away.
        """
        if self._preprocess is None:
            return item
        try:
            return self._preprocess(item)
        except (DocumentError, Unavailable):
            raise
        except Exception as exc:  # of somebody else's code
            raise ModelFailed(self._said("preprocess", exc)) from exc

    def predict(self, items: Sequence[Any]) -> list[Made | DocumentError]:
        """See `Predictor.predict`. What `forward` raises is raised; it is about the whole batch."""
        if not items:
            return []
        with torch.inference_mode():
            return [self._made(output) for output in self._outputs(items)]

    def check(self) -> None:
        """Compare its golden output with the manifest's; without one, try the device.

        Raises:
            CodeMismatch: It differs: something that the class imports is another here.
            RuntimeError: The device is broken.
        """
        golden = self._manifest.golden
        if golden is None or self._golden is None:
            torch.ones(1, device=self._device).add(1).cpu()
            return
        found = self.predict([self.preprocess(item) for item in self._golden])
        for result, expected in zip(found, golden.values or [], strict=True):
            if isinstance(result, DocumentError):
                raise result
            problem = difference(as_json(result.value), expected, _GOLDEN)
            if problem:
                msg = (
                    f"{self._manifest.name}: what {self._who} makes of its golden input {problem}:"
                    " see that what it imports is what the version was made with"
                )
                raise CodeMismatch(msg)

    def golden_outputs(self) -> list[Made] | None:
        """Return what it makes of its golden inputs; None where it makes nothing of them.

        Made-up inputs may be none for it: noise has no faces.
        """
        if self._golden is None:
            return None
        try:
            made = self.predict([self.preprocess(item) for item in self._golden])
        except Exception:  # of somebody else's code
            return None
        found = [result for result in made if isinstance(result, Made)]
        return found if len(found) == len(made) else None

    def _outputs(self, items: Sequence[Any]) -> list[Any]:
        if self._forward is None:
            return list(items)
        outputs: list[Any] = []
        for batch, count in batches_of(items):
            output = self._forward(to_device(batch, self._device))
            outputs += split(to_device(output, "cpu"), count, self._who)
        return outputs

    def _made(self, output: Any) -> Made | DocumentError:
        try:
            result = output if self._postprocess is None else self._postprocess(output)
            return made_of(result, self._who)
        except DocumentError as exc:
            return exc
        except Unavailable:
            raise
        except Exception as exc:  # of somebody else's code
            return ModelFailed(self._said("postprocess", exc))

    def _said(self, method: str, exc: Exception) -> str:
        return f"{self._who}.{method} raised {type(exc).__name__}: {exc}"


def _forward_of(made: Any) -> Callable[[Any], Any] | None:
    """Return what computes a batch: a module itself, which runs its hooks, or a method."""
    if isinstance(made, torch.nn.Module):
        return made
    forward = getattr(made, "forward", None)
    if forward is not None:
        return forward  # type: ignore[no-any-return]
    return made if callable(made) else None
