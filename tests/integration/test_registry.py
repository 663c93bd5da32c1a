"""Model versions, the pointer, and hot reload, on a real MongoDB."""

import errno
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from gridfs import GridFS

from streams import metrics
from streams.contract.default_pipeline import DEFAULT
from streams.contract.manifest import Bundle, Feature
from streams.contract.states import Recaption
from streams.errors import (
    InvalidBundle,
    ModelNotFound,
    PointerConflict,
    StoreUnavailable,
    UnknownFormat,
)
from streams.models import conditional_lm
from streams.models.bundle import check_manifest, make_bundle, tensors_of
from streams.models.projection import orthogonal_projection
from streams.registry.hot_model import HotModel
from streams.registry.versions import Registry
from streams.settings import ModelSettings
from tests.bundles import projection_bundle
from tests.captioner import tiny_captioner
from tests.pipelines import CONDITIONAL_LM
from tests.tiny import DIMENSION
from tests.waiting import wait_until

NAME = "conditional_lm"


def load(bundle):
    """As the kind loads a version, but to the bare model."""
    check_manifest(CONDITIONAL_LM.declaration, bundle.manifest)
    return conditional_lm.from_bundle(bundle)


@pytest.fixture
def hot(registry):
    return HotModel(
        NAME,
        load,
        conditional_lm.check_golden,
        registry,
        ModelSettings(poll_interval_seconds=0.05),
    )


def promote(registry, bundle):
    version = registry.publish(bundle)
    registry.promote(NAME, version, reason="test")
    return version


def test_published_bundle_comes_back_whole(registry):
    bundle = tiny_captioner()
    version = registry.publish(bundle)
    assert registry.publish(bundle) == version
    assert registry.fetch(NAME, version) == bundle
    assert [info.version for info in registry.versions(NAME)] == [version]


@pytest.mark.parametrize("chunks", [0, 1])
def test_half_published_version_is_not_seen(registry, database, monkeypatch, chunks):
    """The process dies with some or all of the weights written.

    Fails when `publish` writes the version's document before them.
    """
    version = tiny_captioner().version

    def put(self, *arguments, **options):
        if chunks:
            original(self, *arguments, **options)
        raise KeyboardInterrupt

    original = GridFS.put
    with monkeypatch.context() as patch:
        patch.setattr(GridFS, "put", put)
        with pytest.raises(KeyboardInterrupt):
            registry.publish(tiny_captioner())
    assert registry.versions() == []
    with pytest.raises(ModelNotFound, match="known: none"):
        registry.promote(NAME, version, reason="test")
    assert registry.publish(tiny_captioner()) == version


def test_version_is_taken_as_documents_name_it(registry):
    """With what its options add. Fails without `weights_version`."""
    version = registry.publish(tiny_captioner())
    assert registry.describe(NAME, f"{version}+0123abcd").version == version
    assert registry.promote(NAME, f"{version}+0123abcd", reason="test").version == version
    with pytest.raises(ModelNotFound):
        registry.promote(NAME, "+0123abcd", reason="test")


def test_pointer_moves_with_history_and_rolls_back_step_by_step(registry):
    a, b, c = (promote(registry, tiny_captioner(seed=seed)) for seed in range(3))
    assert registry.pointer(NAME).previous == b
    assert registry.rollback(NAME, reason="bad").version == b
    assert registry.rollback(NAME, reason="bad").version == a
    with pytest.raises(ModelNotFound, match="no earlier version"):
        registry.rollback(NAME, reason="bad")
    assert [move.version for move in registry.history(NAME)] == [a, b, c, b, a]


def test_rollback_passes_over_a_refused_version(registry, hot):
    """Fails when `_places` counts moves that were refused: all would refuse it again."""
    first = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    bad = promote(registry, nan_bundle())
    hot.refresh()
    third = promote(registry, tiny_captioner(seed=3))
    hot.refresh()
    assert hot.current().version == third
    assert registry.rollback(NAME, reason="test").version == first
    hot.refresh()
    assert hot.current().version == first
    with pytest.raises(ModelNotFound, match="no earlier version"):
        registry.rollback(NAME, reason="test")
    assert [move.version for move in registry.history(NAME)] == [first, bad, third, first]


