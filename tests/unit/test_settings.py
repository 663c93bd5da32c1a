"""Settings come from the environment only; wrong ones name their variable."""

import re
from pathlib import Path

import pytest

from streams.errors import SettingsError
from streams.operate.reference import settings_page
from streams.settings import KafkaSettings, MongoSettings, Settings, load_settings

ROOT = Path(__file__).parents[2]


def test_nested_variable_sets_a_nested_setting(monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_CLIP__PRETRAINED", "random")
    assert load_settings().clip.pretrained == "random"


def test_brokers_may_be_written_with_spaces(monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS", "a:9092, b:9092 ")
    assert load_settings().kafka.bootstrap_servers == "a:9092,b:9092"


@pytest.mark.parametrize("server", ["a", "a:1", "my_broker-1.example:65535", "[::1]", "[::1]:9092"])
def test_address_of_a_broker_is_taken(monkeypatch, server):
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS", server)
    assert load_settings().kafka.bootstrap_servers == server


@pytest.mark.parametrize(
    "server",
    ["a:abc", "a:", "[::1]:", "::1", "a:0", "a:65536", "a:-1", "", ":9092", "kafka://a:9092"],
)
def test_what_is_no_address_of_a_broker_is_told(monkeypatch, server):
    """Fails without `server_list`: a client fails with it, as if the fault were ours."""
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS", f"b:9092, {server}")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    variable = "CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS"
    assert str(caught.value).startswith(f"{variable}: Value error, {server!r} is not host:port")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"STAGE__DECODE_WORKERS": "1"}, ["IMAGE__MAX_SECONDS", "STAGE__STALL_SECONDS"]),
        ({"STAGE__STALL_SECONDS": "140"}, ["STAGE__DECODE_WORKERS", "STAGE__STALL_SECONDS"]),
        ({"MONGO__TIMEOUT_SECONDS": "40"}, ["MONGO__TIMEOUT_SECONDS", "STAGE__STALL_SECONDS"]),
        (
            {"KAFKA__FETCH_WAIT_SECONDS": "30"},
            ["KAFKA__FETCH_WAIT_SECONDS", "KAFKA__REQUEST_TIMEOUT_SECONDS"],
        ),
        (
            {"STAGE__BACKOFF_INITIAL_SECONDS": "11"},
            ["STAGE__BACKOFF_INITIAL_SECONDS", "STAGE__BACKOFF_MAX_SECONDS"],
        ),
        (
            {"LOCAL__BACKOFF_MAX_SECONDS": "0.1"},
            ["LOCAL__BACKOFF_INITIAL_SECONDS", "LOCAL__BACKOFF_MAX_SECONDS"],
        ),
    ],
)
def test_limits_that_do_not_fit_together_are_both_named(monkeypatch, values, named):
    """Fails when each is judged alone; a model counts as hanging at four fifths of 140 s, 112 s."""
    for name, value in values.items():
        monkeypatch.setenv(f"CAPTIONSTREAM_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert all(name in str(caught.value) for name in named)


def test_wrong_value_names_the_variable(monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__PARTITIONS", "many")
    with pytest.raises(SettingsError, match="CAPTIONSTREAM_KAFKA__PARTITIONS"):
        load_settings()


def test_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__PARTITION", "3")
    with pytest.raises(SettingsError, match="CAPTIONSTREAM_KAFKA__PARTITION"):
        load_settings()


def test_uri_with_a_password_is_masked(monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__URI", "mongodb://me:secret@db/")
    assert "secret" not in repr(load_settings())


def test_wrong_uri_does_not_show_in_the_error(monkeypatch):
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__TIMEOUT_SECONDS", "topsecret")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "topsecret" not in str(caught.value)


def test_state_lives_beside_the_watched_database():
    assert Settings().mongo.state == "captions_captionstream"


def test_page_of_settings_is_what_the_code_says():
    assert (ROOT / "deploy" / "SETTINGS.md").read_text() == settings_page(), "run `make settings`"


def test_page_has_variable_default_and_meaning():
    assert "| `CAPTIONSTREAM_CLIP__MODEL` | `RN50` | open_clip model name" in settings_page()


@pytest.mark.parametrize("page", ["README.md", "deploy/README.md"])
def test_settings_that_pages_name_are_there(page):
    known = set(re.findall(r"`CAPTIONSTREAM_(\w+)`", settings_page()))
    named = re.findall(r"\b(?:CAPTIONSTREAM_)?([A-Z]+__[A-Z_]+)", (ROOT / page).read_text())
    assert named
    assert set(named) <= known


def prefix(database, collection, **kafka):
    mongo = MongoSettings(database=database, collection=collection)
    return Settings(mongo=mongo, kafka=KafkaSettings(**kafka)).kafka.prefix


def test_pipelines_of_different_collections_share_no_names():
    """Fails without a prefix by default: they dead-lettered each other's records."""
    assert prefix("captions", "documents") == "captions.documents."
    assert prefix("captions", "my_photos") == "captions.my_photos."
    odd = [("captions", "my photos"), ("captions", "my/photos"), ("a", "x" * 240), ("a", "x" * 239)]
    names = [prefix(*names) for names in odd]
    assert len(set(names)) == len(odd)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name)


def test_prefix_that_is_given_stays_also_an_empty_one(monkeypatch):
    assert [prefix("a", "b", prefix=given) for given in ("mine-", "")] == ["mine-", ""]
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__PREFIX", "")
    assert load_settings().kafka.prefix == ""
    monkeypatch.delenv("CAPTIONSTREAM_KAFKA__PREFIX")
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__COLLECTION", "photos")
    assert load_settings().kafka.prefix == "captions.photos."
