"""Every error of ours, in one tree. A class knows whether waiting can help.

CaptionstreamError
├── SettingsError             the environment or a command's arguments are wrong
│   └── InvalidPipeline       declared models do not make a pipeline
├── DocumentError             one document cannot be processed; the next one can
│   ├── InvalidImage          `img` is missing, has a wrong type, cannot be decoded or is too large
│   ├── InvalidUrl            the URL in `img` may not be fetched, or nothing of use is behind it
│   ├── FetchFailed           its server is away or too slow              (retryable)
│   ├── InvalidEvent          a record on a topic is not one of ours, or of a schema we do not know
│   ├── FeatureMismatch       a vector does not fit the model that should read it
│   ├── WriteRejected         MongoDB refused the outputs of this document (for example over 16 MB)
│   ├── ModelFailed           the model raised on this document, again and again   (retryable)
│   ├── ModelHung             the model does not finish on this document
│   └── ModelCrashed          the model's process dies on this document
├── ModelError                a model version cannot serve
│   ├── InvalidBundle         hashes, manifest, weights or golden output do not hold
│   ├── ModelNotFound         no such model or version
│   ├── CodeMismatch          the class here is not the one that a version was made with
│   └── PointerConflict       somebody else moved the pointer, or changed the pipeline, first
├── CaptureError              the change stream cannot go on as it is
│   ├── HistoryLost           the oplog no longer reaches back to the stored position
│   └── LeaseLost             another process holds the lease
├── TrainerError              the offline half cannot do what was asked
│   ├── TooLittleData         there are too few documents to learn from or to measure on
│   ├── InvalidSnapshot       a snapshot is missing or damaged
│   ├── InvalidCheckpoint     a fit cannot go on from where an earlier one stood
│   └── InvalidValidationSet  a validation set is missing, damaged or made for something else
├── UnknownFormat             another release stored something, in a format of its own
├── ProcessBroken             this process cannot work any more; a restart is the remedy
└── Unavailable               a neighbour is away; wait and go on              (retryable)
    ├── StoreUnavailable      MongoDB
    │   └── StoreRefuses      it answers, and refuses until somebody changes something there
    └── BrokerUnavailable     Kafka
"""

from typing import Final

#: Most characters of one message, wherever it goes: a terminal, a document, a Kafka header, a log.
LONGEST_MESSAGE: Final = 1000
_LEFT_OUT: Final = " [...] "


def bounded(message: str, longest: int = LONGEST_MESSAGE) -> str:
    """Return a message of at most `longest` characters.

    What comes from outside, a file or another program's error, may be of any length. Begin and end
    stay: the begin says what failed, the end what to do.
    """
    if len(message) <= longest:
        return message
    tail = longest // 4
    return message[: longest - tail - len(_LEFT_OUT)] + _LEFT_OUT + message[-tail:]


class CaptionstreamError(Exception):
    """Base of all errors that this package raises on purpose.

    The message says what failed, what was expected and what to do, in at most `LONGEST_MESSAGE`
    characters.
    """

    is_retryable: bool = False

    def __init__(self, message: str = "") -> None:
        """Bound the message here, so that nobody who shows or stores it has to."""
        super().__init__(bounded(message))


class SettingsError(CaptionstreamError):
    """A setting or a command's argument is wrong."""


class InvalidPipeline(SettingsError):
    """Declared models do not make a pipeline."""


class DocumentError(CaptionstreamError):
    """One document cannot be processed. It is recorded there and dead-lettered."""


class InvalidImage(DocumentError):
    """`img` is missing, has a wrong type, cannot be decoded or exceeds a limit."""


class InvalidUrl(DocumentError):
    """The URL in `img` may not be fetched, or nothing of use is behind it."""


class FetchFailed(DocumentError):
    """What is behind the URL in `img` cannot be had now."""

    is_retryable = True
    #: How long its server asks to be left alone; None when it does not say.
    retry_after_seconds: float | None = None


class InvalidEvent(DocumentError):
    """A record is not one of ours, is damaged, or has a schema version that we do not know."""


class FeatureMismatch(DocumentError):
    """A vector has another shape or model version than the model that should read it expects."""


class WriteRejected(DocumentError):
    """MongoDB refused to store the outputs of one document."""


class ModelFailed(DocumentError):
    """A model raised on this document in every attempt."""

    is_retryable = True


class ModelHung(DocumentError):
    """A model does not finish on this document."""


class ModelCrashed(DocumentError):
    """The process of a model dies on this document."""


class ModelError(CaptionstreamError):
    """A model version cannot serve."""


class InvalidBundle(ModelError):
    """A bundle is damaged or does not compute what its manifest promises."""


class ModelNotFound(ModelError):
    """There is no such model or no such version in the registry."""


class CodeMismatch(ModelError):
    """A user's class, as this process has it, is not what a version was made with.

    It says nothing about the version: another process may have the right one.
    """


class PointerConflict(ModelError):
    """The pointer, or the declared pipeline, was changed by somebody else since it was read."""


class CaptureError(CaptionstreamError):
    """The change stream cannot go on from where it stood."""


class HistoryLost(CaptureError):
    """The oplog no longer holds the stored position; changes may have been missed."""


class LeaseLost(CaptureError):
    """Another process holds the lease; this one must change nothing."""


class TrainerError(CaptionstreamError):
    """The offline half cannot do what was asked."""


class TooLittleData(TrainerError):
    """There are too few documents to learn from or to measure on."""


class InvalidSnapshot(TrainerError):
    """A snapshot is missing or damaged."""


class InvalidCheckpoint(TrainerError):
    """A checkpoint is damaged, another run's or another release's; without it a fit starts anew."""


class InvalidValidationSet(TrainerError):
    """A validation set is missing, damaged, or made with other options or another CLIP version."""


class UnknownFormat(CaptionstreamError):
    """Something is stored in a format that this release does not read.

    It says nothing about what is stored: a process of another release may read it.
    """


class ProcessBroken(CaptionstreamError):
    """This process cannot work any more, whatever it is given: it ends, to be started again.

    Attributes:
        exit_code: How it ends (EX_OSERR of sysexits.h).
    """

    exit_code: int = 71


class Unavailable(CaptionstreamError):
    """A server that we need does not answer. Waiting helps, nothing is lost."""

    is_retryable = True


class StoreUnavailable(Unavailable):
    """MongoDB does not answer or has no primary."""


class StoreRefuses(StoreUnavailable):
    """MongoDB answers and refuses. Nothing is lost meanwhile, but waiting alone does not help."""


class BrokerUnavailable(Unavailable):
    """The Kafka broker does not answer."""
