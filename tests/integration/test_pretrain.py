"""Pretraining of the small CLIP: its batches, its objective, and that a seed decides the result."""

import itertools
import json
import random

import open_clip
import pytest
import torch

from streams.models.clip import ClipEncoder
from streams.models.clip_weights import SCENES_CONFIG
from streams.settings import ClipSettings
from trainer.scenes.judge import is_right
from trainer.scenes.pretrain.attributes import ATTRIBUTES, attributes
from trainer.scenes.pretrain.batches import Pictures, Tokens, batches
from trainer.scenes.pretrain.export import export
from trainer.scenes.pretrain.negatives import wrong_caption
from trainer.scenes.pretrain.objective import AttributeHeads, compute_losses
from trainer.scenes.pretrain.options import Options
from trainer.scenes.pretrain.probes import probe
from trainer.scenes.pretrain.training import pretrain
from trainer.scenes.scenes import RELATIONS, make_scenes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 4, "head_width": 32},
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 8,
        "heads": 2,
        "layers": 1,
    },
}


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small_scenes.json"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.fixture
def parts(small):
    """Model, pictures and tokens of the small config."""
    open_clip.add_model_config(small)
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(small.stem, pretrained=None)
    return model, Pictures(preprocess), Tokens(open_clip.get_tokenizer(small.stem))


def train(config, *, steps=2, seed=0):
    seen = []
    options = Options(steps=steps, batch_size=8, seed=seed)
    model = pretrain(config, options, lambda step, losses: seen.append((step, losses.as_numbers())))
    return model.state_dict(), seen


def test_equal_seeds_give_equal_weights_whatever_the_generator_stands_at(small):
    torch.manual_seed(1)
    first, losses = train(small)
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    again, same_losses = train(small)
    assert torch.rand(1) == expected
    assert losses == same_losses
    assert all(torch.equal(first[name], again[name]) for name in first)
    other, _ = train(small, seed=1)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_brings_every_part_of_the_loss_down(small):
    _, seen = train(small, steps=15)
    begin, end = (
        {name: sum(losses[name] for _, losses in part) for name in seen[0][1]}
        for part in (seen[:5], seen[-5:])
    )
    assert [step for step, _ in seen] == list(range(1, 16))
    assert {name for name in begin if end[name] >= begin[name]} == set()


def test_pictures_are_those_of_the_encoders_own_preprocessing(parts):
    _, pictures, _ = parts
    encoder = ClipEncoder(ClipSettings(model=str(SCENES_CONFIG), pretrained="random"))
    scenes = list(make_scenes(10, seed=1))
    expected = torch.stack([encoder.preprocess(scene.image()) for scene in scenes])
    assert torch.allclose(pictures(scenes), expected, atol=1e-6)


def test_tokens_are_those_of_open_clip(parts):
    _, _, tokens = parts
    captions = [caption for scene in make_scenes(40, seed=2) for caption in scene.captions()]
    expected = open_clip.get_tokenizer("small_scenes")(captions)
    assert torch.equal(tokens(captions), expected)
    assert int((expected != 0).sum(dim=1).max()) < SMALL["text_cfg"]["context_length"]


def test_batches_follow_from_the_seed_and_pair_what_belongs_together(parts):
    _, pictures, tokens = parts
    first, again, other = (
        list(itertools.islice(batches(pictures, tokens, size=6, seed=seed), 2))
        for seed in (3, 3, 4)
    )
    for one, same in zip(first, again, strict=True):
        assert torch.equal(one.images, same.images)
        assert torch.equal(one.captions, same.captions)
        assert torch.equal(one.wrong, same.wrong)
    assert not torch.equal(first[0].images, other[0].images)
    assert not torch.equal(first[0].images, first[1].images)
    assert bool((first[0].captions != first[0].wrong).any(dim=1).all())


