"""Imports flow one way, and the trainer stays free of the streaming stack."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Each room and the rooms that it imports, from the ground up; a room is a package, or a module at
#: the root of `streams` and `trainer`. A room of `trainer` names those of `streams` in full.
ROOMS = {
    "streams": "",
    "streams.errors": "",
    "streams.metrics": "",
    "streams.backoff": "",
    "streams.following": "errors metrics",
    "streams.settings": "errors",
    "streams.logs": "errors settings",
    "streams.endpoints": "errors settings",
    "streams.contract": "errors",
    "streams.kafka": "contract errors metrics settings",
    "streams.mongo": "contract errors following settings",
    "streams.images": "backoff contract errors metrics mongo settings",
    "streams.reconcile": "backoff contract errors kafka metrics mongo settings",
    "streams.models": "contract errors images settings",
    "streams.registry": "backoff contract errors following metrics models mongo settings",
    "streams.capture": (
        "backoff contract endpoints errors kafka metrics mongo reconcile registry settings"
    ),
    "streams.stages": (
        "backoff contract errors following images kafka metrics models mongo registry settings"
    ),
    "streams.local": "backoff capture contract errors following kafka mongo settings stages",
    "streams.app": "capture contract endpoints errors following kafka mongo settings stages",
    "streams.operate": (
        "app capture contract errors images kafka local logs models mongo reconcile registry"
        " settings stages"
    ),
    "streams.cli": "operate",
    "trainer": "",
    "trainer.scenes": "streams.errors",
    "trainer.snapshot": (
        "streams.contract streams.errors streams.mongo streams.registry streams.settings"
    ),
    "trainer.fit": "snapshot streams.contract streams.errors streams.models streams.settings",
    "trainer.evaluate": (
        "fit scenes snapshot streams.contract streams.errors streams.models streams.mongo"
        " streams.registry streams.settings"
    ),
    "trainer.report": "evaluate streams.errors streams.images streams.settings",
    "trainer.job": (
        "evaluate fit snapshot streams.contract streams.errors streams.mongo streams.registry"
        " streams.settings"
    ),
    "trainer.commands": (
        "evaluate fit job report scenes snapshot streams.contract streams.errors streams.local"
        " streams.models streams.mongo streams.operate streams.registry streams.settings"
    ),
    "trainer.cli": "commands streams.logs streams.operate streams.settings",
    "trainer.demo": (
        "commands evaluate report scenes snapshot streams.contract streams.errors streams.local"
        " streams.mongo streams.operate streams.settings"
    ),
}


def room_of(module):
    """Return the room that a module is in, or is."""
    return ".".join(module.split(".")[:2])


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


def allowed(room):
    """Return the rooms in the table's row, in full."""
    package = room.split(".")[0]
    return {n if "." in n else f"{package}.{n}" for n in ROOMS[room].split()}


def test_rooms_import_what_the_table_says_and_nothing_else():
    found = {room: set() for room in ROOMS}
    for module, path in modules():
        rooms = {room_of(n) for n in imports_of(path) if n.split(".")[0] in ("streams", "trainer")}
        found[room_of(module)] |= rooms - {room_of(module)}
    assert found == {room: allowed(room) for room in ROOMS}


def test_no_room_imports_one_below_it():
    order = list(ROOMS)
    below = {r: [n for n in allowed(r) if order.index(n) > order.index(r)] for r in ROOMS}
    assert {room: names for room, names in below.items() if names} == {}


def importers(*libraries):
    """Names of the modules that import one of these libraries."""
    return {m for m, p in modules() if {n.split(".")[0] for n in imports_of(p)} & {*libraries}}


def test_kafka_and_faust_stay_in_their_rooms():
    assert {".".join(m.split(".")[:3]) for m in importers("faust", "aiokafka", "mode")} == {
        "streams.kafka.faust"
    }
    assert {room_of(module) for module in importers("kafka")} == {"streams.kafka"}


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
    "streams.images.network",
    "streams.images.turns",
    "streams.capture.process",
}


def test_no_thread_can_end_unseen():
    """What is done again and again is done by a `Follower`."""
    started = {module for module, path in modules() if "threading.Thread(" in path.read_text()}
    assert started == _THREADS
