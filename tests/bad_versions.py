"""Versions in a registry that every process has to refuse."""

import math

from streams.contract.manifest import Bundle, Feature
from streams.models.bundle import make_bundle, tensors_of
from streams.models.projection import orthogonal_projection
from streams.registry.versions import Registry
from tests.bundles import projection_bundle
from tests.captioner import tiny_captioner

NAME = "conditional_lm"


def publish_bad_versions(registry: Registry, database, clip_version: str) -> dict[str, str]:
    """Publish five captioners that must not serve; return their versions by what is wrong."""
    seeds = iter(range(900, 910))

    def good() -> Bundle:
        return tiny_captioner(seed=next(seeds), clip_version=clip_version)

    def changed(**fields) -> str:
        bundle = good()
        manifest = bundle.manifest.model_copy(update=fields)
        return registry.publish(Bundle(manifest=manifest, weights=bundle.weights))

    words = good().manifest.vocabulary
    return {
        "NaN": registry.publish(_with_nan(good())),
        "golden input": changed(vocabulary=[*reversed(words[:-1]), words[-1]]),
        "the version was made for depth": changed(features={"depth": Feature(dimension=32)}),
        "sha256": _flip_a_byte(registry, database, registry.publish(good())),
        "is that of clip_projection": _of_another_model(registry, database),
    }


def _with_nan(bundle: Bundle) -> Bundle:
    tensors = tensors_of(bundle)
    tensors["prediction.bias"][0] = math.nan
    return make_bundle(tensors, **bundle.manifest.model_dump(exclude={"parts"}))


def _flip_a_byte(registry: Registry, database, version: str) -> str:
    file_id = database["model_versions"].find_one({"version": version})["file_id"]
    chunk = database["model_files.chunks"].find_one({"files_id": file_id})
    data = chunk["data"][:-1] + bytes([chunk["data"][-1] ^ 1])
    database["model_files.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": data}})
    return version


def _of_another_model(registry: Registry, database) -> str:
    version = registry.publish(projection_bundle(orthogonal_projection(4, 2, seed=9)))
    row = database["model_versions"].find_one({"version": version})
    row |= {"_id": f"{NAME}/{version}", "name": NAME}
    database["model_versions"].replace_one({"_id": row["_id"]}, row, upsert=True)
    return version