def test_rollback_from_a_refused_version_names_the_one_that_serves_on(registry):
    """Fails when the newest move is passed over also where it is no place."""
    a, b = (registry.publish(tiny_captioner(seed=seed)) for seed in range(2))
    for version in (b, a, b):
        registry.promote(NAME, version, reason="test")
    registry.refuse(registry.pointer(NAME), reason="test", serving=a)
    assert registry.rollback(NAME, reason="test").version == a
    with pytest.raises(ModelNotFound, match="no earlier version"):
        registry.rollback(NAME, reason="test")


def test_unique_beginning_of_a_version_is_enough(registry):
    version = registry.publish(tiny_captioner())
    assert registry.promote(NAME, version[:6], reason="test").version == version
    with pytest.raises(ModelNotFound, match="begins with 'zz'"):
        registry.promote(NAME, "zz", reason="test")


def test_pointer_is_moved_by_compare_and_set(registry):
    versions = [registry.publish(tiny_captioner(seed=seed)) for seed in range(8)]
    registry.promote(NAME, versions[0], reason="first", expected_revision=0)

    def move(version):
        try:
            return registry.promote(NAME, version, reason="race", expected_revision=1)
        except PointerConflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [moved for moved in pool.map(move, versions) if moved]
    assert len(won) == 1
    assert registry.pointer(NAME).version == won[0].version
    assert [m.version for m in registry.history(NAME)] == [versions[0], won[0].version]


def test_first_announced_clip_serves_and_has_no_weights_here(registry):
    """Fails when the second moves the pointer: every document would be embedded again."""
    first = registry.announce("clip", "c1", {"dimension": 4})
    assert registry.announce("clip", "c1", {"dimension": 5}).details == first.details
    registry.announce("clip", "c2", {"dimension": 8})
    assert [move.version for move in registry.history("clip")] == ["c1"]
    with pytest.raises(ModelNotFound):
        registry.fetch("clip", "c1")
    assert registry.promote("clip", "c2", reason="test").previous == "c1"


def test_of_many_first_announcements_one_serves(registry):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: registry.announce("clip", f"c{n}", {"dimension": 4}), range(4)))
    assert len(registry.history("clip")) == 1
    assert len(registry.versions("clip")) == 4


def test_serving_tells_what_a_captioner_was_fitted_on(registry):
    registry.announce("clip", "c1", {"dimension": DIMENSION})
    version = promote(registry, tiny_captioner(clip_version="c0"))
    serving = registry.serving(DEFAULT)
    assert serving.versions == {"clip": "c1", NAME: version}
    assert serving.requires == {NAME: {"clip": "c0"}}


def test_hot_model_follows_the_pointer_and_back(registry, hot):
    hot.refresh()
    assert hot.current() is None
    first = promote(registry, tiny_captioner(seed=1))
    hot.start()
    assert hot.current().version == first
    second = promote(registry, tiny_captioner(seed=2))
    wait_until(lambda: hot.current().version == second, doing="the swap")
    registry.rollback(NAME, reason="test")
    wait_until(lambda: hot.current().version == first, doing="the swap back")
    hot.stop()


def nan_bundle():
    good = tiny_captioner(seed=5)
    tensors = tensors_of(good)
    tensors["prediction.bias"][0] = math.nan
    return make_bundle(tensors, **good.manifest.model_dump(exclude={"parts"}))


def with_manifest(**changes):
    good = tiny_captioner(seed=5)
    return Bundle(manifest=good.manifest.model_copy(update=changes), weights=good.weights)


