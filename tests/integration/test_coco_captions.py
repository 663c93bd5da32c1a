"""Real captions, where they are at hand: words come back as they went in."""

import pytest

from tests.bench.coco_vocabulary import CAPTIONS, folds, load_captions, vocabulary_row


@pytest.mark.skipif(not CAPTIONS.is_file(), reason=f"COCO's captions are not at {CAPTIONS}")
def test_every_caption_of_coco_survives_the_vocabulary():
    train, valid = folds(load_captions(CAPTIONS))
    assert len(train) + len(valid) > 20_000
    row = vocabulary_row(train, valid, 5)
    assert row["round_trips_that_differ"] == 0
    assert row["unknown_words_valid"] < 0.06
