"""Classes as a user writes them."""

import threading
from typing import Any

import numpy as np
import torch

from streams.errors import InvalidImage


class Colour:
    """The mean colour of an image, as JSON; no torch anywhere."""

    def preprocess(self, image):
        return np.asarray(image).reshape(-1, 3).mean(axis=0).tolist()

    def postprocess(self, means):
        return dict(zip(("red", "green", "blue"), means, strict=True))


class Halved(torch.nn.Module):
    """A vector of half the length: a module with nothing but `forward`."""

    def __init__(self, dimension: int, factor: int = 1):
        super().__init__()
        self.linear = torch.nn.Linear(dimension, dimension // 2 * factor)
        self.norm = torch.nn.BatchNorm1d(dimension // 2 * factor)  # one weight of it is no float

    def forward(self, vectors):
        return self.norm(self.linear(vectors))


class Headline(torch.nn.Module):
    """A text from everything: two features and a raw field, as a dict."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def preprocess(self, r):
        return {"clip": r["img"], "title": r["title"] or "untitled", "n": len(r["colour"])}

    def forward(self, batch):
        return {"sum": batch["clip"].sum(dim=1) * self.weight, "title": batch["title"]}

    def postprocess(self, r):
        return f"{r['title']}: {r['sum'].item():.1f}"


class Lengths:
    """Works on a list: torch cannot put dates and the like into a batch."""

    def forward(self, batch):
        assert isinstance(batch, list)
        return [len(item["words"]) for item in batch]

    def preprocess(self, words):
        return {"words": None if words is None else words.split(), "at": object()}


class Shout:
    """Is called itself."""

    def __call__(self, texts):
        return [text.upper() for text in texts]


class Picky:
    """Fails in every way, by what it is given."""

    def preprocess(self, text):
        if text == "no image":
            raise InvalidImage(text)
        if text == "bad":
            raise KeyError(text)
        return text

    def forward(self, texts):
        if "batch" in texts:
            msg = "out of memory"
            raise RuntimeError(msg)
        return list(texts)

    def postprocess(self, text) -> Any:
        results = {"nothing": None, "set": {1}, "nan": float("nan")}
        if text == "raises":
            raise ValueError(text)
        return results.get(text, text)


class Uneven:
    """Returns one thing too few."""

    def forward(self, texts):
        return texts[1:]


class Tokens:
    """Tensors of several lengths; remembers the shapes that it was given."""

    def __init__(self):
        self.shapes = []

    def preprocess(self, text):
        return torch.tensor([float(ord(letter)) for letter in text])

    def forward(self, batch):
        self.shapes.append(tuple(batch.shape))
        return batch.mean(dim=1)


class Unsure(torch.nn.Module):
    """Takes no vectors but those of people."""

    def forward(self, vectors):
        msg = "no face found"
        raise ValueError(msg)


class Idle:
    """Can do nothing."""


class IdleModule(torch.nn.Module):
    """Has torch's placeholder for `forward`, which raises."""

    def preprocess(self, item):
        return item


class Extra(torch.nn.Module):
    """Keeps something in its state that is no tensor."""

    def forward(self, batch):
        return batch

    def get_extra_state(self):
        return {"words": ["a"]}


class Tied(torch.nn.Module):
    """Two names of one weight, as language models have them."""

    def __init__(self, dimension: int, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.one = torch.nn.Linear(dimension, dimension, bias=False)
        self.two = torch.nn.Linear(dimension, dimension, bias=False)
        self.two.weight = self.one.weight

    def forward(self, vectors):
        return self.two(self.one(vectors)) * self.scale


class Inner:
    """A plain object around a module."""

    def __init__(self):
        self.net = torch.nn.Linear(4, 2)

    def state_dict(self):
        return self.net.state_dict()

    def load_state_dict(self, state):
        self.net.load_state_dict(state)

    def forward(self, vectors):
        return self.net(vectors)


class Twice:
    """Reads an image, and what another model made of it."""

    def preprocess(self, r):
        return [r["img"].width, len(r["v"])]

    def forward(self, sizes):
        return torch.stack(sizes, dim=1).float()


class Locked:
    """Cannot be copied, only made."""

    def __init__(self, words: list[str]):
        self.lock = threading.Lock()
        self.words = words
        words.append("changed")

    def forward(self, texts):
        return [self.words for _ in texts]
