"""How processes of a stack ended, by what `up` says of it, and whether it was asked for."""

import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping

_LINE = re.compile(r"^\S+ (\w+) ended with code (-?\d+) after ([\d.]+) s.*$", re.MULTILINE)
#: A process that gets SIGTERM before Python has set a handler ends by the signal itself. A busy
#: machine takes its time until then.
_YOUNG_SECONDS = 10.0

Ending = tuple[str, int]
"""Name of a process and its exit code, negative for a signal."""


def endings(log: str) -> Counter[Ending]:
    """Count the ends of processes that the supervisor did not bring about itself."""
    return Counter(ending for _, ending in _endings(log))


def unasked(log: str, asked: Mapping[Ending, int]) -> list[str]:
    """Return the lines about each kind of end that came more often than it was asked for."""
    found = endings(log)
    strange = {ending for ending in found if found[ending] > asked.get(ending, 0)}
    return [line for line, ending in _endings(log) if ending in strange]


def _endings(log: str) -> Iterator[tuple[str, Ending]]:
    for found in _LINE.finditer(log):
        name, code, seconds = found.groups()
        is_early = int(code) == -signal.SIGTERM and float(seconds) < _YOUNG_SECONDS
        yield found[0], (name, 0 if is_early else int(code))
