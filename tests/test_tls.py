"""TLS: what is spoken, who is let in, what is refused and how it is counted, and certificates that are changed."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import axon.client
import grpc
import httpx2
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from authority import DAY, Authority, Pair
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from serving import AXON, PATIENCE_S, Server, environment, run_axon, serving
from test_lifecycle import command, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["command"]

ROOT: Final = Path(__file__).resolve().parent.parent
PIXELS: Final = {"pixels": [1] * 64}
RESULTS: Final = frozenset(
    {
        "ok",
        "timeout",
        "no_client_certificate",
        "client_certificate",
        "server_certificate",
        "protocol_version",
        "not_tls",
        "other",
    }
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture(scope="module")
def own(authority: Authority) -> Pair:
    """Return the server's certificate and key."""
    return authority.sign("server")


@contextmanager
def encrypted(path: Path, pair: Pair, *options: str) -> Iterator[Server]:
    with serving(path, "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), *options) as server:
        yield server


@pytest.fixture(scope="module")
def server(digits: Path, own: Pair) -> Iterator[Server]:
    with encrypted(digits, own) as started:
        yield started


@pytest.fixture(scope="module")
def closed(digits: Path, own: Pair, authority: Authority) -> Iterator[Server]:
    """Serve those alone who have a certificate."""
    with encrypted(digits, own, "--tls-client-ca", str(authority.file)) as started:
        yield started


def context(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.file)
    if client is not None:
        made.load_cert_chain(client.certificate, client.key)
    return made


@contextmanager
def secured(server: Server, made: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
    with made.wrap_socket(plain, server_hostname=server.host) as wrapped:
        yield wrapped


def answer(server: Server, made: ssl.SSLContext) -> int:
    """Ask once on a connection of its own and return the status."""
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=PATIENCE_S, context=made)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


def is_served(server: Server, made: ssl.SSLContext, session: ssl.SSLSession | None = None) -> bool:
    """Tell whether a client is answered; over TLS 1.3 it learns that it is not let in only when it reads."""
    plain = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
    try:
        with made.wrap_socket(plain, server_hostname=server.host, session=session) as wrapped:
            wrapped.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            return wrapped.recv(1) == b"H"
    except TimeoutError:
        raise
    except OSError:
        return False


def scraped(server: Server, made: ssl.SSLContext) -> dict[tuple[str, str], float]:
    """Scrape; samples by name and the value of their only label."""
    with httpx2.Client(verify=made) as client:
        text = client.get(f"https://{server.address}/metrics").raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


def handshakes(server: Server, made: ssl.SSLContext) -> dict[str, int]:
    counts = scraped(server, made)
    found = {label: int(value) for (name, label), value in counts.items() if name == "axon_tls_handshakes_total"}
    assert set(found) == RESULTS
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _to_the_end(plain: socket.socket) -> bytes:
    """Read until the server has closed; one that closes with something unread resets the connection."""
    got = b""
    try:
        while piece := plain.recv(4096):
            got += piece
    except ConnectionResetError:
        pass
    return got


# --- what is spoken


def test_it_says_where_it_listens_and_every_port_is_encrypted(server: Server, authority: Authority) -> None:
    printed = server.printed
    assert f"ready at https://{server.address} and grpcs://{server.grpc_address} in " in printed
    assert f"curl -s https://{server.address}/v2/models/digits" in printed
    metrics = printed.split("metrics: ")[1].split()[0]
    assert metrics.startswith("https://")
    with httpx2.Client(verify=context(authority)) as client:
        assert client.get(metrics).raise_for_status().text.startswith("# HELP axon_")


def test_both_programs_speak_it(
    command: list[str | Path], digits: Path, own: Pair, authority: Authority, tmp_path: Path
) -> None:
    model = Path(shutil.copy(digits, tmp_path / "digits.onnx"))
    with running(command, model, "--tls-cert", str(own.certificate), "--tls-key", str(own.key)) as started:
        url = f"https://127.0.0.1:{started.port}/v2/models/digits/generate"
        assert httpx2.post(url, json=PIXELS, verify=context(authority)).status_code == 200
        assert started.end().returncode == 0


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)],
)
def test_the_protocol_is_agreed_on_in_the_handshake(
    server: Server, authority: Authority, offered: list[str], spoken: str | None
) -> None:
    made = context(authority)
    if offered:
        made.set_alpn_protocols(offered)
    with secured(server, made) as wrapped:
        assert (wrapped.selected_alpn_protocol(), wrapped.version()) == (spoken, "TLSv1.3")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(server: Server, authority: Authority, version: ssl.TLSVersion) -> None:
    made = context(authority)
    made.minimum_version = made.maximum_version = version
    assert answer(server, made) == 200


