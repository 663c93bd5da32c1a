"""What a kind is, and what a loaded version of a model of that kind can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from streams.contract.declaration import Declaration
from streams.contract.manifest import Bundle, Manifest
from streams.contract.values import Value
from streams.errors import DocumentError
from streams.settings import ClipSettings


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Made:
    """What a model made of one input.

    Attributes:
        value: What is stored.
        score: Mean log-probability per token of a text, natural logarithm; None for all else.
    """

    value: Value
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far an output that is computed again may lie from the stored one. Texts are equal.

    Attributes:
        numbers: Largest difference of two vectors, or of two numbers in JSON, as a share of the
            largest number in them.
        score: Largest difference of two scores.
    """

    numbers: float
    score: float = 1e-4


class Predictor(Protocol):
    """A loaded version, ready."""

    def preprocess(self, item: Any) -> Any:
        """Return what one input becomes; called in several threads at once.

        Args:
            item: As `item_of` makes it of what the model reads.

        Raises:
            DocumentError: It is no input for this model.
        """
        ...

    def predict(self, items: Sequence[Any]) -> list[Made | DocumentError]:
        """Return what a batch of preprocessed inputs becomes, in order; one thread at a time.

        What is wrong with one result stands in its place.

        Raises:
            Exception: The model raised; nothing says for which input.
        """
        ...

    def check(self) -> None:
        """See whether it still computes its golden output, or at least that its device works.

        Raises:
            ModelError: It does not.
            RuntimeError: The device is broken.
        """
        ...


class AnnouncedPredictor(Predictor, Protocol):
    """A version whose weights live elsewhere: a process has it by its settings."""

    @property
    def version(self) -> str:
        """Id of the version, derived from all that decides what it computes."""
        ...

    @property
    def details(self) -> Mapping[str, Any]:
        """What is announced with the version; `dimension` is the length of its vectors."""
        ...

    @property
    def remedy(self) -> str:
        """What to do if another version was meant."""
        ...

    def difference(self, announced: Mapping[str, Any]) -> str:
        """Return why this process does not compute what was announced; "" if it does."""
        ...


class Kind(ABC):
    """One algorithm.

    Attributes:
        name: As declarations name it.
        tolerance: For outputs that are computed again.
    """

    name: str
    tolerance: ClassVar[Tolerance] = Tolerance(numbers=1e-5)

    @abstractmethod
    def check(self, declaration: Declaration) -> None:
        """Check what a model of this kind is told and reads.

        Raises:
            InvalidPipeline: An option is wrong, or it reads what this kind cannot read.
        """


class AnnouncedKind(Kind):
    """A kind whose weights live elsewhere: processes announce their version."""

    @abstractmethod
    def open(self, settings: ClipSettings) -> AnnouncedPredictor:
        """Return the version that the settings name, ready.

        Raises:
            SettingsError: It cannot be had.
        """


class StoredKind(Kind):
    """A kind whose versions are bundles in the registry.

    Attributes:
        has_default: Whether there is a version when none was trained.
    """

    has_default: ClassVar[bool] = True

    def is_code_of(self, manifest: Manifest) -> bool:
        """Whether this process has the class that a version was made with."""
        return True

    @abstractmethod
    def load(self, declaration: Declaration, bundle: Bundle, device: str = "cpu") -> Predictor:
        """Return a version, ready, after checking its golden output.

        Args:
            declaration: The model.
            bundle: A version of it.
            device: Where torch computes; results come back to the CPU as float32.

        Raises:
            InvalidBundle: The version does not hold, or is not one of this model.
            CodeMismatch: This process has another class than the version was made with.
            InvalidPipeline: The declaration's options are wrong.
        """

    @abstractmethod
    def default_bundle(
        self, declaration: Declaration, dimensions: Mapping[str, int]
    ) -> Bundle | None:
        """Return the version that serves when none was trained; None if the kind has none.

        The same in every process.

        Args:
            declaration: The model.
            dimensions: Length of the vectors of each model that it reads, as far as they are known.

        Raises:
            InvalidPipeline: It cannot be made of these options, or of what is read.
        """