def test_wrong_captions_are_wrong_and_differ_in_one_or_two_words():
    """One: a word was changed; two: an attribute was exchanged. `left of` counts as one."""
    generator = random.Random(5)  # noqa: S311 - no secret
    counts = set()
    for scene in make_scenes(100, seed=5):
        for kind, right in enumerate(scene.captions()):
            wrong = wrong_caption(scene, kind, generator)
            assert not is_right(wrong, scene)
            pairs = zip(
                *(text.replace(" of ", " ").split() for text in (right, wrong)), strict=True
            )
            counts.add(sum(a != b for a, b in pairs))
    assert counts == {1, 2}


def test_a_scene_and_its_mirror_have_the_same_attributes():
    for scene in make_scenes(100, seed=6):
        mirror = type(scene)(
            first=scene.second,
            second=scene.first,
            relation=RELATIONS[scene.relation],
            background=scene.background,
            jitter=scene.jitter,
        )
        assert torch.equal(attributes([scene]), attributes([mirror]))


def test_different_words_are_different_attributes():
    """A picture shows no more and no less than the attributes."""
    scenes = list(make_scenes(600, seed=7))
    rows = [tuple(row) for row in attributes(scenes).tolist()]
    said = [frozenset(scene.captions()[:2]) for scene in scenes]
    assert len(set(rows)) == len(set(said)) == len(set(zip(rows, said, strict=True)))
    for number, size in enumerate(ATTRIBUTES.values()):
        assert {row[number] for row in rows} == set(range(size))


def test_background_is_not_asked_of_captions_that_do_not_name_it(parts):
    model, pictures, tokens = parts
    batch = next(batches(pictures, tokens, size=32, seed=8))
    told = ["background" in words for words in _texts(batch.captions)]
    short = [words.startswith("on ") for words in _texts(batch.captions)]
    assert batch.has_background.tolist() == [a or b for a, b in zip(told, short, strict=True)]
    assert torch.isfinite(compute_losses(model, AttributeHeads(16), batch).total)


def test_probe_reads_what_is_there_and_guesses_what_is_not():
    seen, fresh = (list(make_scenes(400, seed=seed)) for seed in (9, 10))

    def encode(scenes):
        """Everything but the last attribute, one number for each value, and a dead dimension."""
        columns = attributes(scenes)[:, :-1].T
        sizes = list(ATTRIBUTES.values())[:-1]
        ones = [
            torch.nn.functional.one_hot(column, size)
            for column, size in zip(columns, sizes, strict=True)
        ]
        return torch.cat([*ones, torch.zeros(len(scenes), 1)], dim=1).float()

    shares = probe(encode, seen, fresh)
    assert {share for name, share in shares.items() if name != "second_shape"} == {1.0}
    assert shares["second_shape"] < 0.5


def test_exported_model_is_the_trained_one_in_16_bits(small, tmp_path):
    model = pretrain(small, Options(steps=2, batch_size=4), lambda step, losses: None)
    weights = export(model, small, tmp_path / "out")
    assert sorted(path.name for path in weights.parent.iterdir()) == [
        "model.safetensors",
        "small_scenes.json",
    ]
    encoder = ClipEncoder(
        ClipSettings(model=str(weights.parent / small.name), pretrained=str(weights))
    )
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.encode_image(images)
    assert torch.allclose(torch.from_numpy(encoder.encode(images)), expected, atol=0.02)


def test_words_that_no_scene_has_say_nothing(small):
    weight = train(small, steps=2)[0]["token_embedding.weight"]
    used = weight.abs().sum(dim=1) > 0
    tokenizer = open_clip.get_tokenizer(small.stem)
    assert 20 < int(used.sum()) < 60
    assert bool(used[tokenizer.encode("circle")].all())
    assert not bool(used[tokenizer.encode("dog")].any())


def _texts(tokens):
    tokenizer = open_clip.get_tokenizer("small_scenes")
    return [tokenizer.decode([i for i in row if 0 < i < 49406]) for row in tokens.tolist()]
