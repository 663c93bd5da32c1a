"""Classes of users as models: what they are given, what is stored, what is refused."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from streams.contract.declaration import Declaration
from streams.contract.manifest import Bundle, Feature, parse_manifest
from streams.errors import (
    CodeMismatch,
    DocumentError,
    InvalidBundle,
    InvalidImage,
    InvalidPipeline,
    ModelFailed,
    Unavailable,
)
from streams.models.bundle import make_bundle, tensors_of
from streams.models.kinds.find import kind_of, load
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import StoredKind

OWN = "tests.unit.models.kinds.own_models"


def declared(name, **fields):
    kind = name if ":" in name else f"{OWN}:{name}"
    return Declaration(name="own", kind=kind, **({"key": "title"} | fields))


def default_bundle(declaration, **dimensions):
    kind = kind_of(declaration.kind)
    assert isinstance(kind, StoredKind)
    kind.check(declaration)
    return kind.default_bundle(declaration, dimensions)


def made(declaration, *rows, **dimensions):
    """Return the values of some inputs, through a version that was stored and loaded again."""
    bundle = default_bundle(declaration, **dimensions)
    stored = Bundle(
        manifest=parse_manifest(bundle.manifest.canonical()), weights=bytes(bundle.weights)
    )
    assert stored.version == bundle.version
    predictor = load(declaration, stored)
    predictor.check()
    items = [predictor.preprocess(item_of(declaration, row)) for row in rows]
    results = predictor.predict(items)
    return [r if isinstance(r, DocumentError) else r.value for r in results]


def test_module_makes_vectors_of_the_one_feature_that_is_its_key():
    half = declared("Halved", key="img", features={"img": "clip"}, options={"dimension": 4})
    first, second = made(half, {"img": np.ones(4)}, {"img": np.zeros(4)}, clip=4)
    assert (first.dtype, first.shape, second.shape) == (np.float32, (2,), (2,))
    assert not np.array_equal(first, second)


def test_plain_object_makes_json_of_an_image():
    image = Image.new("RGB", (4, 4), (250, 10, 0))
    [colour] = made(declared("Colour", key="img"), {"img": image})
    assert colour == {"red": 250.0, "green": 10.0, "blue": 0.0}


def test_model_of_several_things_gets_a_dict_and_makes_a_text():
    headline = declared(
        "Headline",
        key="_base",
        features={"img": "clip", "colour": "dominant"},
        fields=["title"],
    )
    rows = [{"img": np.ones(3), "colour": {"a": 1}, "title": title} for title in ("Sea", None)]
    assert made(headline, *rows, clip=3) == ["Sea: 3.0", "untitled: 3.0"]


def test_whole_document_as_key_makes_a_dict_of_one_thing():
    """As in the notebook. Fails when one feature is always given bare."""
    lm = declared("Halved", key="_base", features={"img": "clip"}, options={"dimension": 2})
    assert list(item_of(lm, {"img": np.ones(2)})) == ["img"]
    assert item_of(lm.model_copy(update={"key": "img"}), {"img": np.ones(2)}).dtype == torch.float32


def test_what_torch_cannot_collate_goes_as_a_list():
    assert made(declared("Lengths"), {"title": "a b"}, {"title": "c"}) == [2, 1]


def test_object_that_can_be_called():
    assert made(declared("Shout"), {"title": "a"}, {"title": "b"}) == ["A", "B"]


def test_items_that_do_not_fit_together_go_alone():
    """Fails when they go as a list: what `forward` is given would depend on its neighbours."""
    tokens = declared("Tokens")
    predictor = load(tokens, default_bundle(tokens))
    items = [predictor.preprocess(text) for text in ("ab", "abc")]
    assert [result.value for result in predictor.predict(items)] == [97.5, 98.0]
    assert predictor._forward.__self__.shapes == [(1, 2), (1, 3)]


def test_empty_batch():
    shout = declared("Shout")
    assert load(shout, default_bundle(shout)).predict([]) == []


def test_failures_of_single_documents_stand_in_their_places():
    texts = ["raises", "nothing", "set", "nan", "fine"]
    *failed, fine = made(declared("Picky"), *({"title": text} for text in texts))
    assert fine == "fine"
    assert {type(error) for error in failed} == {ModelFailed}
    assert f"{OWN}:Picky.postprocess raised ValueError: raises" in str(failed[0])
    assert all("postprocess has to return" in str(error) for error in failed[1:])


def test_what_preprocess_raises_is_the_documents_error():
    picky = declared("Picky")
    predictor = load(picky, default_bundle(picky))
    with pytest.raises(InvalidImage):
        predictor.preprocess("no image")
    with pytest.raises(ModelFailed, match="preprocess raised KeyError: 'bad'"):
        predictor.preprocess("bad")


def test_neighbour_that_is_away_is_no_documents_error(monkeypatch):
    """Fails without the re-raise of `Unavailable`: every document would be dead-lettered."""
    picky = declared("Picky")
    predictor = load(picky, default_bundle(picky))

    def away(_):
        raise Unavailable

    monkeypatch.setattr(predictor, "_preprocess", away)
    monkeypatch.setattr(predictor, "_postprocess", away)
    with pytest.raises(Unavailable):
        predictor.preprocess("x")
    with pytest.raises(Unavailable):
        predictor.predict(["x"])


def test_what_forward_raises_is_raised_for_the_whole_batch():
    with pytest.raises(RuntimeError, match="out of memory"):
        made(declared("Picky"), {"title": "fine"}, {"title": "batch"})


def test_too_few_results_are_refused():
    with pytest.raises(ModelFailed, match="returned 1 results for a batch of 2: return one"):
        made(declared("Uneven"), {"title": "a"}, {"title": "b"})


def test_options_are_part_of_the_version_and_come_to_nobody_elses_hands():
    locked = declared("Locked", options={"words": ["a"]})
    assert made(locked, {"title": "x"}) == [["a", "changed"]]
    assert locked.options == {"words": ["a"]}
    other = declared("Locked", options={"words": ["b"]})
    assert default_bundle(locked).version != default_bundle(other).version


def test_first_weights_are_the_same_in_every_process_and_disturb_nobody():
    """Fails without `fork_rng` and the seed: each process would publish a version of its own."""
    half = declared("Halved", key="img", features={"img": "clip"}, options={"dimension": 4})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = default_bundle(half, clip=4)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert default_bundle(half, clip=4).version == one.version


def test_manifest_of_a_class_says_what_it_is():
    half = declared("Halved", key="img", features={"img": "clip"}, options={"dimension": 4})
    manifest = default_bundle(half, clip=4).manifest
    assert (manifest.name, manifest.kind, manifest.config) == ("own", half.kind, {"dimension": 4})
    assert manifest.features == {"clip": Feature(dimension=4)}
    assert manifest.dimension == 2
    assert len(manifest.source) == 64
    assert manifest.golden.values is not None
    assert default_bundle(declared("Shout")).manifest.golden is None  # no text can be made up


def test_class_that_makes_nothing_of_noise_has_no_golden_output():
    unsure = declared("Unsure", key="img", features={"img": "clip"})
    bundle = default_bundle(unsure, clip=4)
    assert bundle.manifest.golden is None
    load(unsure, bundle).check()


def test_two_names_of_one_weight_and_an_object_around_a_module_keep_their_weights():
    for name, options in (("Tied", {"dimension": 4}), ("Inner", {})):
        own = declared(name, key="img", features={"img": "clip"}, options=options)
        bundle = default_bundle(own, clip=4)
        changed = {key: tensor + 1 for key, tensor in tensors_of(bundle).items()}
        assert changed
        manifest = bundle.manifest.model_dump(exclude={"parts", "golden"})
        [before] = made(own, {"img": np.ones(4)}, clip=4)
        predictor = load(own, make_bundle(changed, **manifest))
        [after] = predictor.predict([predictor.preprocess(torch.ones(4))])
        assert not np.allclose(before, after.value)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("no_such_package.models:Class", "cannot be imported here .ModuleNotFoundError"),
        (f"{OWN}:Missing", "has no such class"),
        (f"{OWN}:torch", "has no such class"),
        (f"{OWN}:Idle", "can do nothing: give it one of preprocess, forward"),
        (f"{OWN}:IdleModule", "can do nothing: give it one of forward"),
        ("builtins:str", "can do nothing"),
        ("gru2", "there is no kind 'gru2'; choose clip, linear, gru"),
    ],
)
def test_kind_that_is_none_is_refused(kind, reason):
    with pytest.raises(InvalidPipeline, match=reason):
        kind_of(kind)


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "1 / 0", "import nothing_of_that_name"])
def test_module_that_fails_when_it_is_imported_is_refused(tmp_path, monkeypatch, code):
    """Fails when `SystemExit` is let through: the process would end without a word."""
    (tmp_path / "failing_models.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidPipeline, match="failing_models:A cannot be imported here"):
        kind_of("failing_models:A")


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Halved", {}, "which takes .dimension: int, factor: int = 1.*: missing.*'dimension'"),
        ("Halved", {"dimension": 4, "size": 1}, "unexpected keyword argument 'size'"),
        ("Halved", {"dimension": "four"}, "cannot be made with the options.*TypeError"),
        ("Extra", {}, "holds '_extra_state', which is no tensor"),
    ],
)
def test_wrong_options_are_refused_with_the_names(name, options, reason):
    with pytest.raises(InvalidPipeline, match=rf"(?s)own.*{reason}|{reason}"):
        default_bundle(declared(name, options=options))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a module of a user, and forget what was imported of it before."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield write
    for name in ("user_models", "user_helper"):
        sys.modules.pop(name, None)


SOURCE = """
from user_helper import FACTOR

