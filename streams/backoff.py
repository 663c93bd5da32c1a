"""Trying again: how long to wait between attempts. Pure; whoever waits knows what for.

Where a call is simply repeated, stamina does it.
"""

import random
from dataclasses import dataclass
from typing import Final

#: More doublings than any pause needs, and fewer than a float can take.
_MOST_DOUBLINGS: Final = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double with each attempt in vain, up to a longest one.

    Attributes:
        initial: The first pause, seconds.
        most: The longest one, seconds.
    """

    initial: float
    most: float

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after so many attempts in vain, from 1."""
        return min(self.most, self.initial * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))

    def jittered(self, attempt: int) -> float:
        """Return a random pause between this one and the next, at most the longest.

        For what many processes do: they are not to come back at the same moment.
        """
        longest = self.pause(attempt + 1)
        return random.uniform(longest / 2, longest)  # noqa: S311 - no secret
