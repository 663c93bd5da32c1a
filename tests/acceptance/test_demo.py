"""`make demo` in small: captions from nothing, a report, a page, and nothing left over."""

import json
import re
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
        env=user_environment(CLIP__PRETRAINED="random"),  # as README has it for other images
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
    for name in ("exact_match", "bleu4", "documents_per_second", "seconds", "cider"):
        assert report[name] > 0, name
    assert report["exact_match"] <= 1
    for label, value in (
        ("documents", "200"),
        ("captions", r"200 \(0 failed\)"),
        ("model version", report["model_version"]),
        ("seconds", r"\d+"),
    ):
        assert re.search(rf"^ {label} +{value} *$", done.stdout, re.MULTILINE), label
    for label, name, unit in (
        ("exact match", "exact_match", r"\(of 30 unseen scenes\)"),
        ("BLEU-4", "bleu4", ""),
        ("CIDEr-D", "cider", ""),
        ("insert to caption p50", "latency_p50_seconds", "s"),
        ("insert to caption p95", "latency_p95_seconds", "s"),
        ("documents per second", "documents_per_second", r"\(.*\)"),
    ):
        shown = re.search(rf"^ {label} +([0-9.]+) ?{unit} *$", done.stdout, re.MULTILINE)
        assert shown, label
        digits = len(shown[1].partition(".")[2])
        # The report has four digits: rounded again, they may end in another one than the table's.
        assert float(shown[1]) == pytest.approx(report[name], abs=0.56 * 10**-digits), label
    samples = re.findall(r"^  [0-9a-f]{24}  (?:right|WRONG)  \w.*$", done.stdout, re.MULTILINE)
    assert len(samples) == 10
    assert f"a new version serves ({report['model_version']})" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 24
    assert processes_in(tmp_path) == []
