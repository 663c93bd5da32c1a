"""Which versions serve, from pointers and what is known of the versions."""

from datetime import UTC, datetime

from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline
from streams.contract.versions import VersionInfo
from streams.models.projection import orthogonal_projection
from streams.registry.pointers import FoundPointers, Pointer
from streams.registry.serving import serving_of
from tests.bundles import projection_bundle

NOW = datetime(2026, 11, 27, tzinfo=UTC)
PROJECTION = "clip_projection"


def pointer(name, version):
    return Pointer(name=name, version=version, revision=1, previous=None, reason="test", at=NOW)


def info(name, version, manifest=None):
    return VersionInfo(
        name=name, version=version, created_at=NOW, manifest=manifest, details={"dimension": 4}
    )


def declared(kind):
    """The default pipeline with a projection of another kind, and one that reads it."""
    clip, projection, captioner = DEFAULT.declarations
    reader = captioner.model_copy(update={"features": {"img": PROJECTION}, "after": ()})
    return compile_pipeline([clip, projection.model_copy(update={"kind": kind}), reader])


def test_version_of_another_kind_does_not_serve_and_the_remedy_is_said():
    """Fails without `_other_kind`: outputs of it would be asked for that nobody can make."""
    manifest = projection_bundle(orthogonal_projection(4, 2, seed=0)).manifest
    pointers = FoundPointers({n: pointer(n, f"{n}1") for n in ("clip", PROJECTION)}, {})
    infos = {
        "clip": info("clip", "clip1"),
        PROJECTION: info(PROJECTION, "clip_projection1", manifest),
    }
    assert set(serving_of(declared("linear"), pointers, infos).versions) == {"clip", PROJECTION}

    serving = serving_of(declared("own:Projection"), pointers, infos)
    assert set(serving.versions) == {"clip"}
    problem = serving.problems[PROJECTION]
    assert problem.startswith("clip_projection1 cannot serve: it is of kind 'linear'")
    assert "declared as 'own:Projection'; promote a version of that kind" in problem
    assert not serving.can_run(serving.pipeline.models[PROJECTION])
    assert serving.can_run(serving.pipeline.models["clip"])
