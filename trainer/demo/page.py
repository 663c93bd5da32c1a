"""The demo's HTML page."""

from collections.abc import Mapping
from itertools import islice

from bson import ObjectId

from trainer.demo.figures import Figures
from trainer.report.gallery import Picture, gallery
from trainer.report.page import Section, Tile, page, table, tiles
from trainer.scenes.judge import is_right
from trainer.scenes.scenes import Scene

_PICTURES = 24


def demo_page(
    figures: Figures, scenes: Mapping[ObjectId, Scene], captions: Mapping[ObjectId, str]
) -> str:
    """Return the page: figures, pictures with captions, and every wrong caption."""
    shown = dict(islice(scenes.items(), _PICTURES))
    wrong = {i: s for i, s in scenes.items() if not is_right(captions.get(i, ""), s)}
    sections = [
        Section(title="In short", body=tiles(_tiles(figures))),
        Section(
            title="Pictures that no fit and no choice ever saw",
            note=f"The first {len(shown)} of {len(scenes)}; nothing was chosen.",
            body=gallery([_picture(i, scene, captions) for i, scene in shown.items()]),
        ),
        Section(
            title="All wrong captions",
            note=f"{len(wrong)} of {len(scenes)}.",
            body=gallery([_picture(i, s, captions) for i, s in islice(wrong.items(), _PICTURES)]),
        ),
        Section(
            title="All figures",
            body=table([{"figure": k, "value": str(v)} for k, v in figures.as_json().items()]),
        ),
    ]
    return page(
        "Captionstream demo",
        sections,
        subtitle="Images into MongoDB, captions out: generated scenes, one machine.",
    )


def _tiles(figures: Figures) -> list[Tile]:
    return [
        Tile(
            label="exactly right",
            value=f"{figures.exact_match:.1%}",
            detail=f"of {figures.scored} unseen scenes",
        ),
        Tile(
            label="captioned",
            value=str(figures.captioned),
            detail=f"of {figures.documents} documents",
        ),
        Tile(
            label="insert to caption",
            value=f"{figures.latency_p50_seconds:.2f} s",
            detail=f"median; p95 {figures.latency_p95_seconds:.2f} s",
        ),
        Tile(
            label="embedded",
            value=f"{figures.documents_per_second:.0f} / s",
            detail="documents of the first wave",
        ),
    ]


def _picture(document_id: ObjectId, scene: Scene, captions: Mapping[ObjectId, str]) -> Picture:
    caption = captions.get(document_id, "")
    return Picture(
        image=scene.png(),
        caption=caption,
        references=scene.captions(),
        is_right=is_right(caption, scene),
        detail=str(document_id),
    )
