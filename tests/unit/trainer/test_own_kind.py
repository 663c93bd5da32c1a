"""A user's kind in a package of its own: fitted, measured, compared and loaded as a stage would."""

import sys
import textwrap

import numpy as np
import pytest

from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline
from streams.errors import InvalidPipeline, InvalidSnapshot, SettingsError, TrainerError
from streams.models.bundle import from_directory
from streams.models.kinds.find import load
from streams.models.kinds.items import item_of
from tests.unit.trainer.snapshots import CAPTIONER, CLIP, WORDS, colour_rows, write_snapshot
from trainer.evaluate.evaluate import evaluate_bundle
from trainer.evaluate.measuring import Measuring
from trainer.fit.fit import BUNDLE, fit
from trainer.fit.kinds import can_be_fitted, learned_by, plugs_of
from trainer.fit.options import FitOptions
from trainer.snapshot.columns import Reads, field_column, to_json
from trainer.snapshot.validation_set import Entry, ValidationSet

TONE = '''
import torch

class Tone(torch.nn.Module):
    """Says of a picture and its title how bright it is, and that in words."""

    trainer = "tone_of_pictures.training"

    def __init__(self, size=8):
        super().__init__()
        self.inner = torch.nn.Linear(size, 16)
        self.drop = torch.nn.Dropout(0.1)
        self.outer = torch.nn.Linear(17, 1)

    def preprocess(self, item):
        return {"vector": item["img"], "length": torch.tensor([len(item["title"]) / 10.0])}

    def forward(self, batch):
        seen = self.drop(torch.relu(self.inner(batch["vector"])))
        return self.outer(torch.cat([seen, batch["length"]], dim=1)).squeeze(1)

    def postprocess(self, output):
        return {"tone": float(output)}


class Mute(Tone):
    trainer = None
'''

TRAINING = """
import torch

learns_from = ("tone",)
decides = "error"
lower_is_better = {"error"}
must_not_fall = ("close",)
at_most = {"failed": 0.2}

def target(document):
    return document.get("tone")

def loss(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets.float())

def metrics(values, targets):
    errors = [abs(value["tone"] - wanted[0]) for value, wanted in zip(values, targets)]
    return {"error": sum(errors) / len(errors), "close": sum(e < 0.2 for e in errors) / len(errors)}

def negated(document):
    tone = document.get("tone")
    return None if tone is None else -tone

def first_half(examples, *, seed, epoch):
    index = torch.arange(len(examples) // 2)
    return index, examples.offsets[index]

def twice(outputs, targets):
    return 2 * loss(outputs, targets)

def broken(*_):
    raise ValueError("nothing works")
"""

PACKAGE = "tone_of_pictures"
OPTIONS = FitOptions(batch_size=16, rate=0.01, max_epochs=8)


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """The user's package, outside of this repository."""
    place = tmp_path / "site" / PACKAGE
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    (place / "model.py").write_text(textwrap.dedent(TONE))
    (place / "training.py").write_text(textwrap.dedent(TRAINING))
    monkeypatch.syspath_prepend(place.parent)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def pipeline_with(name="Tone", **options):
    tone = Declaration(
        name="tone",
        kind=f"{PACKAGE}.model:{name}",
        features={"img": "clip"},
        fields=("title",),
        options=options,
    )
    return compile_pipeline([*DEFAULT.declarations, tone])


def values_of(row):
    """The tone of a colour, and a title that says nothing."""
    tone = float(np.argmax(row.values[CLIP])) / len(WORDS)
    title = "x" * (int(row.id) % 7)
    return {
        **row.values,
        field_column("title"): to_json(title),
        field_column("tone"): to_json(tone),
    }


def tone_rows(count=120):
    for row in colour_rows(count):
        values = values_of(row)
        if int(row.id) % 10 == 3:  # a document may lack a field
            values.pop(field_column("title" if int(row.id) % 20 == 3 else "tone"))
        yield type(row)(id=row.id, fold=row.fold, captions=row.captions, values=values)


