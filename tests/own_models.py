"""Models of a user for tests, and a pipeline of them: a root, a reader of a vector, and a join."""

import numpy as np
import torch

from streams.contract.declaration import Declaration
from streams.contract.pipeline import compile_pipeline
from streams.errors import DocumentError, InvalidImage
from streams.models.kinds.find import kind_of
from tests.tiny import DIMENSION


class NoTitle(DocumentError):
    """The document has none."""


class Colour:
    """The mean colour of an image, as JSON."""

    def preprocess(self, image):
        if image.width < 2:
            msg = "one column has no colour"
            raise InvalidImage(msg)
        return np.asarray(image, dtype=np.float64).reshape(-1, 3).mean(axis=0).tolist()

    def postprocess(self, mean):
        red, green, blue = mean
        return {"red": red, "others": [green, blue]}


class Halves(torch.nn.Module):
    """Half of the first numbers of a vector, as a vector."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((4,), 0.5))

    def forward(self, vectors):
        return vectors[:, :4] * self.weight


class Label:
    """A text of both, and of a field as it stands; fails with a whole batch for one title."""

    def preprocess(self, document):
        if document["title"] is None:
            msg = "there is no title"
            raise NoTitle(msg)
        first = float(document["halves"][0])
        return f"{document['title']}: {document['colour']['red']:.0f} {first:.3f}"

    def forward(self, texts):
        if any(text.startswith("poison") for text in texts):
            msg = "poisoned"
            raise RuntimeError(msg)
        return texts


def own(name, **declared):
    """Return the declaration of the model that a class here is."""
    return Declaration(name=name, kind=f"{__name__}:{name.title()}", **declared)


OWN = compile_pipeline(
    [
        Declaration(name="clip", kind="clip", key="img"),
        own("colour", key="img"),
        own("halves", key="img", features={"img": "clip"}),
        own("label", features={"halves": "halves", "colour": "colour"}, fields=("title",)),
    ]
)
#: Those that are classes here, upstream first.
OWN_NAMES = ("colour", "halves", "label")


def serve_own_models(registry):
    """Publish a version of each class, and let it serve."""
    for name in OWN_NAMES:
        declaration = OWN.models[name].declaration
        bundle = kind_of(declaration.kind).default_bundle(declaration, {"clip": DIMENSION})
        registry.promote(name, registry.publish(bundle), reason="test")
