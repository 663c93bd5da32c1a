"""Files of strangers: annotations, bundles and snapshots of any content give a clear error."""

import hashlib
import json
import math
import shutil
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streams.contract.documents import is_caption
from streams.contract.manifest import WEIGHTS, Bundle, parse_manifest
from streams.errors import InvalidBundle, InvalidSnapshot, SettingsError
from streams.models.bundle import MANIFEST, from_directory, to_directory
from streams.models.kinds.find import load
from streams.models.projection import orthogonal_projection
from streams.operate.coco import read_annotations
from tests.bundles import projection_bundle
from tests.captioner import tiny_captioner
from tests.pipelines import MODEL_BY_NAME
from tests.unit.trainer.snapshots import colour_rows, write_snapshot
from trainer.snapshot.files import DOCUMENTS, Snapshot
from trainer.snapshot.files import MANIFEST as SNAPSHOT_MANIFEST

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ODD = JSON | st.sampled_from([math.inf, math.nan, 2**70, -1, "", "\0", "../x", "a/../../b", "."])


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    inside = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())
    for key, inner in inside(value):
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def damaged(data, draw):
    """Cut, or with some bytes changed."""
    if draw(st.booleans()):
        return data[: draw(st.integers(0, len(data) - 1))]
    changed = bytearray(data)
    for place in draw(st.sets(st.integers(0, len(data) - 1), min_size=1, max_size=3)):
        changed[place] ^= draw(st.integers(1, 255))
    return bytes(changed)


COCO = {
    "images": [{"id": 9, "file_name": "9.jpg"}, {"id": 8, "file_name": "8.jpg"}],
    "annotations": [{"image_id": 9, "caption": "one"}, {"image_id": 8, "caption": "two"}],
}


def check_coco(directory, text):
    path = directory / "captions.json"
    path.write_bytes(text)
    try:
        file = read_annotations(path, directory)
    except SettingsError:
        return
    for image in file.images:
        assert image.path.is_relative_to(directory)
        assert -(2**63) <= image.image_id < 2**63
        assert all(map(is_caption, image.captions))


@fuzz
@given(place=st.sampled_from(list(places(COCO))), new=ODD)
@example(place=("images", 0, "id"), new=math.inf)
@example(place=("images", 0, "id"), new=2**70)
@example(place=("annotations", 0, "image_id"), new=math.inf)
def test_coco_file_with_anything_in_any_place(tmp_path, place, new):
    """Fails without the type and the range of ids."""
    check_coco(tmp_path, json.dumps(replaced(COCO, place, new)).encode())


@fuzz
@given(data=st.data())
def test_damaged_coco_file(tmp_path, data):
    check_coco(tmp_path, damaged(json.dumps(COCO).encode(), data.draw))


def test_coco_file_that_is_nested_too_deep(tmp_path):
    """Fails without `RecursionError` in `read_annotations`."""
    path = tmp_path / "captions.json"
    path.write_text("[" * 200_000)
    with pytest.raises(SettingsError, match="no COCO captions file"):
        read_annotations(path, tmp_path)


def test_link_that_leaves_the_image_directory_is_refused(tmp_path):
    """Fails without `resolve` in `_path`."""
    (tmp_path / "secret").write_bytes(b"secret")
    images = tmp_path / "images"
    images.mkdir()
    (images / "9.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "captions.json").write_text(json.dumps(COCO))
    file = read_annotations(tmp_path / "captions.json", images)
    assert [image.image_id for image in file.images] == [8]
    assert "leaves" in file.passed_over[0]


@pytest.fixture(scope="module", params=["conditional_lm", "clip_projection"])
def bundle(request):
    if request.param == "conditional_lm":
        return tiny_captioner()
    return projection_bundle(orthogonal_projection(8, 4, seed=0))


def is_taken(bundle, manifest, weights):
    declaration = MODEL_BY_NAME[bundle.manifest.name].declaration
    try:
        load(declaration, Bundle(manifest=parse_manifest(manifest), weights=weights))
    except InvalidBundle:
        return False
    return True


def check_manifest(bundle, place, new):
    changed = json.dumps(replaced(json.loads(bundle.manifest.canonical()), place, new))
    if is_taken(bundle, changed, bundle.weights):  # words and notes may be others
        assert place[0] not in ("config", "parts", "name", "kind")


@fuzz
@given(data=st.data())
def test_manifest_with_anything_in_any_place(bundle, data):
    """Whatever it is, it is refused or belongs there."""
    whole = json.loads(bundle.manifest.canonical())
    check_manifest(bundle, data.draw(st.sampled_from(list(places(whole)))), data.draw(ODD))


@pytest.mark.parametrize("seed", [2**70, -(2**70)])
def test_seed_that_no_generator_takes(bundle, seed):
    """Fails without the range of `Golden.seed`."""
    check_manifest(bundle, ("golden", "seed"), seed)


@fuzz
@given(data=st.data())
def test_damaged_weights(bundle, data):
    """Fails without the hash in `check_hash`."""
    assert not is_taken(bundle, bundle.manifest.canonical(), damaged(bundle.weights, data.draw))


@fuzz
@given(data=st.data())
def test_damaged_weights_with_the_right_hash(bundle, data):
    """Somebody made the hash fit: safetensors, the shapes and the golden output are left."""
    weights = damaged(bundle.weights, data.draw)
    manifest = bundle.manifest.model_copy(update={"parts": {WEIGHTS: sha256(weights)}})
    # Either is right: the golden output leaves room for the last digits.
    is_taken(bundle, manifest.canonical(), weights)


def test_weights_that_promise_more_than_they_hold(bundle):
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    ).encode()
    weights = struct.pack("<Q", len(header)) + header
    manifest = bundle.manifest.model_copy(update={"parts": {WEIGHTS: sha256(weights)}})
    assert not is_taken(bundle, manifest.canonical(), weights)


