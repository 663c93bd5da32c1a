"""Photographs to measure with: those of a directory, or made ones of the same size and weight."""

import io
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

#: COCO photographs, if they lie beside the repository.
SHARED = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
_MADE = 160


@dataclass(frozen=True)
class Photographs:
    """Encoded JPEG files.

    Attributes:
        images: Their bytes.
        source: `directory`, or `generated`.
    """

    images: list[bytes]
    source: str

    @property
    def mean_bytes(self) -> float:
        """Size of one, on average."""
        return sum(map(len, self.images)) / len(self.images)

    @property
    def report(self) -> dict[str, object]:
        """What was measured with, for a bench's JSON."""
        kilobytes = round(self.mean_bytes / 1000)
        return {"count": len(self.images), "source": self.source, "mean_kb": kilobytes}


def photographs(directory: Path) -> Photographs:
    """Return the JPEG files below a directory, or 160 made ones of 640 x 480 and about 150 kB."""
    files = sorted(directory.rglob("*.jpg")) if directory.is_dir() else []
    if files:
        return Photographs([file.read_bytes() for file in files], "directory")
    generator = random.Random(0)  # noqa: S311 - pictures, no secret
    return Photographs([_made(generator) for _ in range(_MADE)], "generated")


def _made(generator: random.Random) -> bytes:
    """Noise that is coarser than a pixel: as many bytes as a photograph of that size."""
    noise = Image.frombytes("RGB", (160, 120), generator.randbytes(160 * 120 * 3))
    data = io.BytesIO()
    noise.resize((640, 480), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    return data.getvalue()