def test_a_large_body_goes_both_ways(server: Server, authority: Authority) -> None:
    """More than the buffers of TLS and of the socket hold."""
    rows = 20_000
    pixels = np.arange(rows * 64, dtype=np.float32).reshape(rows, 64)
    with axon.client.Client(f"https://{server.address}", ca=authority.file) as client:
        labels = client.infer("digits", {"pixels": pixels})
    assert all(len(array) == rows for array in labels.values())


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_curl_is_answered(server: Server, authority: Authority, version: str) -> None:
    url = f"https://{server.address}/v2/models/digits/generate"
    what = "%{http_code} %{http_version} %{ssl_verify_result}"
    asked = ["curl", "-sS", f"--http{version}", "-o", os.devnull, "-w", what, "--cacert", str(authority.file)]
    body = json.dumps(PIXELS)
    done = subprocess.run([*asked, "-d", body, url], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == (f"200 {version} 0", "")


def test_tritons_clients_are_answered(server: Server, authority: Authority) -> None:
    over_http = tritonclient.http.InferenceServerClient(
        server.address,
        ssl=True,
        ssl_context_factory=lambda: context(authority),
    )
    assert over_http.is_model_ready("digits")
    over_grpc = tritonclient.grpc.InferenceServerClient(
        server.grpc_address, ssl=True, root_certificates=str(authority.file)
    )
    assert over_grpc.is_model_ready("digits")
    over_http.close()
    over_grpc.close()


# --- the clients of this package


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_our_client_trusts_the_file_that_it_is_given(server: Server, authority: Authority, scheme: str) -> None:
    url = f"{scheme}://{server.address if scheme == 'https' else server.grpc_address}"
    with axon.client.Client(url, ca=authority.file) as client:
        assert client.is_ready("digits")
    with (
        axon.client.Client(url, retries=0, timeout_s=5.0) as client,
        pytest.raises(axon.ConnectionFailed, match=r"cannot be reached"),
    ):
        client.metadata()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_our_client_shows_its_certificate(closed: Server, authority: Authority, scheme: str) -> None:
    url = f"{scheme}://{closed.address if scheme == 'https' else closed.grpc_address}"
    with axon.client.Client(url, ca=authority.file, certificate=authority.sign("c", is_client=True)) as client:
        assert client.is_ready("digits")
    with (
        axon.client.Client(url, ca=authority.file, retries=0, timeout_s=5.0) as client,
        pytest.raises(axon.ConnectionFailed),
    ):
        client.metadata()


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("http://h:1", {"ca": "x"}, "ca: expected a URL that begins with https:// or grpcs://, got 'http://h:1'"),
        (
            "http://me:secret@h:1",
            {"ca": "x"},
            "ca: expected a URL that begins with https:// or grpcs://, got 'http://h:1'",
        ),
        ("grpc://h:1", {"certificate": ("c", "k")}, "certificate: expected a URL that begins with https://"),
        ("https://h:1", {"ca": "/nowhere"}, "ca: `/nowhere` cannot be used: No such file or directory"),
        ("grpcs://h:1", {"ca": "/nowhere"}, "ca: `/nowhere` cannot be used: No such file or directory"),
        ("https://h:1", {"certificate": ("/c", "/k")}, "certificate: `/c` and `/k` cannot be used: No such file"),
    ],
)
def test_our_client_says_which_file_is_of_no_use(url: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(axon.InvalidRequest) as caught:
        axon.client.Client(url, **arguments)
    assert caught.value.message.startswith(message)
    assert caught.value.field == next(iter(arguments))


def test_the_commands_ask_over_tls(closed: Server, authority: Authority) -> None:
    pair = authority.sign("commands", is_client=True)
    trust = ["--tls-ca", str(authority.file), "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
    url, over_grpc = f"https://{closed.address}", f"grpcs://{closed.grpc_address}"
    rows = [
        ["infer", "digits", "--url", url, "--json"],
        ["infer", "digits", "--url", over_grpc, "--json"],
        ["bench", "digits", "--url", url, "--duration", "1s", "--warmup", "0s", "--json"],
        ["bench", "digits", "--url", over_grpc, "--duration", "1s", "--warmup", "0s", "--json"],
        ["explain", "digits", "--url", url],
        ["top", "--once", "--url", url],
        ["ps", "--url", url],
    ]
    for row in rows:
        ended = run_axon(*row, *trust)
        assert ended.returncode == 0, (row, ended)
    ended = run_axon("top", "--once", "--url", f"http://{closed.address}", *trust)
    assert ended.returncode == 2
    assert ended.stderr.startswith("axon top: --tls-ca: expected a URL that begins with https:// or grpcs://")
    ended = run_axon("infer", "digits", "--url", url, "--tls-key", str(pair.key))
    assert (ended.returncode, ended.stderr) == (
        2,
        "axon infer: --tls-key: expected its certificate with --tls-cert, got nothing\n",
    )


# --- what is refused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(server: Server, authority: Authority, version: ssl.TLSVersion) -> None:
    made = context(authority)
    before = handshakes(server, made)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match=r"TLSv1.* is deprecated"):
        old.minimum_version = version
    with pytest.warns(DeprecationWarning, match=r"TLSv1.* is deprecated"):
        old.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|HANDSHAKE_FAILURE"), secured(server, old):
        pass
    after = handshakes(server, made)
    assert after["protocol_version"] - before["protocol_version"] == 1
    # Those of the scrape.
    assert after["ok"] - before["ok"] == 1


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"\x00" * 4096, b""),
        (os.urandom(4096).replace(b"\x16", b"\x17").lower(), b""),
    ],
    ids=["HTTP/1.1", "HTTP/2", "zeros", "garbage"],
)
def test_what_is_no_tls_is_told_so_and_closed(
    server: Server, authority: Authority, port: str, said: bytes, told: bytes
) -> None:
    made = context(authority)
    before = handshakes(server, made)["not_tls"]
    where = {
        "http": server.address,
        "grpc": server.grpc_address,
        "metrics": server.printed.split("metrics: https://")[1].split("/")[0],
    }[port]
    host, _, number = where.rpartition(":")
    with socket.create_connection((host, int(number)), timeout=PATIENCE_S) as plain:
        plain.sendall(said)
        got = _to_the_end(plain)
    assert got.startswith(told)
    assert bool(got) == bool(told)
    assert handshakes(server, made)["not_tls"] - before == 1