@pytest.fixture
def snapshot(tmp_path):
    pipeline = pipeline_with()
    reads = Reads(pipeline=pipeline, learned=learned_by(pipeline))
    return write_snapshot(tmp_path, tone_rows(), reads=reads)


@pytest.fixture
def tone():
    return pipeline_with().models["tone"]


def frozen(*, count=40):
    entries = tuple(
        Entry(id=row.id, captions=row.captions, values=values_of(row)) for row in colour_rows(count)
    )
    return ValidationSet(
        name="v", seed=0, versions={"clip": "clip-test"}, digest="d" * 16, entries=entries
    )


def evaluation_of(bundle, model, validation_set=None, **named):
    validation_set = validation_set or frozen()
    measuring = Measuring(
        model=model, validation_set=validation_set, plugs=plugs_of(model, named), batch_size=16
    )
    return evaluate_bundle(bundle, measuring)


def test_it_learns_is_measured_and_serves_from_its_bundle(snapshot, tone, tmp_path):
    result = fit(tone, snapshot, OPTIONS, tmp_path)
    losses = [done["valid_loss"] for done in result.history]
    assert losses[-1] < losses[0] / 2
    bundle = from_directory(result.directory / BUNDLE)
    assert bundle.manifest.kind == tone.declaration.kind
    assert bundle.manifest.features["clip"].version == "clip-test"
    assert bundle.manifest.snapshot_id == snapshot.manifest.snapshot_id
    found = evaluation_of(bundle, tone)
    assert found.metrics["n"] == 40
    assert found.metrics["failed"] == 0
    predictor = load(tone.declaration, bundle)
    entries = [values_of(row) for row in colour_rows(40)]
    items = [
        predictor.preprocess(item_of(tone.declaration, {"img": v[CLIP], "title": "x" * (n % 7)}))
        for n, v in enumerate(entries)
    ]
    made = [result.value["tone"] for result in predictor.predict(items)]
    wanted = [np.argmax(v[CLIP]) / len(WORDS) for v in entries]
    errors = np.abs(np.array(made) - wanted)
    assert found.metrics["error"] == pytest.approx(errors.mean(), abs=1e-4)
    assert found.metrics["loss"] == pytest.approx((errors**2).mean(), abs=1e-4)
    assert (found.rules.decides, found.rules.must_not_fall) == ("error", ("close",))
    assert found.rules.lower_is_better == {"error", "loss"}


def test_several_models_are_fitted_on_one_snapshot(snapshot, tone, tmp_path):
    small = {"min_count": 2, "hidden": 16, "max_length": 6}
    options = OPTIONS.model_copy(update={"max_epochs": 2, "kind": small})
    captioner = fit(CAPTIONER, snapshot, options, tmp_path)
    own = fit(tone, snapshot, OPTIONS.model_copy(update={"max_epochs": 2}), tmp_path)
    ids = {captioner.bundle.manifest.snapshot_id, own.bundle.manifest.snapshot_id}
    assert ids == {snapshot.manifest.snapshot_id}
    assert snapshot.manifest.models["conditional_lm"] == snapshot.manifest.folds
    assert sum(snapshot.manifest.models["tone"].values()) == 114  # 6 of 120 have no title


class Killed(Exception):
    """Stands for the end of the process."""


def test_resumed_fit_with_dropout_equals_the_uninterrupted_one(snapshot, tone, tmp_path):
    """Fails without `Fitting._seeded`: what the model draws depended on how far a process was."""
    options = OPTIONS.model_copy(update={"max_epochs": 4})
    whole = fit(tone, snapshot, options, tmp_path / "a")

    def killed(now):
        if now.done and now.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(tone, snapshot, options, tmp_path / "b", progress=killed)
    resumed = fit(tone, snapshot, options, tmp_path / "b", resume=True)
    assert resumed.bundle.version == whole.bundle.version


