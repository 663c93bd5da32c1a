"""What another release has stored in the registry, in a format of its own."""

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.errors import PointerConflict, UnknownFormat
from streams.models import conditional_lm
from streams.registry.hot_model import HotModel
from streams.registry.versions import Registry
from streams.settings import ModelSettings
from streams.stages.announced import AnnouncedStep
from tests.captioner import tiny_captioner
from tests.pipelines import CLIP, CONDITIONAL_LM

NAME = CONDITIONAL_LM.name
UPGRADE = r"is stored in format 2 and this release reads 1: upgrade this process"


@pytest.fixture
def registry(database):
    return Registry(database)


@pytest.fixture
def good(registry):
    version = registry.publish(tiny_captioner(seed=1))
    registry.promote(NAME, version, reason="test")
    registry.announce(CLIP.name, "c1", {"dimension": 8})
    return version


@pytest.fixture
def hot(registry):
    settings = ModelSettings(poll_interval_seconds=0.02)
    return HotModel(
        NAME, conditional_lm.from_bundle, conditional_lm.check_golden, registry, settings
    )


def in_format(database, collection, number, **which):
    found = database[collection].update_many(which, {"$set": {"format": number}})
    assert found.matched_count == 1


def test_pointer_of_a_later_format_is_refused_and_no_other(registry, database, good):
    """Fails without `_unread` in `find` and `get`."""
    in_format(database, "model_pointers", 2, _id=NAME)
    serving = registry.serving(DEFAULT)
    assert serving.versions == {CLIP.name: "c1"}
    assert UPGRADE.split(":", maxsplit=1)[0] in serving.problems[NAME]
    with pytest.raises(UnknownFormat, match=f"pointer of {NAME} {UPGRADE}"):
        registry.pointer(NAME)
    for move in (
        lambda: registry.promote(NAME, good, reason="test"),
        lambda: registry.rollback(NAME, reason="test"),
        lambda: registry.history(NAME),
    ):
        with pytest.raises(UnknownFormat, match=UPGRADE):
            move()
    assert database["model_pointers"].find_one({"_id": NAME})["format"] == 2


def test_move_of_a_later_format_is_left_out_of_the_history(registry, database, good):
    """Fails without the format in the query of `history`: what it holds is anybody's guess."""
    other = registry.publish(tiny_captioner(seed=2))
    registry.promote(NAME, other, reason="test")
    key = {"_id": {"name": NAME, "revision": 1}}
    database["model_history"].update_one(key, {"$set": {"format": 2, "version": [1]}})
    assert [move.version for move in registry.history(NAME)] == [other]


def test_pointer_that_a_later_release_moves_meanwhile_is_not_moved(registry, database, good):
    """Fails without the format in `_of_move`."""
    pointer = registry.pointer(NAME)
    in_format(database, "model_pointers", 2, _id=NAME)
    before = database["model_pointers"].find_one({"_id": NAME})
    with pytest.raises(UnknownFormat):
        registry.refuse(pointer, reason="test", serving=None)
    assert database["model_pointers"].find_one({"_id": NAME}) == before


def test_version_of_a_later_format_is_refused_and_no_other(registry, database, good):
    """Fails without `check_version_format` in `version_info`, `fetch`, or `publish`."""
    later = tiny_captioner(seed=2)
    registry.publish(later)
    in_format(database, "model_versions", 2, version=later.version)
    assert [info.version for info in registry.versions(NAME)] == [good, later.version]
    for call in (
        lambda: registry.describe(NAME, later.version),
        lambda: registry.promote(NAME, later.version, reason="test"),
        lambda: registry.fetch(NAME, later.version),
        lambda: registry.publish(later),
    ):
        with pytest.raises(UnknownFormat, match=f"{NAME} {later.version}: .* {UPGRADE}"):
            call()
    assert registry.serving(DEFAULT).versions[NAME] == good


def test_version_that_only_another_release_reads_is_not_refused_for_all(
    registry, database, good, hot
):
    """Fails when another format is an `InvalidBundle`: in a rollout the new version would go."""
    hot.refresh()
    later = registry.publish(tiny_captioner(seed=2))
    registry.promote(NAME, later, reason="test")
    in_format(database, "model_versions", 2, version=later)
    hot.refresh()
    assert (hot.current().version, registry.pointer(NAME).refusal) == (good, None)
    assert "upgrade this process" in hot.waits_for()
    serving = registry.serving(DEFAULT)
    assert NAME not in serving.versions
    assert "upgrade this process" in serving.problems[NAME]


def test_process_keeps_its_version_while_it_cannot_read_the_pointer(database, good, hot):
    """Fails when `refresh` raises: a process would not start, and none would say why."""
    hot.refresh()
    in_format(database, "model_pointers", 2, _id=NAME)
    for _ in range(2):
        hot.refresh()
        assert hot.current().version == good
        assert "upgrade this process" in hot.waits_for()
    in_format(database, "model_pointers", 1, _id=NAME)
    hot.refresh()
    assert hot.waits_for() == ""


class Silent:
    """A step that has a version and runs nothing."""

    def versions(self):
        return {CLIP.name: "c1"}


@pytest.mark.parametrize("collection", ["model_pointers", "model_versions"])
def test_announced_model_waits_where_another_release_was(registry, database, good, collection):
    """Fails when `look` raises, or when what another format says of a version is compared."""
    which = {"_id": CLIP.name} if collection == "model_pointers" else {"name": CLIP.name}
    in_format(database, collection, 2, **which)
    left = []
    step = AnnouncedStep(
        CLIP.name,
        Silent(),
        registry,
        ModelSettings(),
        details={},
        compare=lambda details: "",
        remedy="",
        leave=lambda: left.append(True),
    )
    step.look()
    assert "upgrade this process" in step.waits_for()
    assert left == []


def test_pointer_of_an_earlier_format_names_another_remedy(registry, database, good):
    database["model_pointers"].update_one({"_id": NAME}, {"$unset": {"format": 1}})
    with pytest.raises(UnknownFormat, match="remove its document from model_pointers"):
        registry.promote(NAME, good, reason="test")
    with pytest.raises(PointerConflict):
        registry.promote(CLIP.name, "c1", reason="test", expected_revision=7)
