"""Nothing that runs what it reads: no pickle, no eval, no `torch.load` without `weights_only`."""

import ast
import re

import pytest

from tests.unit.test_architecture import ROOT, modules, parsed

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: What is taken from them is seen only by its whole name.
WHOLE_NAMES = {"yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}


def findings(tree):
    """Yield what a module does that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
            yield from (a.name for a in node.names if a.name in WHOLE_NAMES and a.asname)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES | WHOLE_NAMES:
                yield node.module
        elif isinstance(node, ast.Call):
            yield from _calls(node)
    yield from _yaml(tree)


def _yaml(tree):
    """Yield loaders that make any object: all but `SafeLoader` and classes made of it alone."""
    own = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and [*map(ast.unparse, node.bases)] == ["yaml.SafeLoader"]
    }
    for node in ast.walk(tree):
        is_plain = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        name = ast.unparse(node) if is_plain else ""
        if re.fullmatch(r"yaml\.(\w*[lL]oader|(unsafe|full)_load\w*)", name):
            yield from [] if name == "yaml.SafeLoader" else [name]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("yaml.load", "yaml.load_all"):
            given = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "Loader")]
            is_safe = [*map(ast.unparse, given)] in [["yaml.SafeLoader"], *([name] for name in own)]
            yield from [] if is_safe else [ast.unparse(node.func)]


def _calls(node):
    name = ast.unparse(node.func)
    if name in CALLS:
        yield name
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name == "torch.load" and options.get("weights_only") != "True":
        yield name
    if name in ("np.load", "numpy.load") and options.get("allow_pickle") == "True":
        yield name
    if options.get("shell") == "True" or name == "os.system":
        yield name


def test_no_module_runs_what_it_reads():
    found = {str(path.relative_to(ROOT)): list(findings(parsed(path))) for _, path in modules()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "torch.load(file)",
        "np.load(file, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=Other)",
        "yaml.load_all(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "class Mine(yaml.UnsafeLoader): pass\nyaml.load(text, Mine)",
        "class Mine(yaml.SafeLoader, Other): pass\nyaml.load(text, Mine)",
        "from yaml import unsafe_load",
        "import yaml as y",
    ],
)
def test_each_of_them_would_be_found(source):
    assert list(findings(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import yaml",
        "yaml.safe_load(text)",
        "yaml.load(text, yaml.SafeLoader)",
        "class Mine(yaml.SafeLoader): pass\nyaml.load(text, Loader=Mine)",
    ],
)
def test_what_makes_plain_values_only_is_allowed(source):
    assert list(findings(ast.parse(source))) == []
