"""What may stand in `_outputs` that is not ours, and makes MongoDB refuse our outputs. Pure.

The field is ours alone, so what a producer has put there in our way is removed, all of it: outputs
can be made again. Only the server sees it: the state index holds what stands at our own paths.
"""

from typing import Any, Final

from streams.documents import MODELS, OUTPUTS
from streams.states import STATE_PATHS

#: Fields that our outputs stand in.
_PARENTS: Final = (OUTPUTS, *sorted({f"{OUTPUTS}.{model.key}" for model in MODELS}))


def malformed(document_filter: dict[str, Any]) -> dict[str, Any]:
    """Return a filter for documents, among some, whose `_outputs` cannot hold our outputs.

    That is so where a parent of theirs is no object, and where an array stands at one of our paths:
    MongoDB cannot index two such arrays in one document.
    """
    no_object = [
        {"$not": {"$in": [{"$type": f"${path}"}, ["object", "missing"]]}} for path in _PARENTS
    ]
    arrays = [{"$eq": [{"$type": f"${path}"}, "array"]} for path in _below(STATE_PATHS)]
    return {**document_filter, "$expr": {"$or": [*no_object, *arrays]}}


#: The update that goes with it.
MEND: Final = {"$unset": {OUTPUTS: ""}}


def _below(paths: tuple[str, ...]) -> list[str]:
    """Return paths and everything that they go through."""
    parts = [path.split(".") for path in paths]
    return sorted({".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)})
