"""How clients of Kafka are encrypted and who they say they are. The one translation of settings.

kafka-python takes `client_arguments`, and `faust/application.py` makes of them what Faust takes:
both trust the same CAs and always check the broker's name.
"""

import socket
import ssl
from typing import Any, Final

from streams.errors import BrokerUnavailable, SettingsError
from streams.settings import KafkaSettings

_PROBE_SECONDS: Final = 5.0
_PREFIX: Final = "CAPTIONSTREAM_KAFKA__"


def client_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return the arguments for every client of kafka-python: where, how and as whom to connect.

    Raises:
        SettingsError: A certificate file is missing or wrong.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "bootstrap_timeout_ms": int(settings.request_timeout_seconds * 1000),
        "security_protocol": settings.security_protocol,
    }
    if _has_tls(settings):
        arguments["ssl_context"] = tls_context(settings)
    if _has_user(settings):
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": _password(settings),
        }
    return arguments


def tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return a context that checks certificate and name of the broker, TLS 1.2 or later.

    Raises:
        SettingsError: A file is missing or wrong.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
    except OSError as exc:  # ssl.SSLError is one
        msg = f"{_PREFIX}SSL_CA_FILE: {settings.ssl_ca_file} holds no certificates ({exc})"
        raise SettingsError(msg) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ssl_certificate_file is None:
        return context
    key_password = settings.ssl_key_password
    try:
        context.load_cert_chain(
            settings.ssl_certificate_file,
            settings.ssl_key_file,
            # Never None: OpenSSL would ask on the terminal, and wait.
            password=key_password.get_secret_value() if key_password else "",
        )
    except OSError as exc:
        msg = (
            f"{_PREFIX}SSL_CERTIFICATE_FILE, {_PREFIX}SSL_KEY_FILE or {_PREFIX}SSL_KEY_PASSWORD:"
            f" they do not fit together or cannot be read ({exc})"
        )
        raise SettingsError(msg) from exc
    return context


def broker_unavailable(settings: KafkaSettings, exc: Exception) -> BrokerUnavailable:
    """Return the error of a client that could not connect, with the cause that it hides.

    The clients report a refused certificate or password as a plain timeout, so the TLS handshake is
    tried once more here.
    """
    where = f"no Kafka broker answers at {settings.bootstrap_servers}"
    problem = _tls_problem(settings) if _has_tls(settings) else None
    if problem is not None:
        return BrokerUnavailable(
            f"{where}: TLS fails ({problem}); check {_PREFIX}SSL_CA_FILE,"
            f" {_PREFIX}SSL_CERTIFICATE_FILE and that the broker's listener has TLS"
        )
    remedy = f"start it or set {_PREFIX}BOOTSTRAP_SERVERS"
    if _has_user(settings):
        remedy += f"; check {_PREFIX}SASL_USERNAME, {_PREFIX}SASL_PASSWORD and _SASL_MECHANISM too"
    else:
        remedy += f", or {_PREFIX}SECURITY_PROTOCOL if it has TLS or users"
    return BrokerUnavailable(f"{where} ({exc}); {remedy}")


def _tls_problem(settings: KafkaSettings) -> str | None:
    """Return why the first broker that listens refuses a handshake; None if none does."""
    context = tls_context(settings)
    for server in settings.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        host = host.strip("[]")
        try:
            with (
                socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=host),
            ):
                continue
        except ssl.SSLError as exc:
            return getattr(exc, "verify_message", "") or exc.reason or "handshake"
        except (OSError, ValueError):
            continue  # nobody listens there: not a matter of TLS
    return None


def _has_tls(settings: KafkaSettings) -> bool:
    return settings.security_protocol.endswith("SSL")


def _has_user(settings: KafkaSettings) -> bool:
    return settings.security_protocol.startswith("SASL")


def _password(settings: KafkaSettings) -> str:
    return settings.sasl_password.get_secret_value() if settings.sasl_password else ""
