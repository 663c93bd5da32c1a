"""Fitting: what is learned, that it repeats, and that it goes on after a kill."""

import json
import math
import shutil
import unicodedata
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from streams.contract.default_pipeline import DEFAULT
from streams.errors import (
    InvalidCheckpoint,
    InvalidSnapshot,
    ModelNotFound,
    TooLittleData,
    TrainerError,
)
from streams.models import conditional_lm, projection
from streams.models.bundle import from_directory
from streams.models.conditional_lm import ConditionalLM
from streams.models.vocabulary import Vocabulary
from tests.unit.trainer.snapshots import (
    CAPTIONER,
    CLIP,
    PROJECTION,
    WORDS,
    colour_rows,
    material_of,
    write_snapshot,
)
from trainer.fit import captioner, projector
from trainer.fit.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from trainer.fit.dataset import Examples, read_fold
from trainer.fit.fit import BUNDLE, fit
from trainer.fit.fitting import HISTORY
from trainer.fit.kinds import model_of
from trainer.fit.options import FitOptions
from trainer.fit.plugs import Means, Task
from trainer.fit.run_directory import RUN
from trainer.fit.splitter import FIXED, batches, draw

SMALL = {"min_count": 2, "hidden": 16, "max_length": 6}
OPTIONS = FitOptions(batch_size=16, rate=0.02, max_epochs=6, kind=SMALL)
#: For tests that ask what is written, not what is learned.
SHORT = OPTIONS.model_copy(update={"max_epochs": 2})


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return write_snapshot(tmp_path_factory.mktemp("snapshot"), colour_rows(150))


@pytest.fixture(scope="module")
def fitted(snapshot, tmp_path_factory):
    return fit(CAPTIONER, snapshot, SHORT, tmp_path_factory.mktemp("fitted"))


@pytest.fixture
def mine(fitted, tmp_path):
    """The same run in a place where a test may change it, as if it had been fitted there."""
    directory = tmp_path / Path(*fitted.directory.parts[-2:])
    shutil.copytree(fitted.directory, directory)
    return replace(fitted, directory=directory)


def encode_texts(texts):
    """A text tower that puts a colour where the images of it are."""
    vectors = np.zeros((len(texts), 8), np.float32)
    for row, text in enumerate(texts):
        vectors[row, [word in text for word in WORDS].index(True)] = 1
        vectors[row, 7] = 0.3
    return torch.from_numpy(vectors)


# --- dataset and splitter -----------------------------------------------------------------------
def test_fold_holds_its_rows_with_their_captions(snapshot):
    fold = read_fold(snapshot, "valid", CAPTIONER)
    rows = [row for row in colour_rows(150) if row.fold == "valid"]
    vectors = fold.inputs["img"].numpy()
    assert np.array_equal(vectors, np.stack([row.values[CLIP] for row in rows]))
    for number, row in enumerate(rows):
        part = slice(int(fold.offsets[number]), int(fold.offsets[number + 1]))
        assert fold.targets[part] == row.captions


def examples(count=50, seed=0):
    lengths = torch.randint(1, 5, (count,), generator=torch.Generator().manual_seed(seed))
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Examples(
        inputs=torch.arange(count).float().unsqueeze(1),
        targets=torch.arange(int(offsets[-1])),
        offsets=offsets,
    )


def test_epoch_draws_every_image_once_with_one_of_its_captions():
    drawn_from = examples()
    images, targets = draw(drawn_from, seed=3, epoch=1)
    assert sorted(images.tolist()) == list(range(50))
    assert (
        (targets >= drawn_from.offsets[images]) & (targets < drawn_from.offsets[images + 1])
    ).all()


