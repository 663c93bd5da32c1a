"""The encoder against bare open_clip, with a model small enough for a unit test."""

import json
import resource
import socket
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from streams.errors import InvalidImage, SettingsError
from streams.models.clip import ClipEncoder
from streams.models.clip_golden import encode_golden, golden_difference, golden_images
from streams.models.clip_weights import Weights, check_weights
from streams.settings import ClipSettings
from tests.tiny import DIMENSION, TINY_CLIP, write_tiny_clip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def config(tmp_path):
    return str(write_tiny_clip(tmp_path))


def random_encoder(config, seed=0):
    return ClipEncoder(ClipSettings(model=config, pretrained="random", seed=seed))


def picture(seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 255, (90, 120, 3), dtype=np.uint8))


def test_embeddings_equal_those_of_bare_open_clip(config, tmp_path):
    open_clip.add_model_config(config)
    model, _, preprocess = open_clip.create_model_and_transforms("tiny", pretrained=None)
    checkpoint = tmp_path / "weights.pt"
    torch.save(model.state_dict(), checkpoint)
    settings = ClipSettings(model=config, pretrained=str(checkpoint))
    assert check_weights(settings) == Weights(label="tiny-weights", is_here=True)
    encoder = ClipEncoder(settings)
    assert encoder.version.startswith("tiny-weights-")
    images = [picture(seed) for seed in range(3)]
    with torch.inference_mode():
        bare = model.eval().encode_image(torch.stack([preprocess(image) for image in images]))
    found = encoder.encode(torch.stack([encoder.preprocess(image) for image in images]))
    assert found.shape == (3, DIMENSION)
    assert found.dtype == np.float32
    assert np.allclose(found, bare.numpy(), atol=1e-6)


def test_random_weights_follow_from_the_seed_and_say_loudly_what_they_are(config, capsys):
    first, again, other = (random_encoder(config, seed) for seed in (0, 0, 1))
    assert first.version == again.version != other.version
    label = check_weights(ClipSettings(model=config, pretrained="random")).label
    assert first.version.startswith(f"{label}-")
    assert label == "tiny-random"
    assert "RANDOM WEIGHTS" in capsys.readouterr().out


def test_any_weight_decides_the_version(config):
    encoder = random_encoder(config)
    before = encoder.version
    tensors = encoder._model.state_dict()
    list(tensors.values())[-1].add_(1)
    assert encoder._digest() not in before


class Reworded:
    """The same preprocessing as another release of the library would print it."""

    def __init__(self, preprocess):
        self._preprocess = preprocess
        self.transforms = preprocess.transforms

    def __call__(self, image):
        return self._preprocess(image)

    def __repr__(self):
        return "Compose v2"


def test_words_of_a_library_do_not_decide_the_version(config):
    """Fails when the `repr` of the preprocessing is hashed: an upgrade embedded all again."""
    encoder = random_encoder(config)
    before = encoder._digest()
    encoder._preprocess = Reworded(encoder._preprocess)
    assert encoder._digest() == before


@pytest.mark.parametrize("changed", [{"mean": (0.5, 0.5, 0.5)}, {"interpolation": "bilinear"}])
def test_preprocessing_decides_the_version(config, changed):
    encoder = random_encoder(config)
    before = encoder._digest()
    encoder._preprocessing |= changed
    assert encoder._digest() != before


def test_activation_that_weights_choose_decides_the_version(tmp_path):
    """Fails when the config alone is hashed: a tag of weights may say QuickGELU."""
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    path = tmp_path / "tinyvit.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    encoder = random_encoder(str(path))
    before, golden = encoder._digest(), encoder.golden()
    torch.manual_seed(0)
    encoder._model.visual = open_clip.create_model("tinyvit", force_quick_gelu=True).visual.eval()
    encoder._golden = None
    assert encoder._digest() != before
    assert not np.allclose(encoder.golden(), golden)


def test_golden_images_give_the_same_again_and_tell_other_weights(config):
    encoder, other = random_encoder(config), random_encoder(config, seed=1)
    announced = encode_golden(encoder.golden())
    alone = [encoder.encode(encoder.preprocess(image)[None]) for image in golden_images()]
    assert golden_difference(np.concatenate(alone), announced) == ""
    assert "0.999 is wanted" in golden_difference(other.golden(), announced)


