"""What can go wrong with tests themselves without any of them failing."""

import ast
import re

from tests.unit.test_architecture import ROOT, modules, parsed

TESTS = sorted((ROOT / "tests").rglob("*.py"))


def classes_with_state(tree):
    """Yield what a module assigns to in its own classes: `Double.has_failed = True`.

    In a second run in one process such a double does nothing, and the test passes all the same.
    """
    nodes = [*ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in own:
                yield ast.unparse(node)


def test_doubles_keep_no_state_in_their_classes():
    found = {str(path): list(classes_with_state(parsed(path))) for path in TESTS}
    assert {path: names for path, names in found.items() if names} == {}


def test_state_in_a_class_is_seen():
    code = "class Double:\n    left = 3\n    def send(self):\n        Double.left -= 1"
    assert list(classes_with_state(ast.parse(code))) == ["Double.left"]


def notes(tree):
    """Yield what notes of tests, "Fails without `x`", name as `_name` or `Class.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "Fails " in (ast.get_docstring(node) or ""):
            names = re.findall(r"`(_\w+|[A-Z]\w+\.\w+)`", ast.get_docstring(node))
            yield from (name.rpartition(".")[2] for name in names)


def test_notes_of_tests_name_what_is_there():
    """A note that names what is gone says no longer how to see the test fail."""
    words = {word for _, path in modules() for word in re.findall(r"\w+", path.read_text())}
    found = {
        str(path.relative_to(ROOT)): gone
        for path in TESTS
        if (gone := {name for name in notes(parsed(path)) if name not in words})
    }
    assert found == {}
