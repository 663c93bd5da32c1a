"""Imports flow one way, and the trainer stays free of the streaming stack."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A module may import only what stands above it. A package stands for everything in it.
LAYERS = (
    "streams",
    "streams.errors",
    "streams.settings",
    "streams.reference",
    "streams.roles",
    "streams.ids",
    "streams.folds",
    "streams.documents",
    "streams.states",
    "streams.events",
    "streams.wire",
    "streams.kafka_security",
    "streams.kafka_clients",
    "streams.topics",
    "streams.metrics",
    "streams.following",
    "streams.offsets",
    "streams.topic_log",
    "streams.logs",
    "streams.endpoints",
    "streams.models",
    "streams.decoding",
    "streams.fetching",
    "streams.mongo",
    "streams.state_index",
    "streams.writes",
    "streams.no_room",
    "streams.store",
    "streams.rehearsal",
    "streams.pointers",
    "streams.versions",
    "streams.serving",
    "streams.registry",
    "streams.seeded_projection",
    "streams.hot_model",
    "streams.computations",
    "streams.on_demand",
    "streams.processes",
    "streams.coco",
    "streams.capture",
    "streams.status",
    "streams.dead_letters",
    "streams.dead_letter_log",
    "streams.dead_letter_replay",
    "streams.told_errors",
    "streams.recompute",
    "streams.verify",
    "streams.stages",
    "streams.steps",
    "streams.app",
    "streams.local",
    "streams.commands",
    "streams.cli",
    "trainer",
    "trainer.scene_judge",
    "trainer.pretrain",
    "trainer.snapshot",
    "trainer.snapshot_reader",
    "trainer.validation_set",
    "trainer.snapshot_writer",
    "trainer.validation_sample",
    "trainer.options",
    "trainer.run_directory",
    "trainer.old_files",
    "trainer.dataset",
    "trainer.splitter",
    "trainer.plugs",
    "trainer.captioner",
    "trainer.projector",
    "trainer.checkpoint",
    "trainer.fitting",
    "trainer.fit",
    "trainer.caption_metrics",
    "trainer.evaluation",
    "trainer.evaluate",
    "trainer.report",
    "trainer.gate",
    "trainer.decisions",
    "trainer.publish",
    "trainer.lease",
    "trainer.runs",
    "trainer.job",
    "trainer.job_metrics",
    "trainer.text_encoder",
    "trainer.pictures",
    "trainer.retrain",
    "trainer.commands",
    "trainer.cli",
    "trainer.demo",
)


def layer_of(module):
    """Return the longest layer that holds the module."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in LAYERS and (length > 1 or len(parts) == 1 or name == "trainer"):
            return name
    msg = f"{module} stands in no layer; add it to LAYERS"
    raise AssertionError(msg)


def modules():
    for package in ("streams", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imports_of(path):
    return tuple(imported(ast.walk(parsed(path))))


def imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                longer = ROOT / f"{node.module}.{alias.name}".replace(".", "/")
                is_module = longer.is_dir() or longer.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def test_every_module_imports_only_what_stands_above_it():
    wrong = [
        f"{module} must not import {name}"
        for module, path in modules()
        for name in imports_of(path)
        if name.split(".")[0] in ("streams", "trainer")
        and LAYERS.index(layer_of(name)) > LAYERS.index(layer_of(module))
    ]
    assert wrong == []


def test_streams_never_imports_the_trainer():
    for module, path in modules():
        if module.startswith("streams"):
            assert not [name for name in imports_of(path) if name.startswith("trainer")]


def loaded_by(names):
    """Names of everything that is imported, directly or not, when these modules are."""
    paths = dict(modules())
    seen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        todo += [name.rpartition(".")[0]] if "." in name else []
        if name in paths:
            todo += imports_at_the_top(paths[name])
    return seen


def imports_at_the_top(path):
    """Imports in functions load nothing until they are called."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = parsed(path)
    inside = {n for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f)}
    return imported(node for node in ast.walk(tree) if node not in inside)


def test_the_trainer_loads_neither_faust_nor_kafka():
    names = loaded_by(module for module, _ in modules() if module.startswith("trainer"))
    assert {"streams.settings", "torch", "pymongo"} < names
    assert names.isdisjoint({"faust", "kafka", "aiokafka", "mode"})


def environment_reads(tree):
    """Names of what reads the environment, in any way of the module `os`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [node.attr] if node.value.id == "os" else []
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from {"getenv", "getenvb", "environ", "environb"}.intersection(names)


def test_only_settings_reads_the_environment():
    reads = {module: set(environment_reads(parsed(p))) for module, p in modules()}
    assert {module for module, names in reads.items() if names} == {"streams.settings"}


@pytest.mark.parametrize(
    "code",
    ["os.environ['X']", "os.getenv('X')", "dict(os.environ)", "from os import environ as e"],
)
def test_every_way_to_read_the_environment_is_seen(code):
    """Fails when only `getenv` is looked for."""
    assert list(environment_reads(ast.parse(code)))


#: Threads whose end is seen: `/healthz` does not answer, or says that it has ended; or somebody
#: waits for what it finds. (An event loop reports errors of what it runs and goes on.)
_THREADS = {
    "streams.following",
    "streams.endpoints",
    "streams.fetching.network",
    "streams.fetching.turns",
    "streams.capture.process",
}


def test_no_thread_can_end_unseen():
    """What is done again and again is done by a `Follower`."""
    started = {module for module, path in modules() if "threading.Thread(" in path.read_text()}
    assert started == _THREADS
