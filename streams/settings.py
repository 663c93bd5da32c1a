"""All settings, read once from the environment. Nothing else reads the environment.

`CAPTIONSTREAM_KAFKA__PARTITIONS=8` sets `settings.kafka.partitions`. Units are in the names.
`deploy/SETTINGS.md` is generated from this module.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSettings

from streams.errors import SettingsError

ENVIRONMENT_PREFIX = "CAPTIONSTREAM_"
#: An operation of MongoDB takes at most so many of its timeouts: a half-open connection ends then.
MONGO_LONGEST = 3

#: An address that both clients of Kafka understand: a host or an IPv6 address, and a port.
_SERVER = re.compile(r"(?:[\w.-]+|\[[\w.:%]+\])(?::([0-9]{1,5}))?")
_MAX_PORT = 65535
#: Of the 249 characters that a topic's name may have; the longest one behind it takes 40.
_MOST_TOPIC_PART = 180
#: What an HTTP header may hold.
_PRINTABLE = r"^[\x20-\x7e]*$"


class Section(BaseModel):
    """One group of settings; immutable, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _defaults(section: Section, prefixes: tuple[str, ...]) -> dict[str, Any]:
    fields = type(section).model_fields
    return {name: field.default for name, field in fields.items() if name.startswith(prefixes)}


def server_list(value: str) -> str:
    """Return addresses of brokers without the spaces that people write: `a:9092, b:9092`.

    Raises:
        ValueError: One is not a host with or without a port; a client would fail with it.
    """
    servers = [server.strip() for server in value.split(",")]
    for server in servers:
        found = _SERVER.fullmatch(server)
        if found is None or not 1 <= int(found[1] or 1) <= _MAX_PORT:
            msg = (
                f"{server!r} is not host:port with a port of 1 to {_MAX_PORT}"
                " (an IPv6 address is in brackets: [::1]:9092)"
            )
            raise ValueError(msg)
    return ",".join(servers)


def _port_range(value: str) -> range:
    first, last = map(int, value.split("-"))
    return range(first, last + 1)


class MongoSettings(Section):
    """The database that is watched, and where our own state lives."""

    uri: SecretStr = Field(
        SecretStr("mongodb://127.0.0.1:27017/?replicaSet=rs0"),
        description="Connection string of a replica set (change streams need one).",
    )
    username: str | None = Field(
        None, min_length=1, description="User, kept out of the URI; with `MONGO__PASSWORD`."
    )
    password: SecretStr | None = Field(
        None, description="Its password, as it is: nothing is to be escaped."
    )
    auth_source: str = Field(
        "admin", min_length=1, description="Database where that user is defined."
    )
    tls: bool = Field(
        False, description="Encrypt connections, also without the files below (system's CAs)."
    )
    tls_ca_file: str | None = Field(
        None, min_length=1, description="PEM file of the CAs that signed the servers; means TLS."
    )
    tls_certificate_key_file: str | None = Field(
        None,
        min_length=1,
        description="PEM file of our own certificate and its key, where servers ask for one.",
    )
    tls_certificate_key_password: SecretStr | None = Field(
        None, description="Password of that key, if it has one."
    )
    database: str = Field("captions", min_length=1, description="Database that producers write to.")
    collection: str = Field("documents", min_length=1, description="Collection that is watched.")
    state_database: str | None = Field(
        None,
        description="Database of positions, leases and models; "
        "when absent `<database>_captionstream`.",
    )
    timeout_seconds: float = Field(
        10.0, gt=0, description="How long one operation may take, server selection included."
    )

    @model_validator(mode="after")
    def _username_and_password_come_together(self) -> Self:
        if (self.username is None) != (self.password is None):
            msg = (
                "set both CAPTIONSTREAM_MONGO__USERNAME and CAPTIONSTREAM_MONGO__PASSWORD, or none"
            )
            raise ValueError(msg)
        return self

    def without_security(self) -> "MongoSettings":
        """Return the same for a server of our own on loopback: no users, no TLS."""
        return self.model_copy(update=_defaults(self, ("username", "password", "tls")))

    @property
    def state(self) -> str:
        """Name of the database that holds positions, leases, models and process reports."""
        return self.state_database or f"{self.database}_captionstream"

    @property
    def tenant(self) -> str:
        """Name of what is watched, in records and positions."""
        return f"{self.database}.{self.collection}"


