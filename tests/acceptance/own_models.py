"""Three models of a user, as a package outside of this repository. Nothing of ours is in it."""

from pathlib import Path

SOURCE = '''
import numpy as np
import torch


class DominantColour:
    """Reads the image; makes JSON."""

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image.resize((8, 8)), dtype=np.float32))

    def forward(self, pixels):
        return pixels.mean(dim=(1, 2))

    def postprocess(self, colour):
        names = ("red", "green", "blue")
        return {"name": names[int(colour.argmax())], "mean": [round(float(c)) for c in colour]}


class Halves(torch.nn.Module):
    """Reads a vector; makes a vector."""

    def __init__(self, dimension=32, scale=0.5):
        super().__init__()
        self.linear = torch.nn.Linear(dimension, 4, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(dimension)[:4] * scale)

    def forward(self, vectors):
        return self.linear(vectors)


class Label:
    """Reads both, and a field of the document as it stands; makes a text."""

    def __init__(self, shout=False):
        self.shout = shout

    def preprocess(self, document):
        first = float(document["halves"][0])
        text = f"{document['title']}: {document['colour']['name']} {first:.3f}"
        return text.upper() if self.shout else text

    def forward(self, texts):
        return texts
'''

DECLARED = """
- {name: tint, kind: "shop_models:DominantColour", key: img}
- {name: halves, kind: "shop_models:Halves", key: img, features: {img: clip}}
- name: label
  kind: "shop_models:Label"
  features: {halves: halves, colour: tint}
  fields: [title]
"""


def write_package(directory: Path) -> Path:
    """Write the package; return what belongs on PYTHONPATH."""
    (directory / "shop_models.py").write_text(SOURCE)
    return directory
