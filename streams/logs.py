"""Log set-up: our events and those of libraries come out as one stream on stderr."""

import logging
import sys
from typing import Final

import structlog

from streams.errors import bounded
from streams.settings import LogSettings

#: Libraries that log a line for each record or request below warning level. That of httpx holds the
#: whole URL, with the keys in its query.
_CHATTY = ("faust", "aiokafka", "kafka", "mode", "pymongo", "PIL", "asyncio", "httpx", "httpcore")

#: Of a traceback, where the innermost frames and the error stand last.
_LONGEST_TRACEBACK: Final = 10_000


def configure_logging(settings: LogSettings, *, process: str) -> None:
    """Send all log lines to stderr in the chosen format, each with the process's name."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _bound, structlog.processors.JSONRenderer()]
        if settings.format == "json"
        else [
            _bound,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # Others draw the local variables of each frame: passwords would be among them.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # open_clip logs each step of loading a model, on the root logger.
    handler.addFilter(lambda line: line.name != "root" or line.levelno >= logging.WARNING)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def configure_command_logging(name: str) -> None:
    """Print our warnings as text, and nothing of libraries: a command's error says what is wrong.

    Args:
        name: Of the command.
    """
    configure_logging(LogSettings(format="console", level="warning"), process=name)
    for library in _CHATTY:
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _bound(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Bound every text of a line: errors of libraries may hold whole documents or files."""
    return {
        name: bounded(value, _LONGEST_TRACEBACK)
        if name == "exception"
        else bounded(value)
        if isinstance(value, str)
        else value
        for name, value in line.items()
    }
