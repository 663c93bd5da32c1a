"""A child process before it is started."""

import tracemalloc

from streams.local.child import Child


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    """Fails without `seek` in `last_lines`: the whole log was in memory."""
    log = tmp_path / "log"
    log.write_text("line\n" * (1 << 20) + "the last but one\nthe last\n")
    tracemalloc.start()
    try:
        assert child(log).last_lines(2) == "the last but one\nthe last"
        assert tracemalloc.get_traced_memory()[1] < log.stat().st_size / 2
    finally:
        tracemalloc.stop()


def test_a_log_that_cannot_be_read_has_no_lines(tmp_path):
    """Fails with `FileNotFoundError` in `last_lines`."""
    assert child(tmp_path).last_lines() == ""
    assert child(tmp_path / "none").last_lines() == ""


def child(log):
    return Child("name", [], log=log, cwd=log.parent, environment={})
