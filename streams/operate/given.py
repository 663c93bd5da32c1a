"""A model that a program has in its hands becomes a version in the registry."""

# ruff: noqa: PLC0415 - torch is loaded only where a model is given

from streams.contract.declaration import Declaration
from streams.contract.manifest import Feature
from streams.registry.versions import Registry


def class_path(made: object) -> str:
    """Return the path of an object's class, as a declaration names a kind."""
    return f"{type(made).__module__}:{type(made).__qualname__}"


def keep(declaration: Declaration, made: object, registry: Registry) -> str:
    """Keep what an object has learned as a version, let it serve, and return it.

    Repeating it with the same weights changes nothing.

    Args:
        declaration: The model; its options are those that the object was made with.
        made: A torch module, or any object with the methods of a user's kind.
        registry: Where it is kept; knows the length of what it reads.

    Raises:
        InvalidPipeline: Its class cannot be imported from a package, or takes other options.
        InvalidBundle: A weight is not finite.
        PointerConflict: Somebody else lets another version serve at this moment.
        StoreUnavailable: MongoDB does not answer.
    """
    from streams.models.kinds.custom import Custom

    kind = Custom(declaration.kind)
    kind.check(declaration)
    features = {name: Feature(dimension=_dimension(name, registry)) for name in declaration.reads}
    bundle = kind.to_bundle(declaration, made, features, note="given to create_model")
    version = registry.publish(bundle)
    before = registry.pointer(declaration.name)
    if before is None or before.version != version:
        registry.promote(
            declaration.name,
            version,
            reason="given to create_model",
            expected_revision=before.revision if before else 0,
        )
    return version


def _dimension(name: str, registry: Registry) -> int | None:
    pointer = registry.pointer(name)
    if pointer is None or pointer.serving is None:
        return None
    return registry.describe(name, pointer.serving).dimension
