"""What reaches stderr, and what does not."""

import logging

import pytest
import structlog

from streams.errors import LONGEST_MESSAGE
from streams.logs import configure_command_logging, configure_logging
from streams.settings import LogSettings

LIBRARIES = ("kafka", "aiokafka", "pymongo")
PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def _logging_of_the_other_tests():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in root.manager.loggerDict}
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)
    for name in list(root.manager.loggerDict):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


def fail_with(password):
    message = f"no route for {len(password)} letters"
    raise OSError(message)


@pytest.mark.parametrize("text_format", ["json", "console"])
def test_traceback_shows_no_values(text_format, capsys):
    """Fails with structlog's own way to print one: it draws the local variables of each frame."""
    configure_logging(LogSettings(format=text_format), process="up")
    try:
        fail_with(PASSWORD)
    except OSError:
        structlog.get_logger("streams.tests").exception("failed")
    said = capsys.readouterr().err
    assert "no route for 7 letters" in said
    assert "fail_with" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("text_format", ["json", "console"])
def test_line_is_bounded_whatever_an_error_of_a_library_holds(text_format, capsys):
    """Fails without `_bound`."""
    configure_logging(LogSettings(format=text_format), process="up")
    structlog.get_logger("streams.tests").warning("failed", error="x" * 100_000 + "the end")
    logging.getLogger("pymongo").warning("y" * 100_000)
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line) < 2 * LONGEST_MESSAGE for line in lines)
    assert "the end" in lines[0]


def test_command_speaks_for_itself_libraries_do_not(capsys):
    """Fails without the level of `_CHATTY`: a broker that restarts gives tracebacks of Kafka's."""
    configure_command_logging("verify")
    for name in LIBRARIES:
        try:
            fail_with(PASSWORD)
        except OSError:
            logging.getLogger(f"{name}.net").exception("Error receiving network data")
    structlog.get_logger("streams.tests").warning("record left out")
    structlog.get_logger("streams.tests").info("too much to say")
    [line] = capsys.readouterr().err.splitlines()
    assert "record left out" in line
