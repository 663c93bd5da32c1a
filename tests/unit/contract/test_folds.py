"""Which fold a document belongs to."""

import pytest

from streams.contract.folds import fold_of
from streams.errors import SettingsError
from streams.operate.commands.documents import import_coco


@pytest.mark.parametrize(
    ("stored", "fold"),
    [
        *((name, "train") for name in ("train", "Train", "training")),
        *((name, "valid") for name in ("valid", "val", "validation", "Valid ", "dev")),
        *((name, "test") for name in ("test", "TEST", "testing")),
        *(
            (value, None)
            for value in ("", "trian", "restval", 1, ["train"], {"a": 1}, float("nan"))
        ),
    ],
)
def test_given_fold_is_kept_under_its_usual_names_and_anything_else_is_no_fold(stored, fold):
    assert fold_of({"_id": 1, "_fold": stored}) == fold


def test_fold_is_stable_and_about_five_percent_are_valid_and_five_are_test():
    folds = [fold_of({"_id": number}) for number in range(4000)]
    assert folds == [fold_of({"_id": number, "_fold": None}) for number in range(4000)]
    assert 0.03 < folds.count("valid") / 4000 < 0.07
    assert 0.03 < folds.count("test") / 4000 < 0.07
    assert folds.count("train") + folds.count("valid") + folds.count("test") == 4000


def test_an_import_into_a_fold_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="train, valid or test, got 'trian'"):
        import_coco(tmp_path / "absent.json", tmp_path, fold="trian")
