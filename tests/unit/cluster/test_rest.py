"""The client for the head of a cluster: whom it trusts."""

from __future__ import annotations

import ssl

from vllm_magic.cluster.rest import Ray


def test_a_head_needs_a_certificate_of_a_public_authority(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")  # ours is not the environment's to choose
    trust = Ray("https://head:8265")._trust
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert len(trust.get_ca_certs()) > 50


def test_one_without_tls_needs_none():
    assert Ray("http://head:8265")._trust is None