class Twice:
    def forward(self, vectors):
        return vectors * FACTOR
"""


@pytest.fixture
def twice(package):
    package("user_helper", "FACTOR = 2")
    package("user_models", SOURCE)
    return declared("user_models:Twice", key="img", features={"img": "clip"})


def test_changed_source_file_is_this_process_own_trouble(package, twice):
    bundle = default_bundle(twice, clip=3)
    load(twice, bundle)
    package("user_models", SOURCE.replace("* FACTOR", "* (FACTOR + 1)"))
    with pytest.raises(CodeMismatch, match="another file of user_models:Twice: install"):
        load(twice, bundle)


def test_changed_import_is_seen_by_the_golden_output(package, twice):
    """Fails without a golden output: the class' own file is the same."""
    bundle = default_bundle(twice, clip=3)
    package("user_helper", "FACTOR = 3")
    package("user_models", SOURCE)
    with pytest.raises(CodeMismatch, match=r"golden input .*what it imports"):
        load(twice, bundle)


def test_import_that_breaks_the_constructor_is_own_trouble_too(package):
    package("user_helper", "SIZE = 2")
    package(
        "user_models",
        "import torch\nfrom user_helper import SIZE\n\n\nclass Net(torch.nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(2, SIZE)\n"
        "    def forward(self, x):\n        return super().forward(x)\n",
    )
    net = declared("user_models:Net", key="img", features={"img": "clip"})
    bundle = default_bundle(net, clip=2)
    load(net, bundle)
    package("user_helper", "SIZE = 'two'")
    sys.modules.pop("user_models")
    with pytest.raises(CodeMismatch, match=r"cannot be made of user_models:Net here .*TypeError"):
        load(net, bundle)
    package("user_helper", "SIZE = 3")
    sys.modules.pop("user_models")
    with pytest.raises(CodeMismatch, match="weights here are others"):
        load(net, bundle)