def other_words():
    words = tiny_captioner(seed=5).manifest.vocabulary
    return [*reversed(words[:-1]), words[-1]]


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (nan_bundle, "NaN"),
        (lambda: with_manifest(vocabulary=other_words()), "golden"),
        (lambda: with_manifest(vocabulary=["a", "<unk>"]), "differ from the manifest"),
        (
            lambda: with_manifest(features={"depth": Feature(dimension=DIMENSION)}),
            "reads the models clip, the version was made for depth",
        ),
        (
            lambda: with_manifest(config={"n_condition": 5, "n_hidden": 8, "max_length": 6}),
            "has dimension 32, the config reads 5",
        ),
    ],
    ids=["NaN weight", "other words", "fewer words", "unknown feature", "other shapes"],
)
def test_bad_version_is_refused_counted_and_the_old_one_serves_on(
    registry, hot, bundle, reason, capsys
):
    good = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    refused = metrics.REFUSED_RELOADS.labels(NAME, "InvalidBundle")
    before = refused._value.get()
    promote(registry, bundle())
    hot.refresh()
    hot.refresh()
    assert hot.current().version == good
    assert refused._value.get() == before + 1, "tried once for each move of the pointer"
    assert reason in capsys.readouterr().out
    again = promote(registry, tiny_captioner(seed=2))
    hot.refresh()
    assert hot.current().version == again


def test_flipped_byte_in_the_store_is_refused(registry, hot, database):
    good = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    bad = registry.publish(tiny_captioner(seed=2))
    newest = database["model_files.chunks"].find().sort("_id", -1)[0]
    data = bytearray(newest["data"])
    data[-1] ^= 1
    database["model_files.chunks"].update_one(
        {"_id": newest["_id"]}, {"$set": {"data": bytes(data)}}
    )
    registry.promote(NAME, bad, reason="test")
    hot.refresh()
    assert hot.current().version == good
    assert "sha256" in registry.serving(DEFAULT).problems[NAME]


def test_bundle_of_another_model_is_refused(registry, hot, database):
    good = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    bundle = projection_bundle(orthogonal_projection(4, 2, seed=0))
    version = registry.publish(bundle)
    row = database["model_versions"].find_one({"version": version})
    database["model_versions"].insert_one({**row, "_id": f"{NAME}/{version}", "name": NAME})
    registry.promote(NAME, version, reason="test")
    hot.refresh()
    assert hot.current().version == good
    assert "is that of clip_projection" in registry.serving(DEFAULT).problems[NAME]


def test_model_whose_weights_rot_in_memory_fails_its_self_test(registry, hot):
    promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    assert hot.self_test()
    with torch.no_grad():
        hot.current().model.prediction.weight.fill_(math.nan)
    assert not hot.self_test()


def test_rollback_after_a_version_served_twice_goes_on_from_its_last_turn(registry):
    a, b, c = (registry.publish(tiny_captioner(seed=seed)) for seed in range(3))
    for version in (a, b, a, c):
        registry.promote(NAME, version, reason="test")
    back = [registry.rollback(NAME, reason="bad").version for _ in range(3)]
    assert back == [a, b, a]


def test_reason_that_begins_like_a_rollback_does_not_change_what_came_before(registry):
    a, b, c = (registry.publish(tiny_captioner(seed=seed)) for seed in range(3))
    for version in (a, b, c):
        registry.promote(NAME, version, reason="test")
    registry.promote(NAME, a, reason="rollback: by hand, to the first")
    assert registry.rollback(NAME, reason="bad").version == c


def test_move_survives_in_the_history_when_the_process_dies_right_after_it(registry, database):
    a, b, c = (promote(registry, tiny_captioner(seed=seed)) for seed in range(3))
    database["model_history"].delete_one({"_id": {"name": NAME, "revision": 3}})
    assert [move.version for move in registry.history(NAME)] == [a, b, c]
    d = promote(registry, tiny_captioner(seed=3))
    assert [move.version for move in registry.history(NAME)] == [a, b, c, d]


def test_weights_with_a_lost_chunk_are_damaged_not_unavailable(registry, hot, database):
    """Fails without `CorruptGridFile` in `Registry._weights`."""
    good = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    bad = promote(registry, tiny_captioner(seed=2))
    newest = database["model_files.chunks"].find().sort("_id", -1)[0]
    database["model_files.chunks"].delete_one({"_id": newest["_id"]})
    with pytest.raises(InvalidBundle, match="publish it again"):
        registry.fetch(NAME, bad)
    hot.refresh()
    assert hot.current().version == good


