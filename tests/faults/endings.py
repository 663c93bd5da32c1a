"""How processes of a stack ended, by what `up` says of it, and whether it was asked for."""

import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping

_LINE = re.compile(r"^\S+ (\w+) ended with code (-?\d+) after ([\d.]+) s", re.MULTILINE)
#: A process that gets SIGTERM before Python has set a handler ends by the signal itself.
_YOUNG_SECONDS = 2.0

Ending = tuple[str, int]
"""Name of a process and its exit code, negative for a signal."""


def endings(log: str) -> Counter[Ending]:
    """Count the ends of processes that the supervisor did not bring about itself."""
    return Counter(_endings(log))


def unasked(found: Mapping[Ending, int], asked: Mapping[Ending, int]) -> list[str]:
    """Return one line for each kind of end that came more often than it was asked for."""
    return [
        f"{name} ended {count} times with code {code}, asked for were {asked.get((name, code), 0)}"
        for (name, code), count in sorted(found.items())
        if count > asked.get((name, code), 0)
    ]


def _endings(log: str) -> Iterator[Ending]:
    for name, code, seconds in _LINE.findall(log):
        is_early = int(code) == -signal.SIGTERM and float(seconds) < _YOUNG_SECONDS
        yield name, 0 if is_early else int(code)
