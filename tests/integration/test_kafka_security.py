"""Every client of Kafka over TLS and as a user: a real broker behind a real handshake."""

import asyncio
import gc
import warnings

import faust
import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import Record
from streams.contract.pipeline import CHANGES
from streams.errors import BrokerUnavailable, SettingsError
from streams.kafka.faust.application import build_app
from streams.kafka.offsets import reset_lost_offsets
from streams.kafka.producer import EventProducer
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, read_topic_states, topic_name
from streams.settings import KafkaSettings
from streams.stages import stages_of
from tests.secured import gated_broker, write_certificates
from tests.waiting import wait_until

PASSWORD = "s3cret%of/alice"
SINK = stages_of(DEFAULT)["sink"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def gated(files, tmp_path_factory):
    users = {"alice": PASSWORD}
    with gated_broker(tmp_path_factory.mktemp("gated"), files, users=users) as found:
        yield found


@pytest.fixture
def secured(gated, files):
    gated[0].mechanisms.clear()

    def settings(**changes):
        values = {
            "bootstrap_servers": f"127.0.0.1:{gated[1]}",
            "security_protocol": "SASL_SSL",
            "sasl_username": "alice",
            "sasl_password": PASSWORD,
            "ssl_ca_file": files["ca"],
            "ssl_certificate_file": files["client"],
            "request_timeout_seconds": 10.0,
            "partitions": 1,
        }
        return KafkaSettings(**(values | changes))

    return settings


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_every_client_proves_its_user_over_tls(secured, gated, mechanism):
    """Fails without `client_arguments` in `open_client`."""
    settings = secured(sasl_mechanism=mechanism, prefix=f"{mechanism}.")
    assert len(create_topics(settings, DEFAULT)) == 8
    producer = EventProducer(settings)
    told = []
    producer.send(CHANGES, Record(key=b"k", value=b"v", headers=()), told.append)
    wait_until(lambda: told == [None], doing="an acknowledgement")
    producer.close()
    name = topic_name(CHANGES, settings)
    assert [record.value for _, record in read_topics([name], settings)] == [b"v"]
    assert reset_lost_offsets("group", [name], settings) == 0
    assert set(gated[0].mechanisms) == {mechanism}


@pytest.fixture
def left_to_the_collector():
    """TLS connections that aiokafka leaves half closed must not warn in a test of others."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("left_to_the_collector")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_faust_proves_its_user_over_tls(secured, gated, mechanism):
    """Fails without `broker_credentials` in `build_app`."""
    app = build_app(SINK, secured(sasl_mechanism=mechanism))

    async def connect():
        producer = app.transport.create_producer()
        await producer.start()
        await producer.stop()

    asyncio.run(connect())
    assert set(gated[0].mechanisms) == {mechanism}


def test_wrong_ca_is_refused_with_the_remedy(secured, files):
    """Fails with `context.check_hostname` and `verify_mode` off in `tls_context`."""
    with pytest.raises(BrokerUnavailable, match=r"certificate.*CAPTIONSTREAM_KAFKA__SSL_CA_FILE"):
        read_topic_states(secured(ssl_ca_file=files["other"], request_timeout_seconds=1.0), DEFAULT)


def test_wrong_password_is_refused_with_the_remedy(secured):
    with pytest.raises(BrokerUnavailable, match="CAPTIONSTREAM_KAFKA__SASL_PASSWORD") as caught:
        read_topic_states(secured(sasl_password="wrong-one", request_timeout_seconds=1.0), DEFAULT)
    assert "wrong-one" not in str(caught.value)


def test_client_without_certificate_is_refused(secured):
    with pytest.raises(BrokerUnavailable):
        read_topic_states(secured(ssl_certificate_file=None, request_timeout_seconds=1.0), DEFAULT)


def test_missing_files_name_their_variable(secured):
    with pytest.raises(SettingsError, match="SSL_CA_FILE"):
        read_topic_states(secured(ssl_ca_file="/nowhere.pem"), DEFAULT)
    with pytest.raises(SettingsError, match="SSL_CERTIFICATE_FILE"):
        read_topic_states(secured(ssl_certificate_file="/nowhere.pem"), DEFAULT)


def test_credentials_are_not_in_the_representation_of_the_application(secured):
    app = build_app(SINK, secured())
    assert isinstance(app.conf.broker_credentials, faust.SASLCredentials)
    assert PASSWORD not in repr(app.conf.broker_credentials)
