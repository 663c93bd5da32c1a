"""Models that this repository has never heard of, declared while documents flow."""

import io
import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.own_models import DECLARED, write_package
from tests.acceptance.stack import Stack, user_environment
from tests.tiny import write_tiny_clip
from tests.waiting import wait_until

README = Path(__file__).parents[2] / "README.md"
COLOURS = {"red": (220, 20, 30), "green": (10, 200, 40), "blue": (30, 20, 240)}


def picture(name, shade):
    red, green, blue = COLOURS[name]
    data = io.BytesIO()
    Image.new("RGB", (40, 40), (red - shade % 8, green, blue)).save(data, "PNG")
    return data.getvalue()


class Feed:
    """Inserts documents with images of known colours, each with a title."""

    def __init__(self, documents, first=0):
        self._documents = documents
        self._numbers = count(first)
        self.colours = {}

    def insert(self, howmany):
        rows = []
        for number in (next(self._numbers) for _ in range(howmany)):
            name = list(COLOURS)[number % 3]
            self.colours[number] = name
            rows.append({"_id": number, "img": picture(name, number), "title": f"no {number}"})
        self._documents.insert_many(rows)
        return [row["_id"] for row in rows]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    environment = user_environment(
        CLIP__MODEL=str(write_tiny_clip(root)),
        CLIP__PRETRAINED="random",
        STAGE__TORCH_THREADS="1",
        KAFKA__SESSION_TIMEOUT_SECONDS="6",
        RECONCILER__INTERVAL_SECONDS="2",
        RECONCILER__GRACE_SECONDS="20",
    )
    (root / "shop.py").write_text(code_of_readme("python", "class Colour"))
    paths = [str(write_package(root)), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    running = Stack(root / "data", environment)
    yield running
    assert running.stop() == 0


def code_of_readme(language, holding):
    """The one block of the README, in this language, that holds something."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    [block] = [block for block in blocks if holding in block]
    return block


def of_label(stack, label):
    """How many documents have this beginning of a label, and every model's output."""
    wanted = {"_outputs._base.label.value": {"$regex": label}}
    return stack.documents.count_documents(wanted)


def declared(stack, tmp_path, *more):
    now = stack.run("pipeline", "show", "--yaml")
    file = tmp_path / "pipeline.yaml"
    file.write_text(now + "\n".join(more))
    return str(file)


@pytest.mark.timeout(600)
def test_what_the_readme_says_of_a_model_of_ones_own_runs_as_printed(stack, tmp_path):
    [number] = Feed(stack.documents, first=5000).insert(1)
    lines = code_of_readme("console", "pipeline apply").splitlines()
    commands = [line.removeprefix("$ ") for line in lines]
    environment = stack.environment | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CAPTIONSTREAM_MONGO__URI": stack.info["mongo_uri"],
        "CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS": stack.info["kafka"],
    }
    script = "\n".join(["set -e", *commands])
    subprocess.run(["bash", "-c", script], check=True, cwd=tmp_path, env=environment)
    made = stack.wait_for_output(number, "colour")
    assert len(made["value"]["rgb"]) == 3
    stack.run("pipeline", "deactivate", "colour", "--wait", "200")
    stack.run("pipeline", "forget", "colour", "--yes")
    assert "colour" not in stack.outputs(number)
    stack.documents.delete_many({})


@pytest.mark.timeout(900)
def test_three_models_of_ones_own_from_declared_to_forgotten(stack, tmp_path):
    feed = Feed(stack.documents)
    feed.insert(400)

    # Declared while documents come in. The plan says what is going to be made.
    file = declared(stack, tmp_path, DECLARED)
    plan = json.loads(stack.run("pipeline", "plan", file, "--json"))
    rows = {row["name"]: row for row in plan["models"]}
    assert {n for n, row in rows.items() if row["action"] == "start"} == {"tint", "halves", "label"}
    feed.insert(300)
    stack.run("pipeline", "apply", file, "--yes")
    feed.insert(300)

    def all_labelled():
        return of_label(stack, "^no ") == 1000

    wait_until(all_labelled, doing="a label for each of 1,000 documents")
    for number in (0, 401, 999):
        outputs = stack.outputs(number)
        assert outputs["tint"]["value"]["name"] == feed.colours[number]
        title = f"no {number}: {feed.colours[number]} "
        assert outputs["label"]["value"].startswith(title)
        assert outputs["label"]["features"].keys() == {"halves", "tint", "clip"}
        assert outputs["label"]["input"].keys() == {"img", "title"}
    assert json.loads(stack.run("verify", "--json"))["wrong"] == []

    # Nothing but the last one reads the title.
    before = stack.outputs(5)
    calls = {name: stack.metric(name, "captionstream_model_inputs_total") for name in rows}
    stack.documents.update_one({"_id": 5}, {"$set": {"title": "renamed"}})
    wait_until(lambda: of_label(stack, "^renamed: ") == 1, doing="the new label")
    after = {name: stack.metric(name, "captionstream_model_inputs_total") for name in rows}
    assert {name for name in rows if after[name] != calls[name]} == {"label"}
    assert stack.outputs(5)["halves"]["value"] == before["halves"]["value"]

    # Replaced by a version with another option.
    text = stack.run("pipeline", "show", "--yaml")
    shouting = tmp_path / "shouting.yaml"
    shouting.write_text(
        text.replace("shop_models:Label", "shop_models:Label\n  options: {shout: true}")
    )
    plan = json.loads(stack.run("pipeline", "plan", str(shouting), "--json"))
    [label] = [row for row in plan["models"] if row["name"] == "label"]
    assert (label["stale"], label["missing"], label["reused"]) == (1000, 0, 0)
    stack.run("pipeline", "apply", str(shouting), "--yes")
    wait_until(lambda: of_label(stack, "^(NO |RENAMED)") == 1000, doing="a new label for all")
    assert json.loads(stack.run("verify", "--json"))["wrong"] == []

    # Deactivated: outputs stay, new documents get none. Then forgotten.
    stack.run("pipeline", "deactivate", "label", "--wait", "200")
    wait_until(lambda: "label" not in stack.pids(), doing="the end of its process")
    [number] = feed.insert(1)
    stack.wait_for_output(number, "halves")
    assert "label" not in stack.outputs(number)
    assert of_label(stack, "^(NO |RENAMED)") == 1000
    stack.run("pipeline", "forget", "label", "--yes")
    assert of_label(stack, "") == 0
    assert json.loads(stack.run("verify", "--json"))["wrong"] == []
