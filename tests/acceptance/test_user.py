"""As a user: `captionstream up`, plain pymongo, and the other commands. Real servers throughout."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image
from pymongo import MongoClient

from tests.captioner import publish_tiny_captioner
from tests.tiny import DIMENSION, write_tiny_clip
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "streams.cli"]


def picture(red, green=90, size=(80, 60), kind="JPEG"):
    data = io.BytesIO()
    Image.new("RGB", size, (red, green, 200)).save(data, kind)
    return data.getvalue()


class Stack:
    """A running `captionstream up`, and the commands that talk to it."""

    def __init__(self, data_dir, environment):
        self.data_dir = data_dir
        self.environment = environment
        self.log = (data_dir.parent / "up.log").open("w")
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--data-dir", str(data_dir)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, (data_dir.parent / "up.log").read_text()
        self.info = json.loads(line)
        self.client = MongoClient(self.info["mongo_uri"])
        self.documents = self.client[self.info["database"]][self.info["collection"]]

    def run(self, *arguments, code=0):
        done = subprocess.run(
            [*COMMAND, *arguments, "--data-dir", str(self.data_dir)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def status(self):
        return json.loads(self.run("status", "--json"))

    def outputs(self, document_id):
        document = self.documents.find_one({"_id": document_id}) or {}
        outputs = document.get("_outputs", {})
        return {**outputs.get("img", {}), **outputs.get("_base", {})}

    def wait_for_output(self, document_id, model, **fields):
        def is_there():
            stored = self.outputs(document_id).get(model, {})
            return all(stored.get(name) == value for name, value in fields.items()) and stored

        return wait_until(is_there, deadline_seconds=90, doing=f"{model} of {document_id}")

    def metric(self, process, name):
        url = self.info["metrics"][process]
        with urllib.request.urlopen(url) as reply:  # noqa: S310 - our own server
            lines = reply.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def pids(self):
        return json.loads((self.data_dir / "stack.json").read_text())["pids"]

    def stop(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=120)
        self.process.stdout.close()
        self.log.close()
        return code


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("CAPTIONSTREAM_")},
        "CAPTIONSTREAM_CLIP__MODEL": str(write_tiny_clip(root)),
        "CAPTIONSTREAM_CLIP__PRETRAINED": "random",
        "CAPTIONSTREAM_STAGE__TORCH_THREADS": "1",
        "CAPTIONSTREAM_KAFKA__SESSION_TIMEOUT_SECONDS": "6",
        "CAPTIONSTREAM_RECONCILER__INTERVAL_SECONDS": "2",
        "CAPTIONSTREAM_RECONCILER__GRACE_SECONDS": "5",
    }
    running = Stack(root / "data", environment)
    yield running
    assert running.stop() == 0


@pytest.mark.timeout(600)
def test_a_users_day(stack, tmp_path):
    documents = stack.documents

    # Inserted, with plain pymongo and with the command.
    first = documents.insert_one({"img": picture(10), "title": "one"}).inserted_id
    stack.wait_for_output(first, "clip_projection")
    made = stack.outputs(first)
    assert len(made["clip"]["value"].as_vector().data) == DIMENSION
    (tmp_path / "two.png").write_bytes(picture(20, kind="PNG"))
    assert "two.png" in stack.run("insert", str(tmp_path / "two.png"))

    # An unrelated field runs no model.
    stack.run("wait", "--timeout", "60")
    before = stack.metric("featurize", "captionstream_model_inputs_total")
    documents.update_one({"_id": first}, {"$set": {"title": "changed"}})
    second = documents.insert_one({"img": picture(30)}).inserted_id
    stack.wait_for_output(second, "clip_projection")
    assert stack.metric("featurize", "captionstream_model_inputs_total") == before + 1

    # Updated and replaced.
    old = stack.outputs(first)["clip"]["input"]
    documents.update_one({"_id": first}, {"$set": {"img": picture(40)}})
    wait_until(
        lambda: stack.outputs(first)["clip_projection"]["input"] not in (old, None),
        deadline_seconds=60,
        doing="the update",
    )
    documents.replace_one({"_id": second}, {"img": picture(50), "title": "new"})
    stack.wait_for_output(second, "clip_projection")

    # No captioner yet; a version in the registry changes that, for old documents and new ones.
    assert stack.status()["documents"]["awaiting_model"] == 3
    version = publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
    stack.wait_for_output(first, "conditional_lm", version=version)
    third = documents.insert_one({"img": picture(60)}).inserted_id
    caption = stack.wait_for_output(third, "conditional_lm", version=version)
    assert isinstance(caption["value"], str)
    stack.run("wait", "--timeout", "60")
    assert stack.status()["documents"] == {
        "total": 4,
        "captioned": 4,
        "awaiting_model": 0,
        "pending": 0,
        "failed": 0,
    }
    assert caption["value"] in stack.run("show", str(third))

    # Bad input: an error in the document, a dead letter, the rest untouched.
    bad = documents.insert_one({"img": b"this is no image"}).inserted_id
    good = documents.insert_one({"img": picture(70)}).inserted_id
    missing = documents.insert_one({"title": "no image at all"}).inserted_id
    stack.wait_for_output(good, "conditional_lm")
    for broken in (bad, missing):
        error = stack.wait_for_output(broken, "clip")["error"]
        assert error["type"] == "InvalidImage"
    assert "InvalidImage" in stack.run("dead-letters", "list")
    assert stack.status()["documents"]["failed"] == 2

    # A delete stays a delete.
    documents.delete_one({"_id": bad})
    wait_until(
        lambda: stack.status()["documents"]["failed"] == 1, deadline_seconds=30, doing="the delete"
    )
    assert documents.find_one({"_id": bad}) is None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["featurize", "project", "caption", "sink"])
def test_stage_killed_in_the_middle_of_a_batch_loses_nothing(stack, stage):
    documents = stack.documents
    ids = [documents.insert_one({"img": picture(i)}).inserted_id for i in range(100)]
    changed = ids[::10]
    victim = stack.pids()[stage]
    wait_until(
        lambda: stack.metric(stage, "captionstream_documents_total") > 0,
        deadline_seconds=60,
        doing=f"{stage} to have work",
    )
    os.kill(victim, signal.SIGKILL)
    documents.delete_many({"_id": {"$in": ids[1::10]}})
    for document_id in changed:
        documents.update_one({"_id": document_id}, {"$set": {"img": picture(200, 200)}})
    wait_until(lambda: stack.pids()[stage] != victim, deadline_seconds=60, doing="the restart")
    for document_id in ids:
        if documents.find_one({"_id": document_id}, {"_id": 1}):
            stack.wait_for_output(document_id, "conditional_lm")
    stack.run("wait", "--timeout", "120")
    assert documents.count_documents({"_id": {"$in": ids}}) == 90
    vectors = {bytes(stack.outputs(document_id)["clip"]["value"]) for document_id in changed}
    assert len(vectors) == 1, "every updated document holds the same new image"


def test_doctor_names_what_is_wrong(stack):
    assert "random: embeddings and captions mean nothing" in stack.run("doctor", code=1)


def test_error_is_one_line_and_exit_code_2(stack):
    done = subprocess.run(
        [*COMMAND, "show", "nobody", "--data-dir", str(stack.data_dir)],
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("captionstream: no document has the id nobody")
    assert len(done.stderr.splitlines()) == 1
