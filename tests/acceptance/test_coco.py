"""Real photographs through the whole pipeline, beside bare open_clip."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streams.contract.values import decode_vector
from tests.acceptance.stack import Stack, user_environment

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
FOLDERS = ("val2017", "train2017")

pytestmark = pytest.mark.skipif(not COCO.is_dir(), reason=f"no COCO photographs beside {COCO}")

#: A process of its own: the seed of the weights must be the first random number that is drawn.
BARE = """
import sys, numpy, open_clip, torch
from PIL import Image
torch.manual_seed(0)
model, _, preprocess = open_clip.create_model_and_transforms("RN50", pretrained=None)
model.eval()
rows = []
paths = sys.argv[2:]
with torch.inference_mode():
    for start in range(0, len(paths), 16):
        batch = [preprocess(Image.open(path)) for path in paths[start : start + 16]]
        rows.append(model.encode_image(torch.stack(batch)).numpy())
numpy.save(sys.argv[1], numpy.concatenate(rows))
"""


@pytest.fixture
def stack(tmp_path):
    running = Stack(
        tmp_path / "data", user_environment(CLIP__MODEL="RN50", CLIP__PRETRAINED="random")
    )
    yield running
    assert running.stop() == 0


@pytest.mark.timeout(1500)
def test_every_photograph_gets_the_embedding_of_bare_open_clip_and_a_caption(stack, tmp_path):
    for folder in FOLDERS:
        arguments = (
            *("--annotations", str(COCO / "annotations" / f"captions_{folder}.json")),
            *("--images", str(COCO / folder)),
        )
        stack.run("import-coco", *arguments, *(("--fold", "test") if "val" in folder else ()))
        assert "0 of them new" in stack.run("import-coco", *arguments)
    stack.run("wait", "--timeout", "700")
    assert stack.status()["documents"]["awaiting_model"] == 159

    paths = sorted(path for folder in FOLDERS for path in (COCO / folder).glob("*.jpg"))
    bare = tmp_path / "bare.npy"
    subprocess.run([sys.executable, "-c", BARE, bare, *paths], check=True)
    for path, expected in zip(paths, np.load(bare), strict=True):
        stored = stack.outputs(int(path.stem))["clip"]
        vector = decode_vector(stored["value"])
        assert vector.shape == (1024,)
        cosine = vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected)
        assert cosine > 0.9999, path.name

    # A captioner learns from the train fold. With so few images its captions prove nothing.
    fit = ("--option", "hidden=64", "--max-epochs", "2", "--min-documents", "50", "--threads", "1")
    assert "a new version serves" in stack.train("run", "conditional_lm", *fit)
    evaluated = stack.train("evaluate", "conditional_lm", "--html", str(tmp_path / "page.html"))
    assert "too few" in evaluated
    assert (tmp_path / "page.html").stat().st_size > 100_000
    stack.run("wait", "--timeout", "700")
    assert stack.status()["documents"]["captioned"] == 159
