"""Connections to MongoDB, and what its failures mean."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from bson.codec_options import DatetimeConversion
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from streams.errors import SettingsError, StoreUnavailable
from streams.settings import MongoSettings

Document = dict[str, Any]


def connect(settings: MongoSettings) -> MongoClient[Document]:
    """Return a client; no connection is made yet.

    Raises:
        SettingsError: The URI is not one.
    """
    try:
        return MongoClient(
            settings.uri.get_secret_value(),
            appname="captionstream",
            tz_aware=True,
            # One `_id` with a date beyond the year 9999, or that is not UTF-8 (no document has the
            # id that is read then), must not stop the change stream.
            datetime_conversion=DatetimeConversion.DATETIME_AUTO,
            unicode_decode_error_handler="replace",
            serverSelectionTimeoutMS=int(settings.timeout_seconds * 1000),
            connectTimeoutMS=int(settings.timeout_seconds * 1000),
            # Longer than any operation of ours; a half-open connection must not hang for ever.
            socketTimeoutMS=int(settings.timeout_seconds * 3000),
        )
    except (InvalidURI, ConfigurationError, ValueError) as exc:
        msg = f"CAPTIONSTREAM_MONGO__URI is not a usable MongoDB URI: {exc}"
        raise SettingsError(msg) from exc


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
    """Turn an error of the driver into `StoreUnavailable`, with what was being done."""
    try:
        yield
    except PyMongoError as exc:
        # The driver adds its view of the topology, and addresses with it; the log has enough.
        reason = re.split(r", full error:| \(configured timeouts|, Timeout:", str(exc))[0]
        msg = f"MongoDB failed while {doing}: {reason}; check that the replica set has a primary"
        raise StoreUnavailable(msg) from exc


def cluster_time(client: MongoClient[Document]) -> Timestamp:
    """Return the clusterTime of now: every change so far has an older one or the same.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    with mongo_errors("reading the cluster's time"):
        return cast(Timestamp, client.admin.command("ping")["operationTime"])
