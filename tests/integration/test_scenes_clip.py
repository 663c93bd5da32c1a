"""The encoder that ships: what can be read from its embeddings, and that it finds pictures."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from streams.models.clip import ClipEncoder
from streams.models.clip_weights import SCENES_CONFIG, SCENES_WEIGHTS
from streams.settings import ClipSettings
from trainer.scenes.pretrain.attributes import ATTRIBUTES, attributes
from trainer.scenes.pretrain.probes import probe
from trainer.scenes.scenes import make_scenes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GOLDEN = Path(__file__).with_name("scenes_clip_golden.json")


@cache
def encoder():
    return ClipEncoder(ClipSettings(model="scenes", pretrained="bundled"))


def encode(scenes):
    images = torch.stack([encoder().preprocess(scene.image()) for scene in scenes])
    return torch.from_numpy(np.concatenate([encoder().encode(part) for part in images.split(100)]))


def distinct(count, *, seed):
    """Scenes of which no two have the same captions, though their places may differ."""
    found = {}
    for scene in make_scenes(3 * count, seed=seed):
        found.setdefault(tuple(attributes([scene])[0].tolist()), scene)
    return list(found.values())[:count]


def unit(vectors):
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_file_is_small_and_belongs_to_its_config():
    assert SCENES_WEIGHTS.stat().st_size < 8_000_000
    assert encoder().dimension == json.loads(SCENES_CONFIG.read_text())["embed_dim"]
    assert encoder().version.startswith("scenes-bundled-")


def test_every_attribute_can_be_read_from_the_embeddings_of_fresh_scenes():
    shares = probe(encode, list(make_scenes(200, seed=101)), list(make_scenes(100, seed=102)))
    assert shares.keys() == ATTRIBUTES.keys()
    assert min(shares.values()) >= 0.97, shares


def test_embeddings_need_no_normalisation():
    """They are stored as they are: their lengths must say nothing."""
    lengths = encode(list(make_scenes(60, seed=103))).norm(dim=-1)
    assert float(lengths.std() / lengths.mean()) < 0.1


def test_texts_find_their_pictures_and_pictures_their_texts():
    scenes = distinct(100, seed=104)
    assert len(scenes) == 100
    images = unit(encode(scenes))
    for kind in range(3):  # the captions that name everything
        texts = unit(encoder().encode_texts([scene.captions()[kind] for scene in scenes]))
        similarities = texts @ images.T
        truth = torch.arange(100)
        assert float((similarities.argmax(dim=1) == truth).float().mean()) >= 0.9
        assert float((similarities.argmax(dim=0) == truth).float().mean()) >= 0.9


def test_any_open_clip_user_can_load_it():
    open_clip.add_model_config(SCENES_CONFIG)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "scenes", pretrained=str(SCENES_WEIGHTS)
    )
    scenes = list(make_scenes(4, seed=105))
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([preprocess(s.image()) for s in scenes]))
    assert torch.allclose(images, encode(scenes), atol=1e-4)


def test_golden_scenes_still_give_their_vectors():
    """A changed generator, preprocessing or file would show here first."""
    golden = json.loads(GOLDEN.read_text())
    scenes = list(make_scenes(len(golden["images"]), seed=golden["seed"]))
    texts = encoder().encode_texts([scene.captions()[0] for scene in scenes])
    assert torch.allclose(encode(scenes), torch.tensor(golden["images"]), atol=1e-2)
    assert torch.allclose(texts, torch.tensor(golden["texts"]), atol=1e-2)


def write_golden():
    """Renew the vectors after a new file has been shipped on purpose."""
    scenes = list(make_scenes(2, seed=106))
    texts = encoder().encode_texts([scene.captions()[0] for scene in scenes])
    rows = {"images": encode(scenes), "texts": texts}
    content = {"seed": 106, **{name: row.round(decimals=4).tolist() for name, row in rows.items()}}
    GOLDEN.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    write_golden()
