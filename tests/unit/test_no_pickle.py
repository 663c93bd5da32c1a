"""Nothing that runs what it reads: no pickle, no eval, no `torch.load` without `weights_only`."""

import ast

import pytest

from tests.unit.test_architecture import ROOT, modules, parsed

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}


def findings(tree):
    """Yield what a module does that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield node.module
        elif isinstance(node, ast.Call):
            yield from _calls(node)


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
    ],
)
def test_each_of_them_would_be_found(source):
    assert list(findings(ast.parse(source)))
