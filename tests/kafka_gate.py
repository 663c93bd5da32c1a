"""A gate before a broker that has neither TLS nor users: it terminates TLS and asks for SASL.

The real clients shake hands with it as with Apache Kafka; behind it stands a real broker. Frames of
Kafka's protocol pass as they are, but for SaslHandshake and SaslAuthenticate, answered here, and
whatever comes before them is refused.
"""

import asyncio
import base64
import hashlib
import hmac
import struct
import threading

_HANDSHAKE, _API_VERSIONS, _AUTHENTICATE = 17, 18, 36
_FAILED = 58  # SASL_AUTHENTICATION_FAILED
_HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class Refused(Exception):
    """The client did not prove who it is."""


class Gate:
    """Listens on 127.0.0.1 until it is closed.

    Attributes:
        users: Password by name; empty to ask for none.
        mechanisms: Mechanism of each successful handshake.
    """

    def __init__(self, *, port, backend, tls=None, users=None):
        self.users = users or {}
        self.mechanisms = []
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls))
        self._tasks = set()

    def close(self):
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _close(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        ours, theirs = None, None
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self._backend)
            if self.users:
                await self._authenticate(reader, writer, theirs, ours)
            await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))
        except asyncio.CancelledError:
            writer.transport.abort()  # TLS would wait for the other's farewell
        except (OSError, EOFError, Refused):
            pass
        finally:
            for stream in (writer, ours):
                if stream is not None:
                    stream.close()
            self._tasks.discard(asyncio.current_task())

    async def _authenticate(self, reader, writer, theirs, ours):
        exchange = None
        while True:
            frame = await _frame(reader)
            key, version, correlation, name_size = struct.unpack(">hhih", frame[:10])
            body = frame[10 + max(0, name_size) :]
            head = struct.pack(">i", correlation)
            if key == _API_VERSIONS:
                ours.write(_sized(frame))
                writer.write(_sized(await _frame(theirs)))
            elif key == _HANDSHAKE:
                mechanism = body[2:].decode()
                exchange = self._exchange(mechanism)
                next(exchange)
                name = mechanism.encode()
                writer.write(_sized(head + struct.pack(">hih", 0, 1, len(name)) + name))
            elif key == _AUTHENTICATE and exchange is not None:
                try:
                    answer = exchange.send(_token(body, version))
                except Refused:
                    writer.write(_sized(head + _answer(_FAILED, b"", version)))
                    await writer.drain()
                    raise
                is_last = answer.startswith(b"v=") or not answer
                writer.write(_sized(head + _answer(0, answer, version)))
                if is_last:
                    self.mechanisms.append(mechanism)
                    return
            else:
                raise Refused
            await writer.drain()

    def _exchange(self, mechanism):
        """Take tokens of the client, yield answers of the server (RFC 4616, RFC 5802)."""
        first = yield
        if mechanism == "PLAIN":
            _, user, password = first.decode().split("\0")
            if self.users.get(user) != password:
                raise Refused
            yield b""
            return
        algorithm = _HASHES[mechanism]
        bare = first.decode().removeprefix("n,,")
        fields = dict(part.split("=", 1) for part in bare.split(","))
        salt = base64.b64encode(b"salt of the test").decode()
        opening = f"r={fields['r']}server,s={salt},i=4096"
        final = (yield opening.encode()).decode()
        unproved, _, proof = final.rpartition(",p=")
        password = self.users.get(fields["n"], "")
        salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), b"salt of the test", 4096)

        def sign(key, text):
            return hmac.digest(key, text.encode(), algorithm)

        message = f"{bare},{opening},{unproved}"
        client_key = sign(salted, "Client Key")
        signature = sign(hashlib.new(algorithm, client_key).digest(), message)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if fields["n"] not in self.users or expected != base64.b64decode(proof):
            raise Refused
        verifier = sign(sign(salted, "Server Key"), message)
        yield b"v=" + base64.b64encode(verifier)


def _token(body, version):
    if version < 2:
        return body[4:]
    # Flexible: tagged fields of the header, then a compact length (one byte or two), then tags.
    size, at = body[1] & 0x7F, 2
    if body[1] & 0x80:
        size, at = size | body[2] << 7, 3
    return body[at : at + size - 1]


def _answer(code, token, version):
    text = b"no such user or a wrong password" if code else b""
    if version < 2:
        message = struct.pack(">h", len(text)) + text if code else struct.pack(">h", -1)
        lifetime = struct.pack(">q", 0) if version else b""
        return struct.pack(">h", code) + message + struct.pack(">i", len(token)) + token + lifetime
    message = bytes([len(text) + 1]) + text if code else b"\0"
    size = len(token) + 1
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    tail = struct.pack(">q", 0) + b"\0"
    return b"\0" + struct.pack(">h", code) + message + length + token + tail


async def _frame(reader):
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _sized(frame):
    return struct.pack(">i", len(frame)) + frame


async def _pump(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
