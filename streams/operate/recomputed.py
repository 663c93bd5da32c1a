"""What is computed again, and whether what is stored is that.

Equal means: texts letter by letter; vectors, other numbers and scores but for their last digits,
which depend on how many were computed together. How many digits, each kind of model says.
"""

from dataclasses import dataclass
from typing import Any

from streams.contract.documents import Output
from streams.contract.pipeline import Model
from streams.errors import DocumentError
from streams.models.kinds.find import kind_of
from streams.models.kinds.kind import Made
from streams.models.kinds.results import difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Something to be computed, and what should come of it.

    Attributes:
        model: The model.
        version: The version, as outputs name it.
        item: What the version has made of the document so far.
        expected: The stored output, or the type of the stored error.
    """

    model: Model
    version: str
    item: Any
    expected: Output | str


def compare(task: Task, made: Made | DocumentError) -> str:
    """Return what is wrong with a stored output or error; "" when it is right."""
    name, expected = task.model.name, task.expected
    if isinstance(expected, str):
        if isinstance(made, DocumentError):
            is_true = type(made).__name__ == expected
            return "" if is_true else f"{name} has {expected}, its version gives: {made}"
        gives = "its image can be decoded" if task.model.has_image else f"{name} can read it"
        return f"it carries {expected}, and yet {gives}"
    if isinstance(made, DocumentError):
        return f"{name} is there, and yet its version gives none: {made}"
    tolerance = kind_of(task.model.declaration.kind).tolerance
    problem = difference(expected.value, made.value, tolerance)
    if problem:
        return f"{name} {problem} (compared with what its version gives)"
    is_right = expected.score is made.score
    if expected.score is not None and made.score is not None:
        is_right = abs(expected.score - made.score) <= tolerance.score
    return "" if is_right else f"{name} has score {expected.score}, its version gives {made.score}"
