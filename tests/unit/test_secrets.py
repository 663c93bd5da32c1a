"""What is secret stays out of messages, and any text in the environment gives a clear error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from streams.cli import app
from streams.errors import SettingsError
from streams.kafka.security import client_arguments
from streams.local.stack import StackInfo, write_stack
from streams.mongo.client import connect, without_password
from streams.settings import (
    ENVIRONMENT_PREFIX,
    KafkaSettings,
    MongoSettings,
    Settings,
    load_settings,
)
from tests.command_line import CommandLine

SECRET = "hunter2secret"


@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://me:{SECRET}/x@db/",  # the driver takes the beginning for a port
        f"mongodb://me:a@{SECRET}@db/",
        f"mongodb://me:%{SECRET}@db/",
        f"mongodb://me:a?{SECRET}@db/",
        f"mongodb://me:{SECRET}@db:port/",
        f"mongodb://me:{SECRET}@db/?tls=perhaps",
        f"mongodb+srv://me:{SECRET}@db.example.org/?tls=perhaps",
        f"mongo://me:{SECRET}@db/",
        f"mongodb://me:{SECRET}@db/?authMechanism=none",
    ],
)
def test_password_of_a_wrong_uri_is_not_shown(uri):
    """Fails without `simplefilter("error")` in `_client`: a wrong option was only a warning."""
    with pytest.raises(SettingsError) as caught:
        connect(MongoSettings(uri=uri)).close()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "CAPTIONSTREAM_MONGO__URI" in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://127.0.0.1/?replicaSet=rs0", "mongodb://127.0.0.1/?replicaSet=rs0"),
        (f"mongodb://me:{SECRET}@a,b/x", "mongodb://me:***@a,b/x"),
        (f"mongodb+srv://me:p@{SECRET}@a/", "mongodb+srv://me:***@a/"),
    ],
)
def test_uri_is_shown_without_its_password(uri, shown):
    assert without_password(uri) == shown


def test_line_of_a_ready_stack_shows_no_password_and_its_file_is_private(tmp_path):
    """Fails without `without_password` in `announcement`."""
    values = {name: "" for name in StackInfo.__dataclass_fields__}
    stack = StackInfo(**(values | {"mongo_uri": f"mongodb://me:{SECRET}@db/"}))
    assert SECRET not in stack.announcement()
    assert json.loads(stack.announcement())["mongo_uri"] == "mongodb://me:***@db/"
    write_stack(tmp_path, stack)
    assert (tmp_path / "stack.json").stat().st_mode & 0o077 == 0


def test_password_on_the_command_line_is_refused(tmp_path, monkeypatch, capsys):
    words = ("up", "--data-dir", str(tmp_path), "--mongo-uri", f"mongodb://me:{SECRET}@db/")
    done = CommandLine(app, monkeypatch, capsys)(*words)
    assert done.code == 2
    assert "CAPTIONSTREAM_MONGO__PASSWORD" in done.err
    assert SECRET not in done.out + done.err
    assert "internal error" not in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"sasl_username": "me", "sasl_password": SECRET}, "SECURITY_PROTOCOL"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "me"}, "SASL_PASSWORD"),
        ({"security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": "x"}, "SECURITY_PROTOCOL"),
        ({"security_protocol": "SSL", "ssl_key_file": "x"}, "SSL_CERTIFICATE_FILE"),
    ],
)
def test_what_the_protocol_would_ignore_is_refused(values, match):
    """Fails without the validator of `KafkaSettings`: a password would be left unused, unseen."""
    with pytest.raises(ValueError, match=match):
        KafkaSettings(**values)


def test_representation_of_settings_shows_no_secret():
    kafka = KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_username="me", sasl_password=SECRET
    )
    assert SECRET not in repr(kafka)
    assert client_arguments(kafka)["sasl_plain_password"] == SECRET


def _variables(model: type[BaseModel], path: str = ENVIRONMENT_PREFIX):
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _variables(kind, f"{path}{name.upper()}__")
            yield f"{path}{name.upper()}"
        else:
            yield f"{path}{name.upper()}"


VARIABLES = tuple(_variables(Settings))
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


HARD = st.sampled_from(("{}", "[]", "null", "{", "1e999", "inf", "nan", "-1", "\n"))


@given(name=st.sampled_from(VARIABLES), value=TEXT | HARD)
def test_any_text_is_a_setting_or_an_error_that_names_the_variable(name, value):
    """Fails without `UnreadableSettings` in `load_settings`: a section that is not JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        problem = problem_of(load_settings)
    assert problem is None or name.split("__")[0] in problem
    assert "\n" not in (problem or "")


def problem_of(action):
    try:
        action()
    except SettingsError as exc:
        return str(exc)
    return None


def test_endless_timeouts_are_refused(monkeypatch):
    """Fails without `allow_inf_nan=False`: the client of MongoDB raised OverflowError."""
    monkeypatch.setenv("CAPTIONSTREAM_MONGO__TIMEOUT_SECONDS", "inf")
    with pytest.raises(SettingsError, match="CAPTIONSTREAM_MONGO__TIMEOUT_SECONDS"):
        load_settings()


@pytest.mark.parametrize("name", [n for n in VARIABLES if "PASSWORD" in n or n.endswith("__URI")])
def test_the_value_of_a_secret_is_in_no_error(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("CAPTIONSTREAM_KAFKA__PARTITIONS", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
