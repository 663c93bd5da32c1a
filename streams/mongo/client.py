"""Connections to MongoDB, and what its failures mean."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from bson.codec_options import DatetimeConversion
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from streams.errors import SettingsError, StoreRefuses, StoreUnavailable
from streams.settings import MONGO_LONGEST, MongoSettings

Document = dict[str, Any]

#: Errors of the server that pass: it has no primary, is interrupted, too busy or full. Whatever it
#: says otherwise it will say again.
PASSING_CODES: Final = frozenset(
    (
        *(6, 7, 24, 43, 46, 50, 63, 64, 89, 91, 112, 133, 134, 150, 175, 189, 202, 215, 225, 234),
        *(237, 239, 246, 251, 262, 276, 290, 314, 365, 391, 462, 9001, 10107, 11600, 11601, 11602),
        *(12586, 12587, 13388, 13435, 13436, 14031),
    )
)
#: What to do about errors that do not pass, by their code.
_REMEDIES: Final[Mapping[int | None, str]] = {
    13: "give its user the role that `captionstream roles` prints",
    18: "check CAPTIONSTREAM_MONGO__USERNAME and CAPTIONSTREAM_MONGO__PASSWORD",
    73: "check CAPTIONSTREAM_MONGO__DATABASE, __COLLECTION and __STATE_DATABASE",
    166: "CAPTIONSTREAM_MONGO__COLLECTION must name a collection, no view",
}
#: Characters of the server's words that are shown.
_MOST_REASON: Final = 500


def connect(settings: MongoSettings) -> MongoClient[Document]:
    """Return a client; no connection is made and no name is resolved yet.

    Raises:
        SettingsError: The URI is not one.
    """
    try:
        return _client(settings)
    except OSError as exc:  # TLS files; their names and OpenSSL's words hold no secret
        msg = (
            f"CAPTIONSTREAM_MONGO__TLS_CA_FILE or __TLS_CERTIFICATE_KEY_FILE cannot be used: {exc};"
            " each must be a PEM file, the second with its key and fitting password"
        )
        raise SettingsError(msg) from exc
    except (InvalidURI, ConfigurationError, ValueError, UserWarning) as exc:
        # The driver may quote what it took for a port or an option: a piece of the password.
        raise SettingsError(_bad_uri(settings, exc)) from None


def _client(settings: MongoSettings) -> MongoClient[Document]:
    with warnings.catch_warnings():
        # The driver only warns of an option that it does not know, such as a misspelt one for TLS.
        warnings.simplefilter("error", UserWarning)
        return MongoClient(
            settings.uri.get_secret_value(),
            # Else the host of `mongodb+srv` is resolved now, and a moment without DNS looks like a
            # wrong URI.
            connect=False,
            appname="captionstream",
            tz_aware=True,
            # One `_id` with a date beyond the year 9999, or that is not UTF-8 (no document has the
            # id that is read then), must not stop the change stream.
            datetime_conversion=DatetimeConversion.DATETIME_AUTO,
            unicode_decode_error_handler="replace",
            serverSelectionTimeoutMS=int(settings.timeout_seconds * 1000),
            connectTimeoutMS=int(settings.timeout_seconds * 1000),
            # Longer than any operation of ours; a half-open connection must not hang for ever.
            socketTimeoutMS=int(settings.timeout_seconds * 1000 * MONGO_LONGEST),
            **_security(settings),
        )


def _security(settings: MongoSettings) -> dict[str, Any]:
    """Return the driver's arguments for TLS and the user; those of the URI hold where none is."""
    arguments: dict[str, Any] = {}
    if settings.username is not None and settings.password is not None:
        arguments |= {
            "username": settings.username,
            "password": settings.password.get_secret_value(),
            "authSource": settings.auth_source,
        }
    if settings.tls or settings.tls_ca_file or settings.tls_certificate_key_file:
        arguments["tls"] = True
    if settings.tls_ca_file is not None:
        arguments["tlsCAFile"] = settings.tls_ca_file
    if settings.tls_certificate_key_file is not None:
        key_password = settings.tls_certificate_key_password
        arguments |= {
            "tlsCertificateKeyFile": settings.tls_certificate_key_file,
            # Never None: OpenSSL would ask on the terminal, and wait.
            "tlsCertificateKeyFilePassword": key_password.get_secret_value()
            if key_password
            else "",
        }
    return arguments


def _bad_uri(settings: MongoSettings, exc: Exception) -> str:
    uri = settings.uri.get_secret_value()
    reason = (
        "escape these in user and password by percent signs: : / ? # [ ] @ %, or set"
        " CAPTIONSTREAM_MONGO__USERNAME and CAPTIONSTREAM_MONGO__PASSWORD instead; and check its"
        " port and options"
        if "@" in uri
        else str(exc)
    )
    return f"CAPTIONSTREAM_MONGO__URI is not a usable MongoDB URI: {reason}"


def without_password(uri: str) -> str:
    """Return a connection string that may be shown: `***` for everything between user and host."""
    scheme, mark, rest = uri.partition("://")
    secret, at, hosts = rest.rpartition("@")
    user = secret.partition(":")[0]
    return f"{scheme}{mark}{user}:***@{hosts}" if at else uri


def state_database(client: MongoClient[Document], settings: MongoSettings) -> Database[Document]:
    """Return the database of our own state: majority reads and writes."""
    return client.get_database(
        settings.state,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )


@contextmanager
def mongo_errors(doing: str) -> Iterator[None]:
    """Turn an error of the driver into ours, with what was being done and the remedy.

    Raises:
        StoreUnavailable: The server is away, or busy with something that passes.
        StoreRefuses: It answers, and will refuse again.
    """
    try:
        yield
    except PyMongoError as exc:
        kind = StoreUnavailable if passes(exc) else StoreRefuses
        msg = f"MongoDB failed while {doing}: {reason_of(exc)}"
        raise kind(msg) from exc


def passes(exc: PyMongoError) -> bool:
    """Whether waiting can help: the server is away, or busy with something that ends."""
    if exc.has_error_label("TransientTransactionError"):
        return True
    return not isinstance(exc, OperationFailure) or exc.code in PASSING_CODES


def reason_of(exc: PyMongoError) -> str:
    """Return what an error of the driver says, in one line, and the remedy."""
    # The driver adds its view of the topology, and addresses with it; the server adds the whole
    # command that it refused, and documents with it. The log has enough.
    pattern = r",? full error:| \(configured timeouts|, Timeout:| to execute command \{"
    reason = " ".join(re.split(pattern, str(exc))[0].split())[:_MOST_REASON]
    code = exc.code if isinstance(exc, OperationFailure) else None
    if code in _REMEDIES:
        remedy = _REMEDIES[code]
    elif isinstance(exc, ConfigurationError):
        remedy = "check CAPTIONSTREAM_MONGO__URI and its options, and that its host can be resolved"
    elif "CERTIFICATE_VERIFY_FAILED" in reason:
        remedy = "check CAPTIONSTREAM_MONGO__TLS_CA_FILE and the name in the server's certificate"
    elif not passes(exc):
        remedy = "it does not pass by itself: change what it names, in MongoDB or in the settings"
    else:
        remedy = "check that the replica set has a primary"
        if "connection closed" in reason or "SSL" in reason:
            remedy += ", and CAPTIONSTREAM_MONGO__TLS if it has TLS"
    return f"{reason}; {remedy}"


def cluster_time(client: MongoClient[Document]) -> Timestamp:
    """Return the clusterTime of now: every change so far has an older one or the same.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    with mongo_errors("reading the cluster's time"):
        return cast(Timestamp, client.admin.command("ping")["operationTime"])
