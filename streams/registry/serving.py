"""Which versions serve and whether each fits what it reads: from pointers and versions. Pure."""

from collections.abc import Mapping

from streams.contract.declaration import Declaration
from streams.contract.pipeline import Pipeline
from streams.contract.states import Recaption, Serving
from streams.contract.versions import VersionInfo, output_version
from streams.registry.pointers import FoundPointers


def serving_of(
    pipeline: Pipeline, found: FoundPointers, infos: Mapping[str, VersionInfo]
) -> Serving:
    """Return what serves.

    After a refusal the version before serves on, and what is stored stays. A model whose pointer or
    manifest cannot be read, or is of another kind than it is declared, has no version that serves;
    the others are not touched by that.

    Args:
        pipeline: What is declared; other models have nothing to do with it.
        found: The pointers of all models.
        infos: The version that really serves, of each model that has one.
    """
    pointers = {name: p for name, p in found.readable.items() if name in pipeline.models}
    infos = {name: info for name, info in infos.items() if name in pipeline.models}
    refused = {name: p.refusal for name, p in pointers.items() if p.refusal is not None}
    problems = {name: why for name, why in found.problems.items() if name in pipeline.models}
    problems |= {
        name: f"{pointers[name].version} is refused: {refusal.reason}"
        for name, refusal in refused.items()
    }
    versions = {name: p.serving for name, p in pointers.items() if p.serving is not None}
    for name, info in infos.items():
        problem = info.problem or _other_kind(info, pipeline.models[name].declaration)
        if problem:
            problems.setdefault(name, f"{versions.pop(name)} cannot serve: {problem}")
    infos = {name: info for name, info in infos.items() if name in versions}
    recaption = {
        name: Recaption.NONE if name in refused else pointers[name].recaption for name in versions
    }
    return Serving(
        pipeline=pipeline,
        versions={
            name: output_version(pipeline.models[name].declaration, version)
            for name, version in versions.items()
        },
        requires=_requires(infos),
        misfits=frozenset(name for name, info in infos.items() if _is_misfit(info, infos)),
        recaption=recaption,
        problems=problems,
    )


def _other_kind(info: VersionInfo, declaration: Declaration) -> str:
    if info.manifest is None or info.manifest.kind == declaration.kind:
        return ""
    return (
        f"it is of kind {info.manifest.kind!r}, {info.name} is declared as {declaration.kind!r};"
        " promote a version of that kind, or declare the other one again"
    )


def _requires(infos: Mapping[str, VersionInfo]) -> dict[str, dict[str, str]]:
    return {
        name: {read: f.version for read, f in info.manifest.features.items() if f.version}
        for name, info in infos.items()
        if info.manifest is not None
    }


def _is_misfit(info: VersionInfo, infos: Mapping[str, VersionInfo]) -> bool:
    """Whether a version reads vectors of another length than a model makes that serves."""
    features = info.manifest.features.items() if info.manifest is not None else ()
    lengths = ((f.dimension, infos[name].dimension) for name, f in features if name in infos)
    return any(None not in pair and pair[0] != pair[1] for pair in lengths)
