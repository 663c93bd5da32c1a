"""Fixtures of tests that need no server, process or socket.

`CAPTIONSTREAM_TEST_EXAMPLES` is how many examples hypothesis draws for each test: a few by default,
always the same ones; as many as are asked for, and new ones each time, in a soak.
"""

import gc
import os
import sys
from functools import cache

import pytest
from hypothesis import settings

_EXAMPLES = os.environ.get("CAPTIONSTREAM_TEST_EXAMPLES")
settings.register_profile(
    "unit",
    max_examples=int(_EXAMPLES or 40),
    deadline=None,
    derandomize=not _EXAMPLES,
    database=None,
)
settings.load_profile("unit")

# What is imported stays, and there is a lot of it: no collection needs to look at it.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """More cost far more than they bring to models as small as these."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def _read_once():
    """open_clip reads all its words for each tokenizer, and all its configs with each new one."""
    if "open_clip" not in sys.modules:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        factory = sys.modules["open_clip.factory"]
        patch.setattr(factory, "SimpleTokenizer", cache(factory.SimpleTokenizer))
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", [])  # what it has read it keeps
        yield
