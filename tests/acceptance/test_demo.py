"""`make demo` in small: captions from nothing, a report, a page, and nothing left over."""

import json
import subprocess
import sys

import psutil
import pytest

from tests.acceptance.stack import user_environment

KEYS = {
    "documents",
    "captioned",
    "failed",
    "exact_match",
    "bleu4",
    "cider",
    "latency_p50_seconds",
    "latency_p95_seconds",
    "documents_per_second",
    "model_version",
    "seconds",
}


def processes_in(directory):
    found = []
    for process in psutil.process_iter():
        try:
            found += [process] if str(directory) in " ".join(process.cmdline()) else []
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.timeout(600)
def test_demo_brings_captions_and_ends_by_itself(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "trainer.demo", "--data-dir", str(tmp_path), "--documents", "200"],
        env=user_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) >= KEYS
    assert (report["documents"], report["captioned"], report["failed"]) == (200, 200, 0)
    assert report["scored"] == 30
    assert 0 < report["latency_p50_seconds"] <= report["latency_p95_seconds"]
    assert 0 <= report["exact_match"] <= 1
    assert f"a new version serves ({report['model_version']})" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 24
    assert processes_in(tmp_path) == []