def test_garbage_behind_a_first_byte_of_tls_is_closed(server: Server, authority: Authority) -> None:
    made = context(authority)
    before = handshakes(server, made)
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
        plain.sendall(b"\x16\x03\x01\x00\x10" + b"\xff" * 4096)
        got = _to_the_end(plain)
    # An alert, or nothing.
    assert got[:1] in (b"", b"\x15")
    after = handshakes(server, made)
    assert sum(after.values()) - sum(before.values()) == 2


def test_tls_to_a_plain_port_is_refused(digits: Path, authority: Authority) -> None:
    with serving(digits) as plain:
        with pytest.raises(ssl.SSLError), secured(plain, context(authority)):
            pass
        assert httpx2.get(f"http://{plain.address}/v2/health/live").status_code == 200
        text = httpx2.get(f"http://{plain.address}/metrics").text
        assert "axon_tls_" not in text


def test_grpc_without_its_name_in_the_handshake_is_refused(server: Server, authority: Authority) -> None:
    host, _, port = server.grpc_address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
    with context(authority).wrap_socket(plain, server_hostname=host) as wrapped:
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert _to_the_end(wrapped) == b""


def test_a_client_that_does_not_trust_the_server_is_counted(server: Server, authority: Authority) -> None:
    made = context(authority)
    before = handshakes(server, made)["server_certificate"]
    with pytest.raises(ssl.SSLCertVerificationError), secured(server, ssl.create_default_context()):
        pass
    wait_until(lambda: handshakes(server, made)["server_certificate"] - before == 1)