@pytest.mark.parametrize(("share", "is_same"), [(1e-6, True), (0.03, True), (0.1, False)])
def test_golden_difference_is_measured_on_what_tells_images_apart(share, is_same):
    """Fails without the mean taken off: random weights give all images nearly the same."""
    numbers = np.random.default_rng(0)
    expected = 100 + numbers.standard_normal((8, 64)).astype(np.float32)
    found = expected + share * numbers.standard_normal((8, 64)).astype(np.float32)
    assert (golden_difference(found, encode_golden(expected)) == "") is is_same


def test_golden_images_that_are_all_alike_agree_with_themselves():
    same = np.ones((8, 4), np.float32)
    assert golden_difference(same, encode_golden(same)) == ""
    assert golden_difference(same * np.nan, encode_golden(same)) != ""


def test_weights_that_give_nan_are_announced_to_nobody(config):
    encoder = random_encoder(config)
    next(iter(encoder._model.parameters())).data.fill_(float("nan"))
    with pytest.raises(SettingsError, match="not finite; set CAPTIONSTREAM_CLIP__PRETRAINED"):
        encoder.golden()


def test_text_tower_is_not_kept(config):
    assert {name.split(".")[0] for name in random_encoder(config)._model.state_dict()} == {"visual"}


def test_texts_are_encoded_as_bare_open_clip_does(config, tmp_path):
    """The tiny vocabulary of the other tests is too small for open_clip's tokenizer."""
    content = json.loads(Path(config).read_text())
    content["text_cfg"]["vocab_size"] = 49408
    path = tmp_path / "tinytext.json"
    path.write_text(json.dumps(content))
    encoder = random_encoder(str(path))
    torch.manual_seed(0)
    bare, _, _ = open_clip.create_model_and_transforms("tinytext", pretrained=None)
    texts = ["a red circle", "", *(f"a picture of {number} dogs" for number in range(300))]
    with torch.inference_mode():
        expected = bare.eval().encode_text(open_clip.get_tokenizer("tinytext")(texts))
    found = encoder.encode_texts(texts)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.is_inference()
    assert encoder.encode_texts([]).shape == (0, DIMENSION)


def test_self_test_fails_when_weights_turn_into_nan(config):
    encoder = random_encoder(config)
    assert encoder.self_test()
    next(iter(encoder._model.parameters())).data.fill_(float("nan"))
    assert not encoder.self_test()


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("RN5000", "random", "knows no model 'RN5000'.*RN50, ViT-B-32"),
        ("RN50", "no-such-tag", "neither a file nor a tag of RN50.*openai"),
        ("gone.json", "random", r"no open_clip model config at gone\.json"),
        ("ViT-B-32", "no-such-tag", "or to `random` for a trial"),
        (
            "RN50",
            "bundled",
            "only the model `scenes` has `bundled` weights, RN50 has none",
        ),
        ("scenes", "openai", "tags: none.*set CAPTIONSTREAM_CLIP__PRETRAINED=bundled"),
    ],
)
def test_unknown_model_or_weights_name_the_remedy(model, pretrained, message):
    settings = ClipSettings(model=model, pretrained=pretrained)
    for refuses in (ClipEncoder, check_weights):
        with pytest.raises(SettingsError, match=message):
            refuses(settings)


@pytest.mark.parametrize("tag", ["openai", "yfcc15m"])
@pytest.mark.parametrize("cached", [True, False])
def test_weights_that_need_a_download_are_told_apart(monkeypatch, tag, cached):
    """Fails without the look into the hub's cache."""
    found = str(tag) if cached else None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: found)
    weights = check_weights(ClipSettings(model="RN50", pretrained=tag))
    assert weights == Weights(label=f"RN50-{tag}", is_here=cached)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no open_clip model config.*embed_dim, vision_cfg, text_cfg"),
        ('{"embed_dim": 4}', "is no open_clip model config"),
    ],
)
def test_file_that_is_no_model_config_is_named(tmp_path, text, message):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        ClipEncoder(ClipSettings(model=str(path), pretrained="random"))


@pytest.mark.parametrize("device", ["tpu9", "cuda:63"])
def test_device_that_is_not_there_is_named(config, device):
    with pytest.raises(SettingsError, match=f"cannot use device '{device}'"):
        ClipEncoder(ClipSettings(model=config, pretrained="random", device=device))


