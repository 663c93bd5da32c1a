"""Report pages: well formed, complete in themselves, and safe with any text."""

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from streams.errors import SettingsError
from tests.fitted import SCENES, fitted_bundle, measuring, scene_set
from trainer.evaluate.evaluate import evaluate_bundle
from trainer.evaluate.evaluation import Evaluation
from trainer.fit.rules import Rules
from trainer.report.curve import Series, curve, ticks
from trainer.report.evaluation_page import evaluation_page, metric_rows
from trainer.report.gallery import Picture, gallery
from trainer.report.page import Section, Tile, page, table, tiles, write_page
from trainer.report.training import read_history, training_section

EVIL = '<script>alert("x")</script>&\'"><img src=x onerror=y>'
VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Fails on tags that do not nest; keeps tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def png(width, height):
    data = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def evaluation():
    return evaluate_bundle(fitted_bundle(20), measuring())


def images():
    pairs = zip(scene_set().entries, SCENES, strict=True)
    return {entry.id: scene.png() for entry, scene in pairs}


def test_evaluation_page_holds_everything_itself(evaluation):
    history = [{"epoch": 1, "train_loss": 2.0, "valid_loss": 3.0}]
    found = parsed(evaluation_page(evaluation, version="v1", images=images(), history=history))
    assert found.tags.count("img") == len(SCENES)
    assert "script" not in found.tags
    assert "link" not in found.tags
    addresses = [value for name, value in found.attributes if name in ("src", "href")]
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    said = " ".join(found.texts)
    for caption in evaluation.captions:
        assert caption.text in said
    verdicts = [caption.is_right for caption in evaluation.captions]
    assert said.count("✓ right") == verdicts.count(True)
    assert said.count("✗ wrong") == verdicts.count(False)
    assert "Only 12 images" in said


def test_missing_and_broken_pictures_leave_a_frame(evaluation):
    some = {evaluation.captions[0].id: b"no image", evaluation.captions[1].id: {"url": "x"}}
    found = parsed(evaluation_page(evaluation, version="v1", images=some))
    assert "img" not in found.tags
    assert found.texts.count("no picture") == len(SCENES)


def test_every_text_is_escaped():
    picture = Picture(image=None, caption=EVIL, references=(EVIL, EVIL), detail=EVIL)
    sections = [
        Section(title=EVIL, note=EVIL, body=tiles([Tile(label=EVIL, value=EVIL, detail=EVIL)])),
        Section(title="t", body=table([{EVIL: EVIL}])),
        Section(title="g", body=gallery([picture])),
        Section(
            title="c",
            body=curve([Series(name=EVIL, points=[(0, 1)])], x_label=EVIL, mark=0, mark_label=EVIL),
        ),
    ]
    found = parsed(page(EVIL, sections, subtitle=EVIL, footer=EVIL))
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert sum(text.count(EVIL) for text in found.texts) >= 16
    evil_image = Picture(image=png(4, 4), caption=EVIL)
    assert ("alt", EVIL) in parsed(gallery([evil_image])).attributes


@pytest.mark.parametrize(
    ("size", "kind"), [((96, 96), "png"), ((161, 20), "jpeg"), ((2000, 1000), "jpeg")]
)
def test_large_pictures_are_made_small(size, kind):
    html = gallery([Picture(image=png(*size), caption="")])
    assert f"data:image/{kind};base64," in html
    assert len(html) < 10_000
    assert ("square" in html) == (size[0] == size[1])


def test_table_marks_numbers_and_keeps_order():
    html = table([{"metric": "loss", "value": 1.5, "n": 1200}, {"metric": "x", "value": 2.0}])
    assert html.index("metric") < html.index("value")
    assert '<td class="number">1.5000</td>' in html
    assert "1,200" in html
    assert "Nothing to show" in table([])


def test_metrics_stand_beside_their_n():
    metrics = {"exact_match": 0.5, "exact_match_n": 10.0, "bleu4": 0.25, "n": 12.0, "own": 1.0}
    rows = metric_rows(metrics)
    assert [(row["metric"], row["value"], row["n"]) for row in rows] == [
        ("Exact match", 0.5, 10),
        ("BLEU-4", 0.25, 12),
        ("own", 1.0, 12),
    ]


def test_curve_is_well_formed_svg_with_a_dot_for_each_finite_point():
    points = [(1, 2.0), (2, float("nan")), (3, 1.0)]
    html = curve([Series(name="a", points=points), Series(name="b", points=[])], x_label="epoch")
    found = parsed(html)
    assert found.tags.count("circle") == 2
    places = [float(value) for name, value in found.attributes if name == "cy"]
    assert places[0] < places[1]  # more is higher
    inside = [float(n) for n in re.findall(r'c[xy]="([\d.]+)"', html)]
    assert all(0 <= place <= 1000 for place in inside)


def test_curve_without_points_says_so():
    assert "nothing to draw" in curve([Series(name="a", points=[])], x_label="x")


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1.2, 4.7), (3, 3), (0, 0), (-5, 1e6), (1e-9, 2e-9)]
)
def test_ticks_are_few_and_hold_the_range(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert all(round(tick) == tick for tick in ticks(low, high, whole=True))


def test_history_tolerates_a_line_cut_short(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1, "train_loss": 2.5, "valid_loss": 3}\n{"epoch": 2, "tra')
    assert [row["epoch"] for row in read_history(path)] == [1]
    assert "best epoch: 1" in training_section(read_history(path)).body
    path.write_text("what\n{}\n")
    with pytest.raises(SettingsError, match="line 1"):
        read_history(path)
    with pytest.raises(SettingsError, match="cannot read"):
        read_history(tmp_path / "absent")


def test_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "page.html"
    write_page(path, "é")
    assert path.read_text(encoding="utf-8") == "é"
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
    with pytest.raises(SettingsError, match="cannot write"):
        write_page(path / "below", "x")


def test_a_projection_has_a_page_without_pictures():
    evaluation = Evaluation(
        model="clip_projection",
        validation_set="scenes",
        digest="d",
        options={},
        rules=Rules(decides="cider"),
        metrics={"recall1": 0.5, "median_rank": 2.0, "n": 500.0},
    )
    found = parsed(evaluation_page(evaluation, version="v1", images={}))
    assert "figure" not in found.tags
    assert "Recall at 1" in " ".join(found.texts)
