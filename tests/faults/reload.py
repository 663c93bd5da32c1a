"""Hot reload under load. `python -m tests.faults.reload --documents 2000`.

Documents flow while five captioners are promoted and one is rolled back, and five that do not hold
are promoted in between. Then every caption is computed again with the version that it names.
Prints JSON; exit code 1 if a document is lost or wrong.
"""

import argparse
import io
import itertools
import json
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from streams.contract.states import Recaption
from streams.contract.values import decode_vector
from streams.models import conditional_lm
from streams.mongo.client import connect, state_database
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from tests.acceptance.stack import Stack, user_environment
from tests.bad_versions import publish_bad_versions
from tests.captioner import tiny_captioner
from tests.pipelines import CLIP, CONDITIONAL_LM
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

NAME = CONDITIONAL_LM.name
_PHASES = 7
#: Most documents of one phase, however long it takes: what comes later has to be recomputed.
_MOST = 1000
_REFUSED = "captionstream_model_refused_reloads_total"


class Flow:
    """Inserts documents of its own, never more than a few batches ahead of their captions."""

    def __init__(self, stack: Stack, count: int) -> None:
        self._stack = stack
        self._numbers = itertools.count()
        self._per_phase = count // _PHASES
        self.ids: list[Any] = []

    def until(self, is_over: Callable[[], bool], least: int | None = None) -> None:
        """Insert `least` documents (a phase's share when None), and on until `is_over`."""
        first = len(self.ids)
        share = self._per_phase if least is None else least

        def is_done() -> bool:
            if len(self.ids) - first < max(share, _MOST):
                self.insert(8)
            self.wait_for_captions(len(self.ids) - 96)
            return len(self.ids) - first >= share and is_over()

        wait_until(is_done, deadline_seconds=300, doing="a phase of the load")

    def wait_for_captions(self, count: int) -> None:
        """Wait until so many of the documents have a caption."""

        def is_there() -> bool:
            query = {
                "_id": {"$in": self.ids[:count]},
                f"{CONDITIONAL_LM.path}.version": {"$gt": ""},
            }
            return bool(self._stack.documents.count_documents(query) >= count)

        if count > 0:
            wait_until(is_there, doing=f"{count} captions")

    def captioned_by(self, version: str) -> bool:
        """Whether the version has captioned one of the documents."""
        query = {"_id": {"$in": self.ids}, f"{CONDITIONAL_LM.path}.version": version}
        return self._stack.documents.find_one(query, {"_id": 1}) is not None

    def outputs(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the embedding and the caption of every document; empty ones if they are missing."""
        for row in self._stack.documents.find({"_id": {"$in": self.ids}}, {"_outputs": 1}):
            made = row.get("_outputs", {})
            yield (
                made.get("img", {}).get(CLIP.name, {}),
                made.get("_base", {}).get(CONDITIONAL_LM.name, {}),
            )

    def insert(self, count: int) -> None:
        """Insert so many documents."""
        pictures = [picture(number) for number in itertools.islice(self._numbers, count)]
        rows = [{"img": data} for data in pictures]
        self.ids += self._stack.documents.insert_many(rows).inserted_ids


def picture(number: int) -> bytes:
    """Return a small picture of a colour of its own."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (number % 256, number // 256, 40)).save(data, "PNG")
    return data.getvalue()


def reload_under_load(stack: Stack, documents: int) -> dict[str, Any]:
    """Run the scenario on a stack and return the report.

    1. Five good versions, one after the other; each captions something before the next comes.
    2. After the third, five bad ones; each is refused and the third serves on.
    3. The last one is rolled back.
    4. Every caption is recomputed.
    """
    settings = MongoSettings(uri=stack.info["mongo_uri"], database=stack.info["database"])
    with connect(settings) as client:
        database = state_database(client, settings)
        registry = Registry(database)
        clip = wait_until(lambda: registry.pointer(CLIP.name), doing="CLIP").version
        flow = Flow(stack, documents)
        good = [
            registry.publish(tiny_captioner(seed=seed, clip_version=clip))
            for seed in range(100, 105)
        ]
        refused_before = stack.metric(NAME, _REFUSED)
        refusals = []
        for number, version in enumerate(good):  # 1
            promote(registry, version)
            flow.until(lambda version=version: flow.captioned_by(version))
            if number == 2:
                for wrong, bad in publish_bad_versions(registry, database, clip).items():  # 2
                    refusals.append(refuse(registry, flow, bad, wrong, version))
        registry.rollback(NAME, reason="test", recaption=Recaption.NONE)  # 3
        flow.until(lambda: serves(stack, good[-2]))
        last = len(flow.ids)
        flow.until(lambda: True)
        flow.wait_for_captions(len(flow.ids))
        wrong_documents = list(problems(registry, flow))  # 4
        return {
            "documents": len(flow.ids),
            "promoted": good,
            "serving": good[-2],
            "lost_or_wrong": len(wrong_documents),
            "examples": wrong_documents[:5],
            "captions_by_version": Counter(c["version"] for _, c in flow.outputs()),
            "refusals": refusals,
            "refused_reloads": stack.metric(NAME, _REFUSED) - refused_before,
            "inserted_after_rollback": len(flow.ids) - last,
            **pauses(registry, stack, flow),
        }


def promote(registry: Registry, version: str) -> None:
    """Let it serve; what is stored stays, so that every version keeps its captions."""
    registry.promote(NAME, version, reason="test", recaption=Recaption.NONE)


def refuse(registry: Registry, flow: Flow, bad: str, wrong: str, serving: str) -> str:
    """Promote a bad version and return why it was refused; the good one has to serve on."""
    promote(registry, bad)
    flow.until(lambda: registry.pointer(NAME).refusal is not None, least=8)
    pointer = registry.pointer(NAME)
    assert wrong in pointer.refusal.reason
    assert pointer.serving == serving
    flow.insert(8)
    return str(pointer.refusal.reason)


def serves(stack: Stack, version: str) -> bool:
    """Whether the process of the captioner says so."""
    with urllib.request.urlopen(stack.info["metrics"][NAME]) as reply:  # noqa: S310 - ours
        return f'version="{version}"}} 1.0' in reply.read().decode()


def problems(registry: Registry, flow: Flow) -> Iterator[str]:
    """Yield one line for each document whose caption is not what its version computes."""
    models: dict[str, conditional_lm.ConditionalLM] = {}
    known = {info.version for info in registry.versions(NAME)}
    count = 0
    for clip, caption in flow.outputs():
        count += 1
        version = caption.get("version")
        if version not in known:
            yield f"made by {version}, which is not in the registry"
            continue
        if version not in models:
            models[version] = conditional_lm.from_bundle(registry.fetch(NAME, version))
        vector = torch.from_numpy(decode_vector(clip["value"]).copy()).unsqueeze(0)
        [expected] = models[version].generate(vector)
        is_close = abs(expected.score - caption["score"]) < 1e-4
        if expected.text != caption["value"] or not is_close:
            yield f"{caption['value']!r} by {version} should be {expected.text!r}"
        if caption["features"] != {CLIP.name: clip["version"]}:
            yield f"made from {caption['features']}, stored is {clip['version']}"
    if count != len(flow.ids):
        yield f"{len(flow.ids) - count} documents are gone"


def pauses(registry: Registry, stack: Stack, flow: Flow) -> dict[str, Any]:
    """Return the longest time without a caption, and the longest around a move of the pointer."""
    times = sorted(caption["at"] for _, caption in flow.outputs())
    gaps = [(b - a, a, b) for a, b in itertools.pairwise(times)]
    around = timedelta(seconds=3)  # the poll comes within a second of the move
    moves = [move.at.replace(tzinfo=None) for move in registry.history(NAME)[-11:]]
    near = [gap for gap, a, b in gaps if any(m <= b and a <= m + around for m in moves)]
    far = [gap for gap, a, b in gaps if not any(m <= b and a <= m + around for m in moves)]
    calls = stack.metric(NAME, "captionstream_step_seconds_count")
    return {
        "longest_pause_around_moves_seconds": max(near, default=timedelta()).total_seconds(),
        "longest_pause_elsewhere_seconds": max(far, default=timedelta()).total_seconds(),
        "mean_batch_seconds": round(
            stack.metric(NAME, "captionstream_step_seconds_sum") / calls, 4
        ),
        "batches_longer_than_quarter_second": calls
        - stack.metric(NAME, 'captionstream_step_seconds_bucket{le="0.25"'),
    }


def main() -> None:
    """Run it on a stack of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        stack = Stack(
            Path(name) / "data",
            user_environment(
                CLIP__MODEL=str(write_tiny_clip(Path(name))),
                CLIP__PRETRAINED="random",
                STAGE__TORCH_THREADS="1",
            ),
        )
        try:
            report = reload_under_load(stack, arguments.documents)
        finally:
            stack.stop()
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if report["lost_or_wrong"] else 0)


if __name__ == "__main__":
    main()
