"""TLS: certificates that are changed, files that are of no use, and the document's commands."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import grpc
import httpx2
from authority import DAY, Authority, Pair
from cryptography import x509
from serving import AXON, PATIENCE_S, Server, environment, serving
from test_lifecycle import command
from test_tls import ROOT, context, encrypted, replace, scraped, secured, wait_until

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

__all__ = ["command"]


# --- certificates that are changed


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