def test_config_of_a_giant_takes_no_memory(bundle):
    """Fails without the meta device in `build`: a module of terabytes would be made."""
    config = {name: 1_000_000 for name in bundle.manifest.config}
    manifest = bundle.manifest.model_copy(update={"config": config})
    assert not is_taken(bundle, manifest.canonical(), bundle.weights)


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_bundle_directory_with_a_file_that_is_a_directory(bundle, tmp_path, name):
    to_directory(bundle, tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    (tmp_path / "b" / name).mkdir()
    with pytest.raises(InvalidBundle, match="cannot read"):
        from_directory(tmp_path / "b")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return write_snapshot(tmp_path_factory.mktemp("snapshot"), colour_rows(30)).directory


def check_snapshot(directory):
    try:
        found = Snapshot.open(directory)
        rows = [row for batch in found.batches() for row in batch.to_pylist()]
    except InvalidSnapshot:
        return
    assert len(rows) == found.manifest.counts.included


def check_snapshot_manifest(snapshot, directory, place, new):
    whole = json.loads((snapshot / SNAPSHOT_MANIFEST).read_text())
    shutil.copy(snapshot / DOCUMENTS, directory / DOCUMENTS)
    (directory / SNAPSHOT_MANIFEST).write_text(json.dumps(replaced(whole, place, new)))
    check_snapshot(directory)


@fuzz
@given(data=st.data())
def test_snapshot_whose_manifest_holds_anything_in_any_place(snapshot, tmp_path, data):
    """Whatever it is, it is refused or does no harm."""
    whole = json.loads((snapshot / SNAPSHOT_MANIFEST).read_text())
    place = data.draw(st.sampled_from([p for p in places(whole) if p]))
    check_snapshot_manifest(snapshot, tmp_path, place, data.draw(ODD))


@pytest.mark.parametrize("dimension", [2**70, 2**31, 0, -1])
def test_snapshot_of_vectors_of_no_possible_length(snapshot, tmp_path, dimension):
    """Fails without the range of `dimension`."""
    check_snapshot_manifest(snapshot, tmp_path, ("features", "clip", "dimension"), dimension)


@fuzz
@given(data=st.data(), name=st.sampled_from([DOCUMENTS, SNAPSHOT_MANIFEST]))
def test_damaged_snapshot(snapshot, tmp_path, data, name):
    """Fails without `ValueError` in `Snapshot.open`: names of columns that are no text."""
    for each in (DOCUMENTS, SNAPSHOT_MANIFEST):
        shutil.copy(snapshot / each, tmp_path / each)
    (tmp_path / name).write_bytes(damaged((snapshot / name).read_bytes(), data.draw))
    check_snapshot(tmp_path)


def test_snapshot_whose_footer_hides_rows(snapshot, tmp_path):
    """Fails without the count in `Snapshot.batches`: no checksum covers the footer."""
    shutil.copy(snapshot / SNAPSHOT_MANIFEST, tmp_path)
    whole = (snapshot / DOCUMENTS).read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    as_written = 2 * 30  # 30 rows in the encoding of the footer
    places = [
        at for at in range(len(whole) - 8 - length, len(whole) - 8) if whole[at] == as_written
    ]
    told = 0
    for place in places:
        data = bytearray(whole)
        data[place] -= 4
        (tmp_path / DOCUMENTS).write_bytes(data)
        try:
            list(Snapshot.open(tmp_path).batches())
        except InvalidSnapshot as exc:
            told += "28 rows, 30 expected" in str(exc)
    assert told >= 2, "of the file, and of its one group"
