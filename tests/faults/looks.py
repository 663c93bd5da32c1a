"""What `verify` finds, at the end and before whatever would mend it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.acceptance.stack import Stack
from tests.faults.target import Target
from tests.waiting import wait_until

#: How long the stack may take to finish what is under way, beside servers that come back.
SETTLE_SECONDS = 300
#: For all documents of an hour, computed again beside other work.
_VERIFY_SECONDS = 3600
_EXAMPLES = 10


def look(target: Target) -> dict[str, Any]:
    """Hold the load, let the stack finish, and count what is wrong then."""
    target.wait_for_pending()
    with target.looks.during(), target.load.held():
        target.stack.settle(SETTLE_SECONDS)
        verified = verify(target.stack, patience_seconds=30)
    return {"documents": verified["checked"], **wrong_documents(verified["wrong"])}


def verify(stack: Stack, *, patience_seconds: float) -> dict[str, Any]:
    """Return what `verify` finds, once its servers answer."""
    arguments = ("verify", "--json", "--patience", str(patience_seconds))

    def answer() -> dict[str, Any] | None:
        said = stack.run(*arguments, code=None, timeout_seconds=_VERIFY_SECONDS)
        return json.loads(said) if said else None

    found: dict[str, Any] = wait_until(answer, doing="an answer of `verify`", pause_seconds=1)
    return found


def wrong_documents(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count what `verify` found: outputs that are not there, of an image gone by, and all else."""
    problems = [row["problem"] for row in findings]
    lost = sum(problem.endswith("has to run") for problem in problems)
    stale = sum(problem.endswith("was made from another image") for problem in problems)
    wrong = len(problems) - lost - stale
    return {"lost": lost, "stale": stale, "wrong": wrong, "examples": findings[:_EXAMPLES]}


def is_good(found: Mapping[str, Any]) -> bool:
    """Whether a look found nothing."""
    return not any(found[name] for name in ("lost", "stale", "wrong"))
