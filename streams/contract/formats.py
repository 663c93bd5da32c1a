"""The number of the format that something is stored in. Pure.

Whatever is kept carries one: records, outputs, versions, pointers, positions, the pipeline. An
incompatible change raises it. Of a rollout old and new processes run side by side, so another
number is met in good order: it is refused, with the remedy, and nothing is guessed.

A field that stands in every format, with the same meaning, is named by whoever reads it.
"""

_UPGRADE = "upgrade this process to the release that wrote it"


def format_problem(what: str, found: object, *, reads: int, otherwise: str) -> str:
    """Return why something stored cannot be read, with the remedy; "" when it can.

    Args:
        what: What it is.
        found: What stands where its number belongs; None where nothing does.
        reads: The number that this release reads and writes.
        otherwise: The remedy where no later release wrote it.
    """
    if found == reads:
        return ""
    remedy = _UPGRADE if isinstance(found, int) and found > reads else otherwise
    return f"{what} is stored in format {found!r:.20} and this release reads {reads}: {remedy}"
