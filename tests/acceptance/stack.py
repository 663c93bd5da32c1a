"""A running `captionstream up`, as the acceptance tests use it."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import psutil
from pymongo import MongoClient

from tests.ports import PORTS
from tests.waiting import DEADLINE_SECONDS, wait_until

COMMAND = [sys.executable, "-m", "streams.cli"]
TRAINER = [sys.executable, "-m", "trainer.cli"]
#: Exit code of a command that could not do its work.
_ERROR = 2


def user_environment(**settings):
    """The shell of a user who set only these settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == PORTS or not name.startswith("CAPTIONSTREAM_")
    }
    return {**kept, **{f"CAPTIONSTREAM_{name}": value for name, value in settings.items()}}


class Stack:
    """A running `captionstream up`, and the commands that talk to it."""

    def __init__(self, data_dir, environment, *, cwd=None):
        self.cwd = cwd
        self.data_dir = data_dir
        self.environment = environment
        self.log = (data_dir.parent / "up.log").open("w")
        self._start()
        self.client = MongoClient(self.info["mongo_uri"])
        self.documents = self.client[self.info["database"]][self.info["collection"]]

    def _start(self):
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--data-dir", str(self.data_dir)],
            env=self.environment,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, self.said()
        self.info = json.loads(line)

    def kill(self):
        """SIGKILL of the supervisor: everything goes with it. Then `up` again."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        pids = {*self.pids().values(), *(process.pid for process in family)}
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        wait_until(lambda: not any(map(psutil.pid_exists, pids)), doing="the end of everything")
        self._start()

    def restart(self):
        """SIGTERM of the supervisor, and `up` again. Return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=300)
        self.process.stdout.close()
        self._start()
        return code

    def said(self):
        """Everything that `up` has told its user so far, over all its starts."""
        return (self.data_dir.parent / "up.log").read_text()

    def run(self, *arguments, code=0, timeout_seconds=800):
        return self._run(COMMAND, arguments, code, timeout_seconds).stdout

    def train(self, *arguments, code=0):
        return self._run(TRAINER, arguments, code).stdout

    def settle(self, seconds):
        """Wait until all is done, or so long, although a server may be away for a moment."""
        arguments = ("wait", "--timeout", str(seconds))
        wait_until(
            lambda: self._run(COMMAND, arguments, None).returncode != _ERROR,
            doing="an answer to `wait`",
        )

    def _run(self, command, arguments, code, timeout_seconds=800):
        done = subprocess.run(
            [*command, *arguments, "--data-dir", str(self.data_dir)],
            env=self.environment,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        assert code is None or done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return done

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

        return wait_until(is_there, doing=f"{model} of {document_id}")

    def metric(self, process, name, label=""):
        """Sum over all labels, or over those series that carry a label."""
        url = self._written()["metrics"][process]
        with urllib.request.urlopen(url) as reply:  # noqa: S310 - our own server
            lines = reply.read().decode().splitlines()
        found = [line for line in lines if line.startswith(name) and label in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def pids(self):
        return self._written()["pids"]

    def _written(self):
        """What `up` says of itself now; `info` is what it said when it was ready first."""
        return json.loads((self.data_dir / "stack.json").read_text())

    def stop(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=DEADLINE_SECONDS)
        self.process.stdout.close()
        self.log.close()
        return code