@pytest.mark.parametrize("change", ["lost", "flipped"])
def test_publishing_again_heals_damaged_weights(registry, database, change):
    bundle = tiny_captioner(seed=1)
    version = registry.publish(bundle)
    if change == "lost":
        database["model_files.files"].delete_many({})
    else:
        chunk = database["model_files.chunks"].find_one()
        data = bytes([chunk["data"][0] ^ 1]) + chunk["data"][1:]
        database["model_files.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": data}})
    with pytest.raises(InvalidBundle, match="publish it again"):
        registry.fetch(NAME, version)
    assert registry.publish(bundle) == version
    assert registry.fetch(NAME, version) == bundle


def test_version_of_a_later_release_hides_no_other(registry, database):
    good = promote(registry, tiny_captioner(seed=1))
    later = registry.publish(tiny_captioner(seed=2))
    row = database["model_versions"].find_one({"version": later})
    manifest = row["manifest"].replace('"format_version":1', '"format_version":2')
    database["model_versions"].update_one({"_id": row["_id"]}, {"$set": {"manifest": manifest}})
    assert [info.version for info in registry.versions(NAME)] == [good, later]
    assert registry.describe(NAME, good).manifest is not None
    problem = "the manifest is stored in format 2 and this release reads 1: upgrade this process"
    with pytest.raises(UnknownFormat, match=problem):
        registry.describe(NAME, later)
    with pytest.raises(UnknownFormat, match=problem):
        registry.promote(NAME, later, reason="test")


class Machine:
    """A process that loads captioners as long as it has what it needs."""

    def __init__(self, registry, *, poll_seconds=0.02):
        self.error = None
        self.loads = 0
        self.hot = HotModel(
            NAME,
            self.load,
            conditional_lm.check_golden,
            registry,
            ModelSettings(poll_interval_seconds=poll_seconds),
        )

    def load(self, bundle):
        self.loads += 1
        if self.error is not None:
            raise self.error
        return conditional_lm.from_bundle(bundle)


@pytest.fixture
def machine(registry):
    made = Machine(registry)
    yield made
    made.hot.stop()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("a fault of the loader"),
    ],
    ids=lambda error: repr(error)[:40],
)
def test_own_trouble_of_a_process_refuses_a_version_for_nobody(registry, machine, hot, error):
    """Fails when every error of a load is a refusal: one full memory stopped all processes."""
    first = promote(registry, tiny_captioner(seed=1))
    machine.hot.refresh()
    machine.error = error
    second = promote(registry, tiny_captioner(seed=2))
    machine.hot.refresh()
    assert registry.pointer(NAME).refusal is None
    assert machine.hot.current().version == first, "it keeps what it has"
    reason = machine.hot.waits_for()
    assert f"{NAME} {second} cannot be loaded ({type(error).__name__}" in reason
    assert f"until then serves {first}" in reason
    hot.refresh()
    assert (hot.current().version, hot.waits_for()) == (second, "")

    machine.hot.start()
    machine.error = None
    wait_until(lambda: not machine.hot.waits_for(), doing="another attempt")
    assert machine.hot.current().version == second


def test_process_that_starts_in_trouble_serves_nothing_until_it_is_over(registry, machine):
    version = promote(registry, tiny_captioner(seed=1))
    machine.error = MemoryError()
    machine.hot.start()
    assert machine.hot.current() is None
    assert "serves no version" in machine.hot.waits_for()
    machine.error = None
    wait_until(machine.hot.current, doing="another attempt")
    assert machine.hot.current().version == version


def test_version_that_cannot_be_loaded_is_tried_ever_more_seldom(registry):
    """Fails without `again_at`: a large model would be fetched at every look."""
    machine = Machine(registry, poll_seconds=30)  # no pause ends by itself while this runs
    promote(registry, tiny_captioner(seed=1))
    machine.error = MemoryError()
    attempts = []
    for _ in range(3):
        machine.hot.refresh()
        machine.hot.refresh()
        trouble = machine.hot._trouble
        attempts.append(trouble.attempts)
        machine.hot._trouble = replace(trouble, again_at=0.0)
    assert attempts == [1, 2, 3]
    assert machine.loads == 3


def test_another_move_of_the_pointer_ends_the_trouble(registry, machine):
    first = promote(registry, tiny_captioner(seed=1))
    machine.hot.refresh()
    machine.error = MemoryError()
    promote(registry, tiny_captioner(seed=2))
    machine.hot.refresh()
    registry.rollback(NAME, reason="test")
    machine.hot.refresh()
    assert (machine.hot.current().version, machine.hot.waits_for()) == (first, "")