def test_plugs_can_be_named(snapshot, tone, tmp_path):
    options = OPTIONS.model_copy(update={"max_epochs": 1})

    def fitted(**named):
        plugs = {plug: f"{PACKAGE}.training:{name}" for plug, name in named.items()}
        return fit(tone, snapshot, options.model_copy(update={"plugs": plugs}), tmp_path)

    usual, doubled = fitted(), fitted(loss="twice")
    assert doubled.history[0]["valid_loss"] > 1.5 * usual.history[0]["valid_loss"]
    assert doubled.run_id != usual.run_id
    assert fitted(splitter="first_half").history[0]["step"] < usual.history[0]["step"]
    negated = fitted(target="negated")
    assert negated.bundle.version != usual.bundle.version
    other = evaluation_of(negated.bundle, tone, target=f"{PACKAGE}.training:negated")
    assert other.metrics["loss"] != evaluation_of(negated.bundle, tone).metrics["loss"]
    with pytest.raises(TrainerError, match="the target broken failed"):
        fitted(target="broken")
    with pytest.raises(TrainerError, match=r"broken failed .*: it returns a dict"):
        evaluation_of(usual.bundle, tone, metrics=f"{PACKAGE}.training:broken")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("__main__:loss", "put it into a package"),
        ("nonesuch:loss", "PYTHONPATH"),
        (f"{PACKAGE}.training:nonesuch", "PYTHONPATH"),
    ],
)
def test_plug_that_cannot_be_imported_names_the_remedy(tone, name, words):
    with pytest.raises(TrainerError, match=words) as raised:
        plugs_of(tone, {"loss": name})
    assert "\n" not in str(raised.value)


def test_class_that_says_no_loss_is_told_how(snapshot, tmp_path):
    mute = pipeline_with("Mute").models["tone"]
    target = f"{PACKAGE}.training:target"
    options = OPTIONS.model_copy(update={"plugs": {"target": target}})
    with pytest.raises(TrainerError, match=r"--loss package\.module:function"):
        fit(mute, snapshot, options, tmp_path)
    named = options.model_copy(
        update={"plugs": {"target": target, "loss": f"{PACKAGE}.training:loss"}, "max_epochs": 1}
    )
    bundle = fit(mute, snapshot, named, tmp_path).bundle
    assert "loss" in evaluation_of(bundle, mute, **named.plugs).metrics
    assert "loss" not in evaluation_of(bundle, mute, target=target).metrics


def test_what_its_kind_cannot_be_told_is_refused(snapshot, tone, tmp_path):
    with pytest.raises(SettingsError, match="stand in the model's declaration"):
        fit(tone, snapshot, OPTIONS.model_copy(update={"kind": {"size": 4}}), tmp_path)
    wrong = pipeline_with(nonesuch=1).models["tone"]
    with pytest.raises(TrainerError, match="cannot be made with the options"):
        fit(wrong, snapshot, OPTIONS, tmp_path)
    missing = pipeline_with("Nonesuch").models["tone"]
    with pytest.raises(InvalidPipeline, match="no such class"):
        fit(missing, snapshot, OPTIONS, tmp_path)


def test_snapshot_of_another_pipeline_is_refused_with_the_remedy(tone, tmp_path):
    snapshot = write_snapshot(tmp_path, colour_rows(20))
    with pytest.raises(InvalidSnapshot, match=r"'title', which tone reads: .* take another"):
        fit(tone, snapshot, OPTIONS, tmp_path)


def test_documents_that_it_fails_at_are_counted_and_passed_over(snapshot, tone, tmp_path):
    bundle = fit(tone, snapshot, OPTIONS.model_copy(update={"max_epochs": 1}), tmp_path).bundle
    first, *others = frozen().entries
    odd = Entry(
        id=first.id,
        captions=first.captions,
        values={**first.values, field_column("title"): to_json(5)},
    )
    validation_set = ValidationSet(
        name="v", seed=0, versions={"clip": "clip-test"}, digest="", entries=(odd, *others)
    )
    found = evaluation_of(bundle, tone, validation_set)
    assert found.metrics["failed"] == 1 / 40


def test_model_that_reads_images_cannot_be_fitted():
    root = Declaration(name="colour", kind=f"{PACKAGE}.model:Tone", key="img")
    assert not can_be_fitted(compile_pipeline([root]).models["colour"])