def test_slow_handshakes_hold_up_nobody_and_end_in_time(server: Server, authority: Authority) -> None:
    made = context(authority)
    before = handshakes(server, made)["timeout"]
    # As it would begin: a record of a handshake, and no more than its head.
    slow = [socket.create_connection((server.host, server.port), timeout=PATIENCE_S) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")
    assert answer(server, made) == 200
    for connection in slow:
        assert _to_the_end(connection) == b""
        connection.close()
    assert handshakes(server, made)["timeout"] - before == len(slow)


def test_who_leaves_without_a_word_is_not_counted(server: Server, authority: Authority) -> None:
    made = context(authority)
    before = handshakes(server, made)
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
        plain.shutdown(socket.SHUT_WR)
        assert _to_the_end(plain) == b""
    after = handshakes(server, made)
    assert {name: after[name] - before[name] for name in RESULTS if after[name] != before[name]} == {"ok": 1}


# --- who is let in


def test_only_clients_with_a_certificate_are_served(closed: Server, authority: Authority, tmp_path: Path) -> None:
    good = context(authority, authority.sign("good", is_client=True))
    before = handshakes(closed, good)
    assert answer(closed, good) == 200
    stranger = Authority(tmp_path, "stranger")
    rows = [
        (None, "no_client_certificate"),
        (stranger.sign("strange", is_client=True), "client_certificate"),
        (authority.sign("old", is_client=True, days=-1.0), "client_certificate"),
        (authority.sign("not-a-client"), "client_certificate"),
    ]
    for client, _ in rows:
        assert not is_served(closed, context(authority, client))
    after = handshakes(closed, good)
    for result in ("no_client_certificate", "client_certificate"):
        assert after[result] - before[result] == [expected for _, expected in rows].count(result)


def test_a_revoked_client_is_refused_once_it_is_in_the_list(digits: Path, authority: Authority, own: Pair) -> None:
    kept, lost = (authority.sign(name, is_client=True) for name in ("kept", "lost"))
    file = authority.folder / "clients.pem"
    file.write_bytes(authority.file.read_bytes())
    with encrypted(digits, own, "--tls-client-ca", str(file)) as server:
        made = context(authority, kept)
        # A ticket of before must not let in who is taken back.
        session = _session(server, context(authority, lost))
        assert is_served(server, *session)
        replace(file, authority.file.read_bytes() + authority.revoke(lost))
        wait_until(lambda: scraped(server, made)["axon_tls_reloads_total", "loaded"] == 1)
        assert not is_served(server, context(authority, lost))
        assert not is_served(server, *session)
        assert is_served(server, made)


def _session(server: Server, made: ssl.SSLContext) -> tuple[ssl.SSLContext, ssl.SSLSession]:
    with secured(server, made) as wrapped:
        wrapped.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while wrapped.recv(4096):
            pass
        assert wrapped.session is not None
        return made, wrapped.session


def test_a_session_is_taken_up_again(server: Server, authority: Authority) -> None:
    made, session = _session(server, context(authority))
    plain = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
    with made.wrap_socket(plain, server_hostname=server.host, session=session) as wrapped:
        assert wrapped.session_reused


def test_at_the_end_a_connection_is_closed_as_tls_closes_it(digits: Path, own: Pair, authority: Authority) -> None:
    with encrypted(digits, own) as server:
        plain = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
        made = context(authority)
        # Without the alert that ends it, reading fails.
        with made.wrap_socket(plain, server_hostname=server.host, suppress_ragged_eofs=False) as wrapped:
            wrapped.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wrapped.recv(4096).startswith(b"HTTP/1.1 200")
            assert server.stop().returncode == 0
            assert wrapped.recv(4096) == b""


# --- certificates that are changed


def replace(file: Path, content: bytes) -> None:
    """Put a file in another's place, as tools for certificates do."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


def serial(server: Server, made: ssl.SSLContext) -> int:
    with secured(server, made) as wrapped:
        der = wrapped.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def test_a_changed_pair_is_taken_and_a_broken_one_is_not(digits: Path, authority: Authority, tmp_path: Path) -> None:
    first, second, old = (
        authority.sign("first"),
        authority.sign("second", days=10.0),
        authority.sign("outdated", days=-1.0),
    )
    pair = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    shutil.copy(first.certificate, pair.certificate)
    shutil.copy(first.key, pair.key)
    made = context(authority)

    def serial_of(one: Pair) -> int:
        return x509.load_pem_x509_certificate(one.certificate.read_bytes()).serial_number

    def reloads(server: Server) -> tuple[float, float]:
        counts = scraped(server, made)
        return counts["axon_tls_reloads_total", "loaded"], counts["axon_tls_reloads_total", "failed"]

    def days_left(server: Server) -> float:
        now = dt.datetime.now(dt.UTC).timestamp()
        expires = scraped(server, made)["axon_tls_certificate_expires_timestamp_seconds", ""]
        return (expires - now) / DAY.total_seconds()

    with encrypted(digits, pair) as server:
        assert serial(server, made) == serial_of(first)
        assert reloads(server) == (0, 0)
        assert 89 < days_left(server) < 91
        kept = http.client.HTTPSConnection(server.host, server.port, timeout=PATIENCE_S, context=made)
        kept.request("GET", "/v2/health/live")
        assert kept.getresponse().read() == b'{"live":true}'
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        with grpc.secure_channel(server.grpc_address, credentials) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            live(b"", timeout=PATIENCE_S)
            broken = [
                (pair.key, second.key.read_bytes()),
                (pair.certificate, b"no certificate"),
                (pair.certificate, old.certificate.read_bytes()),
            ]
            for count, (file, content) in enumerate(broken, 1):
                replace(file, content)
                wait_until(lambda count=count: reloads(server) == (0, count))  # type: ignore[misc]
                assert serial(server, made) == serial_of(first)
            replace(pair.key, second.key.read_bytes())
            replace(pair.certificate, second.certificate.read_bytes())
            wait_until(lambda: reloads(server) == (1, len(broken)))
            assert serial(server, made) == serial_of(second)
            assert 9 < days_left(server) < 11
            # What was open goes on.
            kept.request("GET", "/v2/health/live")
            assert kept.getresponse().status == 200
            live(b"", timeout=PATIENCE_S)
        kept.close()
        log = server.stop().stderr
    assert log.count("those of before stay: --tls-key: ") == 1
    assert log.count("those of before stay: --tls-cert: ") == 2


# --- files that are of no use


def test_files_that_cannot_be_used_are_named_at_the_start(
    command: list[str | Path], digits: Path, authority: Authority, own: Pair, tmp_path: Path
) -> None:
    other, old = authority.sign("other"), authority.sign("expired", days=-1.0)
    empty, garbage, large = (tmp_path / name for name in ("empty.pem", "garbage.pem", "large.pem"))
    empty.write_bytes(b"")
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    large.write_bytes(b"\n" * (2 << 20))
    cert, key, ca = "--tls-cert", "--tls-key", "--tls-client-ca"
    good, good_key, nowhere = str(own.certificate), str(own.key), "/nowhere.pem"
    rows: list[tuple[dict[str, str], str]] = [
        ({cert: good}, f"{key}: expected the key of {cert}, got nothing"),
        ({key: good_key}, f"{cert}: expected the certificate of {key}, got nothing"),
        ({ca: str(authority.file)}, f"{cert}: expected one, since {ca} is given, got nothing"),
        ({cert: nowhere, key: good_key}, f"{cert}: `{nowhere}` cannot be read: No such file"),
        ({cert: good, key: nowhere}, f"{key}: `{nowhere}` cannot be read: No such file"),
        ({cert: good, key: good_key, ca: nowhere}, f"{ca}: `{nowhere}` cannot be read: No such file"),
        ({cert: str(tmp_path), key: good_key}, f"{cert}: `{tmp_path}` cannot be read: "),
        ({cert: str(large), key: good_key}, f"{cert}: `{large}` is longer than 1048576 bytes"),
        ({cert: str(empty), key: good_key}, f"{cert}: `{empty}` has no certificate in PEM"),
        ({cert: str(garbage), key: good_key}, f"{cert}: `{garbage}` has a certificate (number 0) that is none: "),
        ({cert: good_key, key: good}, f"{cert}: `{good_key}` has no certificate in PEM"),
        ({cert: good, key: good}, f"{key}: `{good}` has no private key in PEM"),
        ({cert: good, key: str(other.key)}, f"{key}: `{other.key}` is not the key of {cert} `{good}`"),
        (
            {cert: str(old.certificate), key: str(old.key)},
            f"{cert}: `{old.certificate}` has a certificate (number 0) that expired at ",
        ),
        ({cert: good, key: good_key, ca: str(empty)}, f"{ca}: `{empty}` has no certificate in PEM"),
        (
            {cert: good, key: good_key, ca: str(garbage)},
            f"{ca}: `{garbage}` has a certificate (number 0) that is none: ",
        ),
    ]
    for options, expected in rows:
        words = [word for option in options.items() for word in option]
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        done = subprocess.run(
            [*command, digits, *ports, *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == 2, (options, done)
        name = " ".join(["axon", "serve"] if "serve" in command else ["axon-server"])
        assert done.stderr.startswith(f"{name}: {expected}"), (done.stderr, expected)


def test_no_gpu_is_no_series_and_no_word(digits: Path) -> None:
    """Where there is no library of NVIDIA's; where there is one, its series are told."""
    with serving(digits, "--log-level", "info", "--compat", "triton") as server:
        texts = [httpx2.get(f"http://{server.address}/metrics").raise_for_status().text for _ in range(3)]
        log = server.stop().stderr
    if shutil.which("nvidia-smi") is None:
        assert not any("axon_gpu_" in text or "nv_gpu_" in text or "nv_energy_" in text for text in texts)
    assert "GPU" not in log


# --- the document


def test_every_command_of_the_document_does_what_it_says(digits: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tls.md").read_text(encoding="utf-8")
    block = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for line in "".join(block).splitlines()]
    at = next(index for index, line in enumerate(lines) if line.startswith("axon serve "))
    shutil.copytree(digits.parent, tmp_path / "examples" / "digits")
    before, after = lines[:at], lines[at + 1 :]
    assert before
    assert after

    def run(line: str) -> str:
        path = f"{AXON.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=tmp_path,
            env=environment(PATH=path),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, (line, done)
        return done.stdout

    for line in before:
        run(line)
    _, _, model, *options = shlex.split(lines[at])
    with serving(model, *options, cwd=tmp_path) as server:
        printed = [run(line.replace("localhost:8000", server.address)) for line in after]
    assert json.loads(printed[0]) == {"ready": True}
    assert "label" in printed[1]
