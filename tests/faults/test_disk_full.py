"""A data directory whose disk is full, until somebody makes room."""

import itertools
import json
import os
import random
import shutil
import subprocess
from contextlib import suppress

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.acceptance.stack import Stack, user_environment
from tests.captioner import publish_tiny_captioner
from tests.faults.load import picture
from tests.tiny import write_tiny_clip


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(directory)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a file system")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def fill(path):
    with path.open("wb", buffering=0) as file:
        block = bytes(1 << 20)
        try:
            while file.write(block):
                pass
        except OSError:
            return


def insert_until(is_over, documents, generator):
    """Return the ids that MongoDB confirmed. What it refuses for now is left out."""
    confirmed = set()
    for number in itertools.count():
        image = picture(generator) + generator.randbytes(100_000)
        with suppress(PyMongoError):
            documents.insert_one({"_id": number, "img": image})
            confirmed.add(number)
        if is_over():
            return confirmed


@pytest.mark.timeout(600)
def test_nothing_is_lost_while_the_disk_is_full(small_disk, tmp_path):
    """Fails without the look at the free space in `mongod.py`."""
    stack = Stack(
        small_disk,
        user_environment(
            CLIP__MODEL=str(write_tiny_clip(tmp_path)),
            CLIP__PRETRAINED="random",
            STAGE__TORCH_THREADS="1",
        ),
    )
    generator = random.Random(5)  # noqa: S311 - pictures, no secret
    up_log = tmp_path / "up.log"
    try:
        publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
        stack.documents.insert_many([{"_id": -i, "img": picture(generator)} for i in range(1, 51)])
        stack.run("wait", "--timeout", "300")

        ballast = small_disk / "ballast"
        fill(ballast)
        with MongoClient(stack.info["mongo_uri"], timeoutMS=2000) as client:
            documents = client[stack.info["database"]][stack.info["collection"]]
            # The reason is said aloud, in the end; one insert refused may also be a slow server.
            confirmed = insert_until(
                lambda: "free some" in up_log.read_text(), documents, generator
            )
            ballast.unlink()  # before the client says goodbye to a server that is away
        stack.client.admin.command("ping")
        stack.run("wait", "--timeout", "300")
        found = {row["_id"] for row in stack.documents.find({}, {"_id": 1})}
        assert found >= confirmed
        assert json.loads(stack.run("verify", "--json", "--patience", "60"))["wrong"] == []
    finally:
        assert stack.stop() == 0