def test_process_that_computes_wrong_by_itself_is_no_judge_of_a_version(registry, hot):
    """Fails without `self_test` in `_take`: one broken processor refused versions for all."""
    first = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    with torch.no_grad():
        hot.current().model.prediction.weight.fill_(math.nan)
    promote(registry, nan_bundle())
    hot.refresh()
    assert registry.pointer(NAME).refusal is None
    assert "cannot be loaded (InvalidBundle" in hot.waits_for()
    assert hot.current().version == first


def test_refused_version_is_dropped_also_by_a_process_in_trouble(registry, machine):
    good = promote(registry, tiny_captioner(seed=1))
    promote(registry, tiny_captioner(seed=2))
    machine.hot.refresh()
    machine.error = MemoryError()
    registry.refuse(registry.pointer(NAME), reason="test", serving=good)
    machine.hot.refresh()
    assert machine.hot.current() is None
    machine.error = None
    machine.hot.start()
    wait_until(machine.hot.current, doing="another attempt")
    assert machine.hot.current().version == good


def test_feature_made_only_after_the_model_is_refused(registry, hot):
    features = {"conditional_lm": Feature(dimension=DIMENSION)}
    promote(registry, with_manifest(features=features))
    hot.refresh()
    assert hot.current() is None


def test_following_survives_an_unreachable_database(registry, hot, database):
    first = promote(registry, tiny_captioner(seed=1))
    hot.start()
    fail = {
        "configureFailPoint": "failCommand",
        "mode": {"times": 3},
        "data": {
            "failCommands": ["find"],
            "errorCode": 13388,
            "namespace": f"{database.name}.model_pointers",
        },
    }
    database.client.admin.command(fail)
    second = promote_later(registry, tiny_captioner(seed=2))
    assert hot.current().version in (first, second)
    wait_until(lambda: hot.current().version == second, doing="the swap after the outage")
    hot.stop()


def promote_later(registry, bundle):
    version = registry.publish(bundle)
    wait_until(lambda: is_promoted(registry, version), doing="the promotion")
    return version


def is_promoted(registry, version):
    try:
        return registry.promote(NAME, version, reason="test").version == version
    except StoreUnavailable:
        return False


def test_move_keeps_what_it_says_about_stored_outputs(registry):
    a, b = (registry.publish(tiny_captioner(seed=seed)) for seed in range(2))
    registry.promote(NAME, a, reason="test")
    registry.promote(NAME, b, reason="test", recaption=Recaption.NONE)
    assert registry.serving(DEFAULT).recaption == {NAME: Recaption.NONE}
    registry.rollback(NAME, reason="test", recaption=Recaption.STALE)
    kept = [move.recaption for move in registry.history(NAME)]
    assert kept == [Recaption.ALL, Recaption.NONE, Recaption.STALE]


def test_same_version_promoted_again_only_changes_what_stays(registry, hot):
    version = promote(registry, tiny_captioner())
    hot.refresh()
    reloads = metrics.RELOADS.labels(NAME)
    before = reloads._value.get()
    registry.promote(NAME, version, reason="test", recaption=Recaption.NONE)
    hot.refresh()
    assert (hot.current().version, hot.current().recaption) == (version, Recaption.NONE)
    assert reloads._value.get() == before


def test_refused_version_is_told_and_leaves_stored_outputs_alone(registry, hot):
    good = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    bad = promote(registry, nan_bundle())
    hot.refresh()
    serving = registry.serving(DEFAULT)
    assert serving.versions == {NAME: good}
    assert serving.recaption == {NAME: Recaption.NONE}
    assert f"{bad} is refused" in serving.problems[NAME]
    assert "NaN" in serving.problems[NAME]
    registry.rollback(NAME, reason="test")
    assert registry.serving(DEFAULT).problems == {}
    assert registry.history(NAME)[1].refusal.serving == good


def other_process(registry):
    return HotModel(
        NAME,
        conditional_lm.from_bundle,
        conditional_lm.check_golden,
        registry,
        ModelSettings(poll_interval_seconds=0.05),
    )


