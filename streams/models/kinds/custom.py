"""A user's kind: a class that can be imported, with `preprocess`, `forward` and `postprocess`.

A version of it is a bundle like any other: the path of the class, its options, a hash of the file
in which it stands, and what `state_dict` returns. Nothing of the class itself is stored.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch

from streams.contract.declaration import Declaration
from streams.contract.manifest import UNCHANGED, Bundle, Feature, Golden, Manifest
from streams.contract.pipeline import IMAGE
from streams.errors import CodeMismatch, InvalidPipeline
from streams.models.bundle import check_manifest, golden_input, make_bundle, tensors_of
from streams.models.clip_golden import golden_images
from streams.models.kinds.class_path import import_class
from streams.models.kinds.custom_predictor import CustomPredictor
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import Made, StoredKind, Tolerance
from streams.models.kinds.results import as_json

_GOLDEN_COUNT: Final = 2


class Custom(StoredKind):
    """One user's class."""

    #: What a user computes may be as deep as CLIP.
    tolerance: ClassVar[Tolerance] = Tolerance(numbers=1e-3)

    def __init__(self, path: str) -> None:
        """Import the class.

        Args:
            path: `package.module:Class`.

        Raises:
            InvalidPipeline: It cannot be used here.
        """
        self.name = path
        self._class, self._source = import_class(path)

    def is_code_of(self, manifest: Manifest) -> bool:
        """See `StoredKind.is_code_of`."""
        return manifest.source == self._source

    def check(self, declaration: Declaration) -> None:
        """See `Kind.check`: its constructor has to take the options."""
        try:
            signature = inspect.signature(self._class)
        except ValueError:  # nobody knows what it takes; the constructor itself will say
            return
        try:
            signature.bind(**declaration.options)
        except TypeError as exc:
            msg = f"{declaration.name}: options of {self.name}, which takes {signature}: {exc}"
            raise InvalidPipeline(msg) from exc

    def load(
        self, declaration: Declaration, bundle: Bundle, device: str = "cpu"
    ) -> CustomPredictor:
        """See `StoredKind.load`.

        1. What is stored has to hold: that is the version's own matter.
        2. The class here is to be the one that it was made with.
        3. The class takes the weights and computes the golden output; where it does not, although
           its file is the same, something that it imports is another here.

        The declared options hold, which may be others than the version was made with. Initial
        weights are then those that these options begin with.
        """
        check_manifest(declaration, bundle.manifest)  # 1
        weights = tensors_of(bundle)
        if not self.is_code_of(bundle.manifest):  # 2
            msg = (
                f"{declaration.name} {bundle.version} was made with another file of {self.name}:"
                " install the release here that it was made with, or publish a version made with"
                " this one; then start again"
            )
            raise CodeMismatch(msg)
        are_its_options = dict(declaration.options) == bundle.manifest.config
        try:  # 3
            made = self._construct(declaration.options)
            if are_its_options or not bundle.manifest.is_initial:
                _put_weights(made, weights, self.name)
        except Exception as exc:  # of somebody else's code
            msg = (
                f"{declaration.name} {bundle.version} cannot be made of {self.name} here"
                f" with the options {dict(declaration.options)} ({type(exc).__name__}: {exc}): see"
                " that what it imports, and its options, are what the version was made with"
            )
            raise CodeMismatch(msg) from exc
        items = _golden_items(declaration, bundle.manifest.features) if are_its_options else None
        predictor = CustomPredictor(made, bundle.manifest, items, device)
        predictor.check()
        return predictor

    def default_bundle(self, declaration: Declaration, dimensions: Mapping[str, int]) -> Bundle:
        """See `StoredKind.default_bundle`: the class with its first weights, drawn from a seed."""
        self.check(declaration)
        try:
            made = self._construct(declaration.options)
        except Exception as exc:  # of somebody else's code
            msg = (
                f"{declaration.name}: {self.name} cannot be made with the options"
                f" {dict(declaration.options)} ({type(exc).__name__}: {exc})"
            )
            raise InvalidPipeline(msg) from exc
        features = {name: Feature(dimension=dimensions.get(name)) for name in declaration.reads}
        return self.to_bundle(declaration, made, features, is_initial=True)

    def to_bundle(
        self,
        declaration: Declaration,
        made: Any,
        features: Mapping[str, Feature],
        *,
        metrics: Mapping[str, float] | None = None,
        snapshot_id: str | None = None,
        is_initial: bool = False,
        note: str = "",
    ) -> Bundle:
        """Return the bundle of an object of this class.

        Args:
            declaration: The model; its options are those that the object was made with.
            made: The object, which is switched to evaluation.
            features: What it reads, by name of the upstream model.
            metrics: What was measured on the frozen validation set.
            snapshot_id: The snapshot it was fitted on; None if it was not fitted.
            is_initial: Whether its weights are those that its options begin with.
            note: One line for people.

        Raises:
            InvalidPipeline: Its `state_dict` holds something else than tensors.
            InvalidBundle: A weight is not finite.
        """
        about: dict[str, Any] = {
            "name": declaration.name,
            "kind": self.name,
            "source": self._source,
            "config": dict(declaration.options),
            "features": dict(features),
            "preprocessing": dict.fromkeys(features, UNCHANGED),
            "metrics": dict(metrics or {}),
            "snapshot_id": snapshot_id,
            "is_initial": is_initial,
            "note": note,
        }
        weights = _weights_of(made, self.name)
        bundle = make_bundle(weights, **about)
        tensors_of(bundle)
        predictor = CustomPredictor(made, bundle.manifest, _golden_items(declaration, features))
        golden = predictor.golden_outputs()
        if golden is None:
            return bundle
        values = [as_json(made.value) for made in golden]
        about |= {"golden": Golden(count=len(values), values=values)}
        return make_bundle(weights, **about, dimension=_dimension(golden))

    def _construct(self, options: Mapping[str, Any]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._class(**copy.deepcopy(dict(options)))


def _golden_items(declaration: Declaration, features: Mapping[str, Feature]) -> list[Any] | None:
    """Return inputs that can be made up: of vectors of known length and images; None of others."""
    columns: dict[str, Sequence[Any]] = {}
    for field, upstream in declaration.features.items():
        dimension = features[upstream].dimension
        if dimension is None:
            return None
        golden = Golden(seed=len(columns), count=_GOLDEN_COUNT)
        columns[field] = list(golden_input(golden, dimension).numpy())
    for field in declaration.raw_fields:
        if field != IMAGE:
            return None
        columns[field] = golden_images()
    return [
        item_of(declaration, {field: column[row] for field, column in columns.items()})
        for row in range(_GOLDEN_COUNT)
    ]


def _dimension(golden: Sequence[Made]) -> int | None:
    """Return the length of the vectors, if that is what it makes, all of one length."""
    lengths = {len(m.value) if isinstance(m.value, np.ndarray) else None for m in golden}
    return lengths.pop() if len(lengths) == 1 else None


def _weights_of(made: Any, who: str) -> dict[str, torch.Tensor]:
    if not hasattr(made, "state_dict"):
        return {}
    state = made.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        msg = f"{who}: its state_dict holds {odd[0]!r}, which is no tensor: keep it in the options"
        raise InvalidPipeline(msg)
    # Copies: two names of one tensor are two tensors in the file.
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _put_weights(made: Any, weights: Mapping[str, torch.Tensor], who: str) -> None:
    """Give an object the weights of a version.

    Raises:
        CodeMismatch: It has others, by name, shape or type.
    """
    expected = {name: (tuple(t.shape), str(t.dtype)) for name, t in _weights_of(made, who).items()}
    found = {name: (tuple(t.shape), str(t.dtype)) for name, t in weights.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        msg = f"its weights here are others than those of the version: {wrong[:4]}"
        raise CodeMismatch(msg)
    if weights:
        made.load_state_dict(dict(weights))