class KafkaSettings(Section):
    """The broker, its topics and its consumer groups."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="host:port, comma-separated.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="`SSL` encrypts, `SASL` asks for a user, `SASL_SSL` does both."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How the user is proved: `PLAIN` sends the password itself."
    )
    sasl_username: str | None = Field(None, min_length=1, description="User of the broker.")
    sasl_password: SecretStr | None = Field(None, description="Its password.")
    ssl_ca_file: str | None = Field(
        None, min_length=1, description="PEM file of the CAs that signed the brokers."
    )
    ssl_certificate_file: str | None = Field(
        None, min_length=1, description="PEM file of our own certificate, where brokers ask for it."
    )
    ssl_key_file: str | None = Field(None, min_length=1, description="PEM file of its key.")
    ssl_key_password: SecretStr | None = Field(
        None, description="Password of that key, if it has one."
    )
    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Put before every topic and group name; no two pipelines may share it. When"
        " absent `<database>.<collection>.`, so that they do not.",
    )
    partitions: int = Field(
        4, ge=1, description="Partitions of every topic; the most processes one stage can use."
    )
    replication_factor: int | None = Field(
        None, ge=1, description="Copies of every partition; when absent the broker's default."
    )
    retention_hours: float = Field(168.0, gt=0, description="How long topics keep records.")
    dead_letter_retention_hours: float = Field(
        2160.0, gt=0, description="How long dead letters are kept."
    )
    session_timeout_seconds: float = Field(
        10.0, gt=0, description="A stage process silent for so long loses its partitions."
    )
    request_timeout_seconds: float = Field(30.0, gt=0, description="Limit for one broker request.")
    fetch_wait_seconds: float = Field(
        0.5,
        gt=0,
        description="How long a fetch waits at the broker for a first record. The embedded broker"
        " looks for one only twice in this time, so it gets at most 0.1.",
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        return server_list(value)

    @model_validator(mode="after")
    def _nothing_is_left_unprotected_by_mistake(self) -> Self:
        """A password or a certificate that the protocol would ignore is an error."""
        variable = "CAPTIONSTREAM_KAFKA__SECURITY_PROTOCOL"
        sasl = [self.sasl_username, self.sasl_password]
        files = [self.ssl_ca_file, self.ssl_certificate_file, self.ssl_key_file]
        if self.security_protocol.startswith("SASL"):
            if None in sasl:
                msg = (
                    f"{variable}={self.security_protocol} needs CAPTIONSTREAM_KAFKA__SASL_USERNAME"
                    " and CAPTIONSTREAM_KAFKA__SASL_PASSWORD"
                )
                raise ValueError(msg)
        elif any(sasl):
            msg = f"a SASL user needs {variable}=SASL_SSL (or SASL_PLAINTEXT)"
            raise ValueError(msg)
        if any(files) and not self.security_protocol.endswith("SSL"):
            msg = f"certificate files need {variable}=SSL or SASL_SSL"
            raise ValueError(msg)
        if self.ssl_key_file and not self.ssl_certificate_file:
            msg = (
                "CAPTIONSTREAM_KAFKA__SSL_KEY_FILE needs CAPTIONSTREAM_KAFKA__SSL_CERTIFICATE_FILE"
            )
            raise ValueError(msg)
        return self

    def without_security(self) -> "KafkaSettings":
        """Return the same for a broker of our own on loopback: no users, no TLS."""
        return self.model_copy(update=_defaults(self, ("security_protocol", "sasl", "ssl")))


class ClipSettings(Section):
    """The image encoder."""

    model: str = Field(
        "RN50",
        description="open_clip model name, path of an open_clip model config (.json), or `scenes`:"
        " the small model for generated scenes that comes with this package.",
    )
    pretrained: str = Field(
        "openai",
        description="open_clip tag, path of a checkpoint, `bundled` (with the model `scenes`), or"
        " `random` (for trials only).",
    )
    seed: int = Field(0, description="Seed of the weights when `pretrained` is `random`.")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:1`, ...")


class ImageSettings(Section):
    """Limits for one image; beyond them a document fails with a clear error."""

    max_bytes: int = Field(32 * 1024 * 1024, gt=0, description="Encoded size in bytes.")
    max_pixels: int = Field(64_000_000, gt=0, description="Width times height, before decoding.")
    max_seconds: float = Field(
        7.0,
        gt=0,
        description="How long decoding may take. A batch of nothing but images that hang takes"
        " `batch_size` / `decode_workers` times as long, which must be less than four fifths of"
        " `stall_seconds`.",
    )
    max_memory_bytes: int = Field(
        3 * 1024**3,
        ge=512 * 1024**2,
        description="Address space of a process that decodes, its libraries included.",
    )


class FetchSettings(Section):
    """Images that documents name by `{"url": ...}`."""

    max_seconds: float = Field(
        10.0, gt=0, description="How long one fetch may take, redirects included."
    )
    max_redirects: int = Field(5, ge=0, description="Most redirects of one fetch.")
    concurrency: int = Field(
        32,
        ge=1,
        le=256,
        description="Images fetched at once, in threads; as many may be held in memory.",
    )
    per_host: int = Field(
        4,
        ge=1,
        description="Images fetched at once from one host, and the timeouts one behind the other"
        " after which it is left alone for a while (30 s, doubled up to 600 s).",
    )
    allow_hosts: str = Field(
        "",
        description="Names of hosts, comma-separated, that may be fetched from although their"
        " addresses are private or local.",
    )
    contact: str = Field(
        "",
        pattern=_PRINTABLE,
        description="Address of whoever runs this (a URL or e-mail address), sent with every fetch:"
        " some servers, Wikimedia's among them, answer 403 to clients without one.",
    )
    user_agent: str | None = Field(
        None,
        min_length=1,
        pattern=_PRINTABLE,
        description="User-Agent of fetches; when absent `captionstream/VERSION (+CONTACT)`.",
    )
    ca_file: str | None = Field(
        None,
        min_length=1,
        description="PEM file of CAs of your own that are trusted beside the well-known ones.",
    )
    proxy: SecretStr | None = Field(
        None,
        description="`http://[user:password@]host:port` that images are fetched through. Names are"
        " still resolved and checked here, but the proxy resolves them again and makes the"
        " connection: it must itself refuse addresses of your network.",
    )

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s]+/?", value.get_secret_value()):
            msg = "a proxy is http://[user:password@]host:port"
            raise ValueError(msg)
        return value

    @property
    def allowed(self) -> frozenset[str]:
        """The names of `allow_hosts`, in lower case."""
        names = (name.strip().lower() for name in self.allow_hosts.split(","))
        return frozenset(name for name in names if name)


class ModelSettings(Section):
    """Reading model versions from the registry, and where they compute."""

    poll_interval_seconds: float = Field(1.0, gt=0, description="How often pointers are read.")
    device: str = Field(
        "auto",
        description="Where models other than CLIP compute: `auto`, `cpu`, `cuda`, `cuda:1`, ...",
    )


class StageSettings(Section):
    """How a stage forms batches and what it does with failures."""

    batch_size: int = Field(32, ge=1, description="Most events in one batch.")
    batch_wait_seconds: float = Field(
        0.05, gt=0, le=0.2, description="Longest wait for a batch to fill (longer delays SIGTERM)."
    )
    max_attempts: int = Field(3, ge=1, description="Attempts before a retryable failure is final.")
    backoff_initial_seconds: float = Field(0.2, ge=0, description="First pause between attempts.")
    backoff_max_seconds: float = Field(10.0, ge=0, description="Longest pause between attempts.")
    torch_threads: int = Field(
        0,
        ge=0,
        description="Threads of one torch operation; 0: all cores, or 1 where no image is read.",
    )
    decode_workers: int = Field(
        2, ge=1, description="Processes that decode images, each one at a time."
    )
    stall_seconds: float = Field(
        150.0,
        gt=0,
        description="Work waiting and no progress for so long: not healthy. A model that is at one"
        " batch for four fifths of it counts as hanging.",
    )

    @property
    def hung_seconds(self) -> float:
        """How long a model may be at one batch: it ends before anybody finds it not healthy."""
        return 0.8 * self.stall_seconds

    @property
    def slow_seconds(self) -> float:
        """How long work may wait without progress until a process is not ready."""
        return 0.2 * self.stall_seconds


class PublisherSettings(Section):
    """From the change stream to Kafka."""

    window_events: int = Field(1000, ge=1, description="Most changes sent and not acknowledged.")
    window_bytes: int = Field(8 * 1024 * 1024, ge=1, description="The same in bytes.")
    commit_interval_seconds: float = Field(0.5, gt=0, description="How often the position is kept.")
    heartbeat_interval_seconds: float = Field(
        1.0, gt=0, description="How often an idle stream's position is kept."
    )
    lease_seconds: float = Field(
        10.0, gt=0, description="A publisher silent for so long may be replaced."
    )


class ReconcilerSettings(Section):
    """Finding documents whose outputs are missing or made by another version."""

    interval_seconds: float = Field(30.0, gt=0, description="Pause between two scans.")
    grace_seconds: float = Field(
        20.0, ge=0, description="A document must look unfinished for so long before it is repeated."
    )
    chunk_size: int = Field(
        64, ge=1, description="Most documents in flight; live changes wait behind at most these."
    )
    live_share: float = Field(
        0.25, gt=0, le=1, description="Share of the time that it uses while live changes come in."
    )
    chunk_timeout_seconds: float = Field(
        60.0, gt=0, description="How long one chunk may take before the scan is given up."
    )
    retry_after_seconds: float = Field(
        600.0,
        ge=0,
        description="Age at which a retryable error in a document is tried again; each further"
        " failure doubles it, up to a day.",
    )


class HttpSettings(Section):
    """Where a process serves /metrics, /healthz and /readyz."""

    host: str = Field("127.0.0.1", description="Address to bind.")
    advertised_host: str | None = Field(
        None,
        min_length=1,
        description="Host in the URLs that processes report; when absent `HTTP__HOST`, or the"
        " machine's own address if that means all of its addresses.",
    )
    port: int = Field(
        0, ge=0, le=65535, description="0: any free port; see `captionstream status`."
    )


class TrainerSettings(Section):
    """The offline half."""

    directory: str = Field(
        ".captionstream/trainer",
        min_length=1,
        description="Where the trainer keeps snapshots and runs, when no stack is named.",
    )


class LocalSettings(Section):
    """The servers and processes that `captionstream up` starts and watches on one machine."""

    mongod: str | None = Field(
        None, description="Path of a mongod; when absent the one on PATH, then the installed wheel."
    )
    broker: str | None = Field(
        None, description="Path of a tansu; when absent the one on PATH, then the installed wheel."
    )
    ports: str = Field(
        "20000-31999",
        pattern=r"^\d+-\d+$",
        description="Loopback ports, first and last, of which a new stack takes free ones. Linux"
        " gives those above 32767 to outgoing connections.",
    )
    start_timeout_seconds: float = Field(
        300.0, gt=0, description="A new process that does not answer for so long is restarted."
    )
    unhealthy_seconds: float = Field(
        60.0, gt=0, description="A process that is unhealthy for so long is restarted."
    )
    grace_seconds: float = Field(
        30.0, gt=0, description="Time between SIGTERM and SIGKILL when a process is stopped."
    )
    backoff_initial_seconds: float = Field(
        0.5, gt=0, description="Pause before a process that died is started again."
    )
    backoff_max_seconds: float = Field(30.0, gt=0, description="Longest such pause.")

    @field_validator("ports")
    @classmethod
    def _ports_exist(cls, value: str) -> str:
        ports = _port_range(value)
        if not 1024 <= ports.start < ports.stop <= _MAX_PORT + 1:
            msg = f"a range of ports lies between 1024 and {_MAX_PORT}"
            raise ValueError(msg)
        return value

    @property
    def port_range(self) -> range:
        """The ports of `ports`."""
        return _port_range(self.ports)


class LogSettings(Section):
    """Log lines go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")
    format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or text."
    )


