"""Readiness asked over TLS: a certificate of another name will do, since the address is this machine."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import pytest
from http_answers import serving


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_certificate_of_another_name_will_do(tmp_path):
    made = subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=elsewhere",
                "-days",
                "2",
            ),
            *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
        ],
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving({"/health": (200, "")}, context) as client:
        assert client.health() == 200