def vector_of(declaration, bundle):
    predictor = load(declaration, bundle)
    [made] = predictor.predict([predictor.preprocess(torch.ones(4))])
    return made.value


def test_declared_options_hold_and_may_differ_from_those_of_the_version():
    """Fails when the version's own are taken, or its golden output is asked for them."""
    half = declared("Tied", key="img", features={"img": "clip"}, options={"dimension": 4})
    bundle = default_bundle(half, clip=4)
    doubled = half.model_copy(update={"options": {"dimension": 4, "scale": 2.0}})
    assert np.allclose(vector_of(doubled, bundle), 2 * vector_of(half, bundle))


def test_first_weights_of_other_options_are_those_that_the_options_begin_with():
    """Fails when unfitted weights of another shape are kept: the model would never load."""
    half = declared("Halved", key="img", features={"img": "clip"}, options={"dimension": 4})
    bundle = default_bundle(half, clip=4)
    wide = half.model_copy(update={"options": {"dimension": 4, "factor": 3}})
    assert vector_of(wide, bundle).shape == (6,)
    fitted = changed(bundle, is_initial=False, golden=None)
    assert vector_of(half, fitted).shape == (2,)
    with pytest.raises(CodeMismatch, match=r"weights here are others.*its options"):
        load(wide, fitted)


def changed(bundle, **fields):
    manifest = bundle.manifest.model_dump(exclude={"parts"}) | fields
    return make_bundle(tensors_of(bundle), **manifest)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "other"}, "own is of name 'own', the version is of 'other'"),
        ({"kind": "linear"}, "the version is of 'linear'"),
        ({"features": {"depth": Feature()}}, "reads the models clip, the version was made for"),
    ],
    ids=["name", "kind", "features"],
)
def test_version_of_another_model_is_refused(fields, reason):
    half = declared("Tied", key="img", features={"img": "clip"}, options={"dimension": 4})
    with pytest.raises(InvalidBundle, match=reason):
        load(half, changed(default_bundle(half, clip=4), **fields))


def test_damaged_weights_of_a_class_are_the_versions_own_fault():
    half = declared("Tied", key="img", features={"img": "clip"}, options={"dimension": 4})
    good = default_bundle(half, clip=4)
    with pytest.raises(InvalidBundle, match="sha256"):
        load(half, Bundle(manifest=good.manifest, weights=good.weights[:-1] + b"x"))
    tensors = tensors_of(good)
    tensors["one.weight"][0] = float("nan")
    damaged = make_bundle(tensors, **good.manifest.model_dump(exclude={"parts"}))
    with pytest.raises(InvalidBundle, match="NaN"):
        load(half, damaged)