def test_random_weights_leave_the_random_generator_alone(config):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    random_encoder(config)
    assert torch.rand(1) == expected


def test_tower_that_returns_tokens_too_gives_its_embedding(tmp_path):
    """CoCa, as bare open_clip encodes with it."""
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 64, "layers": 1, "heads": 2, "width": 16}
    path = tmp_path / "tinycoca.json"
    pooling = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    content = {
        "embed_dim": 16,
        "vision_cfg": {**vision, **pooling},
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "attn_pooler_heads": 2},
        "custom_text": True,
    }
    path.write_text(json.dumps(content))
    encoder = random_encoder(str(path))
    torch.manual_seed(0)
    bare, _, preprocess = open_clip.create_model_and_transforms("tinycoca", pretrained=None)
    images = torch.stack([preprocess(picture())])
    with torch.inference_mode():
        expected = bare.eval().encode_image(images, normalize=False).numpy()
    assert np.allclose(encoder.encode(images), expected, atol=1e-6)


def test_damaged_checkpoint_names_the_remedy(config, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(
        SettingsError, match=r"cannot be had \(Weights only load failed\); set CAPTION"
    ):
        ClipEncoder(ClipSettings(model=config, pretrained=str(path)))


@pytest.fixture(scope="module")
def wide_encoder(tmp_path_factory):
    """One that reads images of the usual size."""
    vision = {**TINY_CLIP["vision_cfg"], "image_size": 224}
    path = tmp_path_factory.mktemp("clip") / "wide.json"
    path.write_text(json.dumps({**TINY_CLIP, "vision_cfg": vision}))
    return random_encoder(str(path))


@contextmanager
def most_memory(further_bytes):
    """Let this process take so much address space beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + further_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (1, 1), (500, 64_000)])
def test_shape_of_an_image_decides_little_about_its_memory(wide_encoder, size):
    """Fails without `_centre` in `preprocess`: 60,000 x 1 pixels are scaled to 12 GB."""
    image = Image.new("RGB", size, (255, 0, 0))
    with most_memory(256 << 20):
        pixels = wide_encoder.preprocess(image)
    expected = wide_encoder.preprocess(Image.new("RGB", (224, 224), (255, 0, 0)))
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize(
    "size", [(3000, 10), (10, 3000), (3001, 7), (7, 3001), (7001, 77), (3, 1001)]
)
def test_long_images_are_prepared_as_bare_open_clip_does(wide_encoder, size):
    """Fails when the centre is a pixel off, or read without its margin."""
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    found, expected = wide_encoder.preprocess(image), wide_encoder._preprocess(image)
    step = 1 / 255 / 0.26  # of one grey level, after division by the deviation
    assert (found - expected).abs().max() <= 1.1 * step
    assert (found != expected).float().mean() < 0.001


def test_image_that_would_be_scaled_to_nothing_is_refused(wide_encoder, monkeypatch):
    """Fails without the look at ValueError in `preprocess`: some models scale the long edge."""
    whole = open_clip.image_transform(224, is_train=False, resize_mode="longest")
    monkeypatch.setattr(wide_encoder, "_preprocess", whole)
    with pytest.raises(InvalidImage, match="60000 x 1 pixels cannot be scaled"):
        wide_encoder.preprocess(Image.new("RGB", (60_000, 1)))


@pytest.mark.parametrize("weights", ["random", "bundled", "checkpoint"])
def test_only_a_tag_needs_a_network(config, monkeypatch, tmp_path, weights):
    """Fails when anything but a tag asks the hub."""

    def refuse(*_, **__):
        pytest.fail("a connection was tried")

    model, pretrained = ("scenes", weights) if weights == "bundled" else (config, weights)
    if weights == "checkpoint":
        open_clip.add_model_config(config)
        bare, _, _ = open_clip.create_model_and_transforms("tiny", pretrained=None)
        pretrained = str(tmp_path / "weights.pt")
        torch.save(bare.state_dict(), pretrained)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert ClipEncoder(ClipSettings(model=model, pretrained=pretrained)).self_test()
    with pytest.raises(pytest.fail.Exception, match="a connection was tried"):
        ClipEncoder(ClipSettings(model="ViT-B-32", pretrained="openai"))
