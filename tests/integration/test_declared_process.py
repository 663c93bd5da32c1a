"""A process is what the declared pipeline says, from its start to its end."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from streams.contract.declaration import ModelState
from streams.contract.default_pipeline import DEFAULT
from streams.kafka.topics import create_topics
from streams.mongo.client import connect, state_database
from streams.mongo.declarations import Declarations
from streams.mongo.processes import read_reports
from streams.settings import ClipSettings, child_environment
from tests.faults.processes import running
from tests.pipelines import CLIP_PROJECTION
from tests.waiting import DEADLINE_SECONDS, wait_until


@pytest.fixture
def declare(settings):
    """Declare the default pipeline anew, with one model in a state."""
    with connect(settings.mongo) as client:
        declared = Declarations(state_database(client, settings.mongo), settings.mongo.tenant)

        def declare(name, state):
            models = [
                each.model_copy(update={"state": state}) if each.name == name else each
                for each in DEFAULT.declarations
            ]
            revision = declared.read().revision
            declared.replace(models, expected_revision=revision, reason="test")

        yield declare


def run(name, settings, **more):
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", "run", name],
        env=child_environment(settings) | more,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def readiness(process):
    """What it says of itself; "" when it is ready, and None until it serves its endpoints."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/readyz"):
            return ""
    except urllib.error.HTTPError as exc:
        return exc.read().decode()
    except OSError:
        return None


def revisions(database):
    return [report.revision for report in read_reports(database)]


def test_process_that_nobody_declared_is_one_line_and_exit_code_2(settings):
    done = run("nothing", settings)
    assert done.returncode == 2, done
    assert done.stderr.startswith("captionstream: ")
    assert "choose one of publisher, clip, clip_projection" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_weights_that_need_a_download_without_a_network_name_the_remedy(settings, tmp_path):
    clip = ClipSettings(model="RN50", pretrained="openai")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = run("clip", settings.model_copy(update={"clip": clip}), **offline)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("captionstream: CLIP weights 'openai' of RN50 cannot be had")
    assert "set CAPTIONSTREAM_CLIP__PRETRAINED to the path of a checkpoint" in last
    assert "Traceback" not in done.stderr


def test_process_ends_in_good_order_when_it_has_something_else_to_do(settings, declare):
    """Fails without `watch.start` in `run_process`: it would go on with the pipeline of before."""
    create_topics(settings.kafka, DEFAULT)
    with running("sink", settings) as sink, running("conditional_lm", settings) as captioner:
        for process in (sink, captioner):
            wait_until(lambda process=process: readiness(process) == "", doing="it to be ready")
        declare(CLIP_PROJECTION.name, ModelState.INACTIVE)
        assert sink.wait(timeout=DEADLINE_SECONDS) == 0
        assert captioner.wait(timeout=DEADLINE_SECONDS) == 0, "it reads another topic now"


def test_process_of_an_inactive_model_waits_and_says_so(settings, declare, database, registry):
    """Fails without the loop in `run_process`: it would end, and be started again for ever.

    The end fails when the watch does not move its revision: nobody could tell who is behind.
    """
    create_topics(settings.kafka, DEFAULT)
    registry.announce("clip", "c1", {"dimension": 4})
    name = CLIP_PROJECTION.name
    declare(name, ModelState.INACTIVE)
    with running(name, settings) as process:
        said = f"{name} is inactive: activate it with `captionstream pipeline activate {name}`"
        wait_until(lambda: said in (readiness(process) or ""), doing="it to say so")
        declare(name, ModelState.ACTIVE)
        wait_until(lambda: said not in (readiness(process) or said), doing="it to go on")
        wait_until(lambda: revisions(database) == [2], doing="its report")
        declare(name, ModelState.ACTIVE)
        wait_until(lambda: revisions(database) == [3], doing="what changes nothing for it")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_SECONDS) == 0
