"""A tiny CLIP for tests: an open_clip config that encodes in a millisecond."""

import json
from pathlib import Path

#: 64 x 64 pixels in, 32 numbers out.
DIMENSION = 32
TINY_CLIP = {
    "embed_dim": DIMENSION,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {
        "context_length": 8,
        "vocab_size": 64,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


def write_tiny_clip(directory: Path) -> Path:
    """Write the config of a tiny CLIP; return its path, a value for CAPTIONSTREAM_CLIP__MODEL."""
    path = directory / "tiny.json"
    path.write_text(json.dumps(TINY_CLIP))
    return path
