"""What is to start fast and stay small loads no torch. In an interpreter of its own each."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "modules",
    [
        "streams.app, streams.stages.sink, streams.capture.process",
        "streams.images.decoder",
        "trainer.cli",
    ],
)
def test_torch_is_not_loaded(modules):
    """The imports that stand in the code do not tell: libraries could load it too.

    Of the trainer nothing but a fit and what is like it waits for it.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "False"