def test_process_that_starts_after_a_refusal_serves_the_version_before(registry, hot):
    good = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    promote(registry, nan_bundle())
    hot.refresh()
    later = other_process(registry)
    later.refresh()
    assert later.current().version == good


def test_first_process_after_bad_promotions_finds_the_last_good_version(registry, hot):
    """Nobody ran while they were promoted, so that nobody has refused one before."""
    good = promote(registry, tiny_captioner(seed=1))
    promote(registry, with_manifest(features={"clip": Feature(dimension=7)}))
    promote(registry, nan_bundle())
    hot.refresh()
    assert hot.current().version == good
    assert registry.serving(DEFAULT).versions == {NAME: good}


def test_version_refused_by_one_process_serves_in_none(registry, hot):
    good = promote(registry, tiny_captioner(seed=1))
    taken = promote(registry, tiny_captioner(seed=2))
    hot.refresh()
    assert hot.current().version == taken
    registry.refuse(registry.pointer(NAME), reason="another machine's golden", serving=good)
    hot.refresh()
    assert hot.current().version == good


@pytest.mark.parametrize("serving", [None, "0123456789abcdef"], ids=["none", "one that is gone"])
def test_version_refused_without_a_good_one_before_is_dropped_everywhere(registry, hot, serving):
    """Fails when `_settle` keeps what is in memory: the process would answer with it for ever."""
    taken = promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    assert hot.current().version == taken
    registry.refuse(registry.pointer(NAME), reason="another machine's golden", serving=serving)
    hot.refresh()
    assert hot.current() is None
    again = promote(registry, tiny_captioner(seed=2))
    hot.refresh()
    assert hot.current().version == again


def test_refused_first_version_leaves_documents_awaiting_a_model(registry, hot):
    promote(registry, nan_bundle())
    hot.refresh()
    assert hot.current() is None
    assert registry.serving(DEFAULT).versions == {}
    assert NAME in registry.serving(DEFAULT).problems


def test_late_refusal_of_an_older_move_changes_nothing(registry):
    promote(registry, tiny_captioner(seed=1))
    before = registry.pointer(NAME)
    promote(registry, tiny_captioner(seed=2))
    assert registry.refuse(before, reason="late", serving=None).refusal is None


class Overtaken(Registry):
    """Somebody promotes another version at the moment at which a refusal is noted."""

    def refuse(self, pointer, *, reason, serving):
        super().refuse(pointer, reason=reason, serving=serving)
        self.next = promote(self, tiny_captioner(seed=2))
        return self.pointer(NAME)


def test_move_that_comes_while_a_refusal_is_noted_is_followed(database):
    """Fails when `refresh` takes the pointer that `refuse` returns for one it has followed."""
    registry = Overtaken(database)
    hot = HotModel(
        NAME,
        conditional_lm.from_bundle,
        conditional_lm.check_golden,
        registry,
        ModelSettings(poll_interval_seconds=0.05),
    )
    promote(registry, nan_bundle())
    hot.refresh()
    hot.refresh()
    assert hot.current().version == registry.next


def test_promoting_a_healed_version_again_tries_it_again(registry, hot, database):
    promote(registry, tiny_captioner(seed=1))
    hot.refresh()
    healed = tiny_captioner(seed=2)
    version = registry.publish(healed)
    newest = database["model_files.chunks"].find().sort("_id", -1)[0]
    database["model_files.chunks"].delete_one({"_id": newest["_id"]})
    registry.promote(NAME, version, reason="test")
    hot.refresh()
    registry.publish(healed)
    hot.refresh()
    assert hot.current().version != version
    registry.promote(NAME, version, reason="test")
    hot.refresh()
    assert hot.current().version == version


def test_manifest_that_cannot_be_read_concerns_its_own_model_only(registry, database):
    registry.announce("clip", "c1", {"dimension": DIMENSION})
    version = promote(registry, tiny_captioner(seed=1))
    database["model_versions"].update_one({"version": version}, {"$set": {"manifest": "{}"}})
    serving = registry.serving(DEFAULT)
    assert serving.versions == {"clip": "c1"}
    assert "manifest is not valid" in serving.problems[NAME]
