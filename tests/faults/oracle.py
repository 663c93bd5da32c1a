"""What must hold for every live document, whatever died: outputs of its current image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pymongo.collection import Collection

from streams.documents import decode_vector, fingerprint
from streams.models import conditional_lm, projection
from streams.models.clip import ClipEncoder
from streams.models.image import decode_image
from streams.registry import Registry
from streams.settings import ClipSettings, ImageSettings


class Oracle:
    """Recomputes outputs with the serving versions and compares."""

    def __init__(self, registry: Registry, clip: ClipSettings) -> None:
        serving = registry.serving().versions
        self._versions = serving
        self._clip = ClipEncoder(clip)
        self._project = projection.from_bundle(
            registry.fetch("clip_projection", serving["clip_projection"])
        )
        self._caption = conditional_lm.from_bundle(
            registry.fetch("conditional_lm", serving["conditional_lm"])
        )

    def problems(self, documents: Collection[dict[str, Any]]) -> Iterator[str]:
        """Yield one line for each document whose outputs are not those of its image."""
        for document in documents.find():
            problem = self._problem(document)
            if problem:
                yield f"{document['_id']}: {problem}"

    def _problem(self, document: dict[str, Any]) -> str | None:
        outputs = document.get("_outputs", {})
        made = {**outputs.get("img", {}), **outputs.get("_base", {})}
        digest = fingerprint(document["img"])
        for model, version in self._versions.items():
            stored = made.get(model, {})
            if (stored.get("version"), stored.get("input")) != (version, digest):
                return f"{model} is of {stored.get('version')}, input {stored.get('input')}"
        with torch.inference_mode():
            image = self._clip.preprocess(decode_image(document["img"], ImageSettings()))
            vector = decode_vector(made["clip"]["value"])
            if not np.allclose(vector, self._clip.encode(image.unsqueeze(0))[0], atol=1e-4):
                return "clip is not that of the image"
            features = torch.from_numpy(vector.copy()).unsqueeze(0)
            projected = decode_vector(made["clip_projection"]["value"])
            if not np.allclose(projected, self._project(features)[0].numpy(), atol=1e-4):
                return "clip_projection is not that of the stored clip"
            [caption] = self._caption.generate(features)
        if caption.text != made["conditional_lm"]["value"]:
            return f"caption is {made['conditional_lm']['value']!r}, not {caption.text!r}"
        return None
