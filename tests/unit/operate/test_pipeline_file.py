"""Pipelines in files that people edit."""

import json

import pytest

from streams.contract.declaration import ModelState, parse_declarations
from streams.errors import SettingsError
from streams.operate.pipeline_file import pipeline_yaml, read_pipeline_file

ROWS = [
    {"name": "clip", "kind": "clip", "key": "img"},
    {
        "name": "line",
        "kind": "lines:Line",
        "features": {"img": "clip"},
        "fields": ["title", "größe"],
        "after": ["clip"],
        "options": {"a": {"b": [1, 2.5, None, True, "no"]}, "c": "2026-11-27"},
        "state": "inactive",
    },
]
DECLARATIONS = parse_declarations(ROWS)


@pytest.fixture
def write(tmp_path):
    def written(text, name="pipeline.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def test_what_is_printed_is_read_again(write):
    text = pipeline_yaml(DECLARATIONS)
    assert read_pipeline_file(write(text)) == DECLARATIONS
    assert "größe" in text
    assert "features: {}" not in text


@pytest.mark.parametrize("name", ["pipeline.json", "pipeline.yaml", "pipeline"])
def test_json_is_read_whatever_its_name(write, name):
    found = read_pipeline_file(write(json.dumps({"models": ROWS}, indent=1), name))
    assert found == DECLARATIONS
    assert found[1].state is ModelState.INACTIVE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no pipeline: it must hold `models`"),
        ("- a", "is no pipeline"),
        ("models: {a: b}", "is no pipeline"),
        ("models: []\nrevision: 3", "is no pipeline"),
        ("models: [", "is neither YAML nor JSON"),
        ("models: !!python/object:os.system []", "is neither YAML nor JSON"),
        ("models:\n- name: a\n  name: b", "'name' stands twice"),
        ("? [a, b]\n: 1", "is neither YAML nor JSON"),
        (b"\xff\xfe\x00\x00", "is neither YAML nor JSON"),
        ("[" * 2_000, "is neither YAML nor JSON"),
        ("models: []\n#" + "x" * (1 << 20), "has more than 1048576 bytes"),
        ("models: [a]", "model 1: "),
        ("models:\n- {name: a, kind: b:C, key: img, options: {d: 2026-11-27}}", "more than JSON"),
    ],
)
def test_what_is_no_pipeline_is_refused_in_one_line(write, text, says):
    with pytest.raises(SettingsError) as refused:
        read_pipeline_file(write(text))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_pipeline_file(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_pipeline_file(tmp_path)
