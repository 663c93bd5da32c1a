"""What the role of the commands is for, on a mongod with users."""

import pytest

from streams.contract.default_pipeline import DEFAULT
from streams.mongo.client import connect, state_database
from streams.mongo.roles import role_name, roles
from streams.operate.pipeline import open_pipeline
from streams.registry.versions import Registry
from streams.settings import KafkaSettings, MongoSettings, Settings
from tests.captioner import promote_tiny_captioner
from tests.pipelines import CONDITIONAL_LM
from tests.secured import root_client, secured_mongod, write_certificates

PASSWORD = "operator's"


@pytest.fixture
def settings(tmp_path):
    """Those of the operator, beside one document with a caption; no broker."""
    files = write_certificates(tmp_path)
    with secured_mongod(tmp_path, files, password=PASSWORD) as port:
        mongo = MongoSettings(
            uri=f"mongodb://127.0.0.1:{port}/?replicaSet=rs0",
            username="operator",
            password=PASSWORD,
            tls_ca_file=files["ca"],
            tls_certificate_key_file=files["client"],
        )
        role = role_name("operator", mongo)
        caption = {"value": "a dog", "version": "l1", "features": {}, "input": {}}
        with root_client(port, files, PASSWORD) as root:
            granted = roles(mongo, DEFAULT)[role]
            root.admin.command("createRole", role, privileges=granted, roles=[])
            root.admin.command("createUser", "operator", pwd=PASSWORD, roles=[role])
            document = {"_id": 1, "_outputs": {"_base": {CONDITIONAL_LM.name: caption}}}
            root["captions"]["documents"].insert_one(document)
        yield Settings(
            mongo=mongo,
            kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_seconds=1.0),
        )


def test_the_operator_may_declare_promote_and_forget(settings):
    """Fails without `remove` on versions and pointers, or `update` on what found no room."""
    with connect(settings.mongo) as client, open_pipeline(settings) as pipeline:
        registry = Registry(state_database(client, settings.mongo))
        promote_tiny_captioner(registry)
        pipeline.set_state(CONDITIONAL_LM.name, "inactive")
        gone = pipeline.forget(CONDITIONAL_LM.name)
        assert (gone.documents, gone.versions) == (1, 1)
        assert registry.pointer(CONDITIONAL_LM.name) is None
        assert client["captions"]["documents"].find_one() == {"_id": 1, "_outputs": {"_base": {}}}
