"""Which kinds there are."""

# ruff: noqa: PLC0415 - a process loads the libraries of the one kind that it runs
from streams.contract.declaration import Declaration
from streams.contract.kinds import CLIP, GRU, LINEAR, OPTIONS, is_class
from streams.contract.manifest import Bundle
from streams.errors import InvalidPipeline, ModelNotFound
from streams.models.kinds.kind import Kind, Predictor, StoredKind


def kind_of(name: str) -> Kind:
    """Return a kind by its name, or of a user's class, which is imported.

    Raises:
        InvalidPipeline: There is none, or the class cannot be imported here or can do nothing.
    """
    if is_class(name):
        from streams.models.kinds.custom import Custom

        return Custom(name)
    if name == CLIP:
        from streams.models.kinds.clip import Clip

        return Clip()
    if name == LINEAR:
        from streams.models.kinds.linear import Linear

        return Linear()
    if name == GRU:
        from streams.models.kinds.gru import Gru

        return Gru()
    msg = f"there is no kind {name[:80]!r}; choose {', '.join(OPTIONS)}, or 'package.module:Class'"
    raise InvalidPipeline(msg)


def load(declaration: Declaration, bundle: Bundle, device: str = "cpu") -> Predictor:
    """Return a version of a declared model, ready. See `StoredKind.load`.

    Raises:
        ModelNotFound: Versions of its kind are no bundles.
        InvalidPipeline: There is no such kind here, or the declaration's options are wrong.
        InvalidBundle: The version does not hold, or is not one of this model.
        CodeMismatch: This process has another class than the version was made with.
    """
    kind = kind_of(declaration.kind)
    if not isinstance(kind, StoredKind):
        msg = f"{declaration.name} is of kind {kind.name}, whose weights live elsewhere"
        raise ModelNotFound(msg)
    return kind.load(declaration, bundle, device)