def test_draw_follows_from_seed_and_epoch_alone():
    drawn_from = examples()
    torch.manual_seed(1)
    first = draw(drawn_from, seed=3, epoch=2)
    torch.manual_seed(2)
    again = draw(drawn_from, seed=3, epoch=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, epoch in ((3, 1), (4, 2), (3, FIXED)):
        assert not torch.equal(draw(drawn_from, seed=seed, epoch=epoch)[0], first[0])


def test_over_the_epochs_every_caption_is_drawn():
    drawn_from = examples()
    seen = {int(t) for epoch in range(1, 60) for t in draw(drawn_from, seed=0, epoch=epoch)[1]}
    assert seen == set(range(len(drawn_from.targets)))


def test_batches_hold_pairs_and_the_rest_comes_last():
    drawn_from = examples()
    parts = list(batches(drawn_from, seed=0, epoch=1, size=16))
    assert [len(vectors) for vectors, _, _ in parts] == [count for _, _, count in parts]
    assert [count for _, _, count in parts] == [16, 16, 16, 2]
    for vectors, targets, _ in parts:
        images = vectors.squeeze(1).long()
        assert (targets >= drawn_from.offsets[images]).all()
        assert (targets < drawn_from.offsets[images + 1]).all()


# --- objectives ---------------------------------------------------------------------------------
def test_captioner_objective_is_the_mean_over_rows_of_the_mean_up_to_the_stop():
    vocabulary = Vocabulary.from_captions(["a b c d"] * 3, min_count=0)
    torch.manual_seed(0)
    model = ConditionalLM(vocabulary, n_condition=3, n_hidden=5, max_length=4)
    vectors, texts = torch.randn(2, 3), ["a b", "d c b a"]
    targets = captioner.encode_captions(texts, vocabulary=vocabulary, max_length=4)
    rows = []
    for vector, text in zip(vectors, texts, strict=True):
        state, token, losses = model.conditioning_linear(vector), vocabulary.start, []
        for word in [*text.split(), None]:
            wanted = vocabulary.stop if word is None else vocabulary.words.index(word)
            _, hidden = model.rnn(model.embedding.weight[token][None, None], state[None, None])
            state = hidden[0, 0]
            chances = functional.softmax(model.prediction(state), dim=0)
            losses.append(-math.log(float(chances[wanted].detach())))
            token = wanted
        rows.append(sum(losses) / len(losses))
    found = float(captioner.CAPTIONER.objective(model, vectors, targets).detach())
    assert found == pytest.approx(sum(rows) / 2, rel=1e-5)


def test_projection_objective_is_the_mean_of_both_cross_entropies():
    model = projector.SharedProjection(4, 3, seed=0)
    images, texts = torch.randn(3, 4), torch.randn(3, 4)
    rows = functional.normalize(images @ model.projection.linear.weight.T, dim=1)
    columns = functional.normalize(texts @ model.projection.linear.weight.T, dim=1)
    logits = (rows @ columns.T / 0.07).double()
    wanted = 0.0
    for table in (logits, logits.T):
        for number in range(3):
            wanted -= math.log(float(functional.softmax(table[number], dim=0)[number].detach())) / 6
    assert float(projector.PROJECTOR.objective(model, images, texts).detach()) == pytest.approx(
        wanted, rel=1e-4
    )


# --- fit ----------------------------------------------------------------------------------------
def test_captioner_learns_and_its_version_says_where_it_comes_from(snapshot, tmp_path):
    result = fit(CAPTIONER, snapshot, OPTIONS, tmp_path)
    losses = [done["valid_loss"] for done in result.history]
    assert losses[-1] < losses[0] / 2
    assert result.valid_loss == min(losses)
    assert losses[result.best_epoch - 1] == result.valid_loss
    manifest = result.bundle.manifest
    assert manifest.snapshot_id == snapshot.manifest.snapshot_id
    assert manifest.features["clip"].version == "clip-test"
    assert manifest.metrics["valid_loss"] == pytest.approx(result.valid_loss, abs=1e-6)
    model = conditional_lm.from_bundle(from_directory(result.directory / BUNDLE))
    for number, word in enumerate(WORDS):
        vector = torch.zeros(1, 8)
        vector[0, number] = 1
        assert word in model.generate(vector)[0].text
    lines = (result.directory / HISTORY).read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(result.history)
    about = json.loads((result.directory / RUN).read_text())
    assert FitOptions(**about["options"]) == OPTIONS


def test_vocabulary_knows_the_train_fold_only(tmp_path):
    rows = [
        row if row.fold == "train" else replace(row, captions=("hapax " * 9,))
        for row in colour_rows(60)
    ]
    result = fit(CAPTIONER, write_snapshot(tmp_path, rows), OPTIONS, tmp_path)
    assert "hapax" not in result.bundle.manifest.vocabulary
    assert "thing" in result.bundle.manifest.vocabulary


def language_rows(*captions):
    """Images of the captions in turn; the vector says which."""
    for row in colour_rows(100):
        number = int(row.id) % len(captions)
        vector = row.values[CLIP] * 0
        vector[number] = 1
        yield replace(row, captions=(captions[number],), values={CLIP: vector})


def test_every_word_survives_training_in_any_language(tmp_path):
    captions = {
        "l'été, un Garçon à vélo": "lété un garçon à vélo",
        "一只猫坐在桌上": None,
        "Vögel auf der Straße": "vögel auf der straße",
        "एक कुत्ता दौड़ रहा है": None,
    }
    options = OPTIONS.model_copy(update={"kind": {**SMALL, "max_length": 10}, "max_epochs": 12})
    snapshot = write_snapshot(tmp_path, language_rows(*captions))
    bundle = fit(CAPTIONER, snapshot, options, tmp_path).bundle
    model = conditional_lm.from_bundle(bundle)  # as a stage loads it
    said = [caption.text for caption in model.generate(torch.eye(8)[: len(captions)])]
    wanted = [written or caption for caption, written in captions.items()]
    assert said == [unicodedata.normalize("NFC", text) for text in wanted]


COUNTS = (("train", 40), ("valid", 10))  # of each of two captions


def test_captions_without_a_word_are_no_lesson_and_counted(tmp_path, monkeypatch):
    """Fails without `_with_words`: half of the pictures teach the empty caption."""
    log = Mock()
    monkeypatch.setattr(captioner, "log", log)
    options = OPTIONS.model_copy(update={"kind": {**SMALL, "normalization": "seed"}})
    snapshot = write_snapshot(tmp_path, language_rows("一只猫", "a red thing of seven whole words"))
    material = material_of(snapshot, CAPTIONER, options, tmp_path)
    task = captioner.make_task(material)
    assert len(task.train) == len(task.train.targets) == 40
    assert bool((task.train.inputs[:, 1] == 1).all())
    assert not bool((task.train.targets[:, 0] == task.model.vocabulary.stop).any())
    told = {(c.args[0], *c.kwargs.values()) for c in log.warning.call_args_list}
    assert told == {
        *(("captions without a word are passed over", fold, n) for fold, n in COUNTS),
        *(("captions are cut to max_length", fold, n) for fold, n in COUNTS),
    }


def test_only_captions_without_a_word_name_the_remedy(tmp_path):
    snapshot = write_snapshot(tmp_path, language_rows("一只猫"))
    options = OPTIONS.model_copy(update={"kind": {**SMALL, "normalization": "seed"}})
    with pytest.raises(TooLittleData, match="take `unicode`"):
        fit(CAPTIONER, snapshot, options, tmp_path)


def test_same_seed_and_snapshot_give_the_same_version(snapshot, tmp_path):
    torch.manual_seed(1)
    first = fit(CAPTIONER, snapshot, SHORT, tmp_path)
    torch.manual_seed(2)
    again = fit(CAPTIONER, snapshot, SHORT, tmp_path / "elsewhere")
    assert (again.run_id, again.bundle.version) == (first.run_id, first.bundle.version)
    other = fit(CAPTIONER, snapshot, SHORT.model_copy(update={"seed": 1}), tmp_path)
    assert other.run_id != first.run_id
    assert other.bundle.version != first.bundle.version


class Killed(Exception):
    """Stands for the end of the process."""


def killed_in(epoch):
    def progress(now):
        if now.epoch == epoch + 1 or (now.done and now.epoch == epoch):
            raise Killed

    return progress


RESUMED = OPTIONS.model_copy(update={"max_epochs": 4})
KINDS = {"conditional_lm": (CAPTIONER, SMALL), "clip_projection": (PROJECTION, {"dimension": 4})}
TEXTS = Means(encode_texts=encode_texts)


def resumed_with(name):
    model, kind = KINDS[name]
    return model, RESUMED.model_copy(update={"kind": kind})


def fit_with(model, options, snapshot, place):
    return fit(model, snapshot, options, place, means=TEXTS)


@pytest.fixture(scope="module")
def uninterrupted(snapshot, tmp_path_factory):
    """A whole fit of each model."""
    place = tmp_path_factory.mktemp("whole")
    return cache(lambda name: fit_with(*resumed_with(name), snapshot, place))


@pytest.mark.parametrize("name", ["conditional_lm", "clip_projection"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_resumed_fit_equals_the_uninterrupted_one(snapshot, tmp_path, uninterrupted, name, epoch):
    (model, options), whole = resumed_with(name), uninterrupted(name)
    with pytest.raises(Killed):
        fit(
            model,
            snapshot,
            options,
            tmp_path / "b",
            means=TEXTS,
            progress=killed_in(epoch),
        )
    resumed = fit(model, snapshot, options, tmp_path / "b", resume=True)
    assert resumed.bundle.version == whole.bundle.version
    assert resumed.bundle.weights == whole.bundle.weights
    for mine, theirs in zip(resumed.history, whole.history, strict=True):
        assert (mine["train_loss"], mine["valid_loss"]) == (
            theirs["train_loss"],
            theirs["valid_loss"],
        )


def test_damaged_checkpoint_is_refused_with_the_remedy(snapshot, tmp_path, mine):
    path = mine.directory / CHECKPOINT
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:-10] + b"\x00" * 10, b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidCheckpoint, match="without --resume"):
            fit(CAPTIONER, snapshot, SHORT, tmp_path, resume=True)
    assert fit(CAPTIONER, snapshot, SHORT, tmp_path).bundle == mine.bundle
    assert load_checkpoint(mine.directory).epoch == len(mine.history)


def test_checkpoint_of_other_options_is_refused_with_the_remedy(snapshot, tmp_path, mine):
    other = fit(CAPTIONER, snapshot, SHORT.model_copy(update={"rate": 0.01}), tmp_path)
    shutil.copy(other.directory / CHECKPOINT, mine.directory / CHECKPOINT)
    with pytest.raises(InvalidCheckpoint, match="another run; fit again without --resume"):
        fit(CAPTIONER, snapshot, SHORT, tmp_path, resume=True)


@pytest.mark.parametrize("part", ["weights", "moments", "history"])
def test_checkpoint_of_another_release_is_refused_with_the_remedy(snapshot, tmp_path, mine, part):
    """A release may name or shape the tensors of a model in another way."""
    checkpoint = load_checkpoint(mine.directory)
    found = getattr(checkpoint, part)
    if part == "history":
        other = tuple({"old": value} for value in found)
    else:
        other = {f"0.old_{name}": tensor for name, tensor in found.items()}
    save_checkpoint(mine.directory, replace(checkpoint, **{part: other}))
    with pytest.raises(InvalidCheckpoint, match="another release"):
        fit(CAPTIONER, snapshot, SHORT, tmp_path, resume=True)


def test_a_run_is_fitted_by_one_process_at_a_time(snapshot, tmp_path):
    """Fails without `held`: the second fit empties the directory that the first one writes to."""
    refused = []

    def meanwhile(_):
        if not refused:
            with pytest.raises(TrainerError, match="another fit is at work") as raised:
                fit(CAPTIONER, snapshot, SHORT, tmp_path)
            refused.append(str(raised.value))

    result = fit(CAPTIONER, snapshot, SHORT, tmp_path, progress=meanwhile)
    assert "\n" not in refused[0]
    assert from_directory(result.directory / BUNDLE) == result.bundle
    again = fit(CAPTIONER, snapshot, SHORT, tmp_path)
    assert again.bundle == result.bundle


@pytest.mark.parametrize("file", [f".{CHECKPOINT}", HISTORY, RUN])
def test_what_cannot_be_written_is_one_line_with_the_remedy(snapshot, tmp_path, mine, file):
    """Fails without `writing`: an internal error, or one of safetensors."""
    place = mine.directory
    for path in (CHECKPOINT, file):
        (place / path).unlink(missing_ok=True)
    if file == f".{CHECKPOINT}":  # safetensors replaces a link
        (place / file).mkdir()
    else:
        (place / file).symlink_to("/dev/full")
    reason = r"\((No space left on device|.*Is a directory.*)\): make room"
    with pytest.raises(TrainerError, match=reason) as raised:
        fit(CAPTIONER, snapshot, SHORT, tmp_path, resume=True)
    assert "\n" not in str(raised.value)


def test_fit_ends_when_the_validation_loss_gets_no_better(tmp_path):
    """What is learned by heart helps no other image: captions are drawn by lot."""
    generator = np.random.default_rng(0)
    rows = [
        replace(row, captions=(" ".join(generator.permutation(["one", "two", "three", "four"])),))
        for row in colour_rows(60)
    ]
    kind = {**SMALL, "hidden": 32}
    options = OPTIONS.model_copy(update={"max_epochs": 80, "patience": 3, "kind": kind})
    result = fit(CAPTIONER, write_snapshot(tmp_path, rows), options, tmp_path)
    assert len(result.history) == result.best_epoch + 3
    assert len(result.history) < 80
    again = fit(CAPTIONER, result_snapshot(tmp_path), options, tmp_path, resume=True)
    assert again.bundle == result.bundle
    assert len(again.history) == len(result.history)


def result_snapshot(directory):
    from trainer.snapshot.files import find_snapshot  # noqa: PLC0415

    return find_snapshot(directory, "latest")


def test_projection_brings_captions_to_their_images(snapshot, tmp_path):
    options = OPTIONS.model_copy(update={"kind": {"dimension": 4}})
    calls = []

    def counted(texts):
        calls.append(len(texts))
        return encode_texts(texts)

    result = fit(PROJECTION, snapshot, options, tmp_path, means=Means(encode_texts=counted))
    assert calls == [300]
    assert result.history[-1]["valid_loss"] < result.history[0]["valid_loss"]
    assert 0 < result.bundle.manifest.metrics["valid_recall_at_5"] <= 1
    assert projection.from_bundle(result.bundle).dimension_out == 4
    with pytest.raises(TrainerError, match="text tower"):
        fit(PROJECTION, snapshot, options, tmp_path / "other")


def test_recall_of_a_projection_that_makes_everything_alike_is_nothing():
    alike = Examples(inputs=torch.ones(20, 4), targets=torch.ones(20, 4), offsets=torch.arange(21))
    task = Task(model=projector.SharedProjection(4, 3, seed=0), train=alike, valid=alike)
    found = projector.at_end(task.model, task, OPTIONS)
    assert found == {"valid_recall_at_1": 0.0, "valid_recall_at_5": 0.0}


def test_recall_is_the_share_of_captions_with_few_images_before_their_own():
    """More captions than are compared in one go, against a literal count."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(600, 16, generator=generator)
    targets = vectors + 0.8 * torch.randn(600, 16, generator=generator)
    paired = Examples(inputs=vectors, targets=targets, offsets=torch.arange(601))
    task = Task(model=projector.SharedProjection(16, 8, seed=0), train=paired, valid=paired)
    with torch.inference_mode():
        cosines = task.model.similarities(vectors, targets).numpy()
    ranks = [sum(cosines[:, text] >= cosines[text, text]) for text in range(600)]
    found = projector.at_end(task.model, task, OPTIONS)
    assert 0.1 < found["valid_recall_at_1"] < found["valid_recall_at_5"] < 0.9
    for k in (1, 5):
        wanted = sum(rank <= k for rank in ranks) / 600
        assert found[f"valid_recall_at_{k}"] == pytest.approx(wanted, abs=2 / 600)


def test_too_little_to_learn_from_is_said(tmp_path):
    rows = list(colour_rows(20))
    only = [row for row in rows if row.fold == "train"]
    with pytest.raises(TooLittleData, match="`valid`"):
        fit(CAPTIONER, write_snapshot(tmp_path / "a", only), OPTIONS, tmp_path)
    rare = write_snapshot(tmp_path / "b", rows)
    with pytest.raises(TooLittleData, match="lower min_count"):
        fit(
            CAPTIONER,
            rare,
            OPTIONS.model_copy(update={"kind": {**SMALL, "min_count": 99}}),
            tmp_path,
        )


def test_unknown_model_and_lost_snapshot_are_said(tmp_path):
    snapshot = write_snapshot(tmp_path, colour_rows(20))
    for name in ("clip", "nonesuch"):
        with pytest.raises(ModelNotFound, match="choose one of clip_projection, conditional_lm"):
            model_of(DEFAULT, name)
    shutil.rmtree(snapshot.directory)
    with pytest.raises(InvalidSnapshot):
        fit(CAPTIONER, snapshot, OPTIONS, tmp_path)


def test_loss_that_is_no_number_ends_the_fit(snapshot, tmp_path):
    with pytest.raises(TrainerError, match="--rate"):
        fit(CAPTIONER, snapshot, OPTIONS.model_copy(update={"rate": 1e30}), tmp_path)