class Settings(BaseSettings):
    """Every setting of every process."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    mongo: MongoSettings = MongoSettings()
    kafka: KafkaSettings = KafkaSettings()
    clip: ClipSettings = ClipSettings()
    image: ImageSettings = ImageSettings()
    fetch: FetchSettings = FetchSettings()
    models: ModelSettings = ModelSettings()
    stage: StageSettings = StageSettings()
    publisher: PublisherSettings = PublisherSettings()
    reconciler: ReconcilerSettings = ReconcilerSettings()
    http: HttpSettings = HttpSettings()
    trainer: TrainerSettings = TrainerSettings()
    local: LocalSettings = LocalSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _names_on_the_broker_tell_pipelines_apart(self) -> Self:
        if "prefix" not in self.kafka.model_fields_set:
            own = {"prefix": f"{_topic_part(self.mongo.tenant)}."}
            # The model is frozen for everybody else.
            self.__dict__["kafka"] = self.kafka.model_copy(update=own)
        return self

    @model_validator(mode="after")
    def _limits_fit_together(self) -> Self:
        problems = [
            f"{shorter} is {value:g}; it must be less than {longer}, which is {limit:g}"
            for shorter, value, longer, limit in self._limits()
            if value >= limit
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _limits(self) -> Iterator[tuple[str, float, str, float]]:
        """Yield what must be less than what: variable or product of some, value, and the limit."""
        stage, stall = self.stage, "0.8 * STAGE__STALL_SECONDS"
        turns = math.ceil(stage.batch_size / stage.decode_workers)
        yield (
            "IMAGE__MAX_SECONDS * STAGE__BATCH_SIZE / STAGE__DECODE_WORKERS",
            self.image.max_seconds * turns,
            stall,
            stage.hung_seconds,
        )
        # Else a server that is away passes for a model that hangs, and a document fails for it.
        longest = MONGO_LONGEST * self.mongo.timeout_seconds
        yield f"{MONGO_LONGEST} * MONGO__TIMEOUT_SECONDS", longest, stall, stage.hung_seconds
        kafka = self.kafka
        yield (
            "KAFKA__FETCH_WAIT_SECONDS",
            kafka.fetch_wait_seconds,
            "KAFKA__REQUEST_TIMEOUT_SECONDS",
            kafka.request_timeout_seconds,
        )
        for name, section in (("STAGE", stage), ("LOCAL", self.local)):
            longest = section.backoff_max_seconds
            if section.backoff_initial_seconds > longest:
                initial = section.backoff_initial_seconds
                most = f"{name}__BACKOFF_MAX_SECONDS"
                yield f"{name}__BACKOFF_INITIAL_SECONDS", initial, most, longest


def _topic_part(tenant: str) -> str:
    """Return a name that Kafka takes; one that had to be changed ends with a hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", tenant)[:_MOST_TOPIC_PART]
    if plain == tenant:
        return plain
    return f"{plain}-{hashlib.blake2b(tenant.encode(), digest_size=4).hexdigest()}"


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: A value is missing or wrong; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as exc:
        problems = "; ".join(
            f"{ENVIRONMENT_PREFIX}{'__'.join(str(part).upper() for part in error['loc']) or '...'}:"
            f" {error['msg']}"
            for error in exc.errors(include_input=False)
        )
        raise SettingsError(problems) from exc
    except UnreadableSettings as exc:  # a whole section, as JSON
        section = re.sub(r'.*field "(\w+)".*', r"\1", str(exc).splitlines()[0]).upper()
        msg = (
            f"{ENVIRONMENT_PREFIX}{section} is not JSON; leave it away and set"
            f" {ENVIRONMENT_PREFIX}{section}__NAME for each setting"
        )
        raise SettingsError(msg) from None


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a child process that is to have exactly these settings.

    Everything else is inherited (PATH, caches, devices); our own variables are not.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    return inherited | {
        f"{ENVIRONMENT_PREFIX}{'__'.join(path).upper()}": value
        for path, value in _leaves(settings.model_dump())
    }


def environment_over(usual: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child process: ours, and what is usual where ours is silent."""
    return {**usual, **os.environ}


def _leaves(
    values: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        elif isinstance(value, SecretStr):
            yield (*path, name), value.get_secret_value()
        elif value is not None:
            yield (*path, name), str(value)
