"""The supervisor without servers and processes."""

import io
import time

from streams.local.watch import Supervisor
from streams.settings import MongoSettings, Settings


def test_a_request_of_a_copy_that_fails_is_repeated_later(tmp_path, capsys):
    """Fails with `StoreUnavailable` in `_tend_requests`: a lost TLS file ended it all."""
    settings = Settings(mongo=MongoSettings(tls_ca_file=str(tmp_path / "gone.pem")))
    addresses = {"mongo_uri": "mongodb://127.0.0.1:1/", "kafka": "127.0.0.1:1"}
    supervisor = Supervisor(settings, directory=tmp_path, out=io.StringIO(), **addresses)
    supervisor._ask_copy_at = now = time.monotonic()
    supervisor._tend_requests()
    assert (
        "cannot ask for a copy of everything: CAPTIONSTREAM_MONGO__TLS" in capsys.readouterr().err
    )
    assert supervisor._ask_copy_at > now
