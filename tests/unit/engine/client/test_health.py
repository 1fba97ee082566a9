"""Readiness and requests in flight, asked of real HTTP servers."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from http_answers import serving

from vllm_magic.engine.client.health import Api
from vllm_magic.engine.client.metrics import Activity
from vllm_magic.engine.endpoint import Endpoint

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="/m/{tiny}"} 2.0
vllm:num_requests_running{engine="1",model_name="/m/{tiny}"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="/m/{tiny}"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
vllm:num_requests_running_created{engine="0"} 1.7e+09
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="/m/{tiny}"} 1.5e+03
vllm:prompt_tokens_total{engine="1",model_name="/m/{tiny}"} 20.0
vllm:prompt_tokens_created{engine="0",model_name="/m/{tiny}"} 1.7e+09
vllm:prompt_tokens_cached_total{engine="0",model_name="/m/{tiny}"} 8.0
vllm:generation_tokens_total{engine="0",model_name="/m/{tiny}"} 300.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="/m/{tiny}"} 4.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="/m/{tiny}"} 1.0
"""


def test_ready_is_a_200_of_health():
    with serving({"/health": (200, "")}) as client:
        assert client.health() == 200
        assert client.health() == 200


@pytest.mark.parametrize("status", [404, 500, 503, 302])
def test_any_other_status_is_returned_as_it_is(status):
    with serving({"/health": (status, "")}) as client:
        assert client.health() == status


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Api(Endpoint("127.0.0.1", port, "key"), lambda: None)
    assert client.health() is None
    assert client.activity() is None


def test_somebody_who_does_not_speak_http():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection = listener.accept()[0]
            with contextlib.suppress(OSError):
                connection.sendall(b"SSH-2.0-x\r\n")
            connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        client = Api(Endpoint("127.0.0.1", listener.getsockname()[1], "key"), lambda: None)
        assert client.health() is None
        thread.join()


def test_one_that_listens_and_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Api(Endpoint("127.0.0.1", listener.getsockname()[1], "key"), lambda: None, limit=0.2)
        assert client.health() is None


def test_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with serving({"/health": (200, "")}, host="::1") as client:
        assert client.health() == 200


def test_a_proxy_is_not_asked(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving({"/health": (200, "")}) as client:
        assert client.health() == 200


def test_requests_in_flight_are_those_of_all_engines():
    with serving({"/metrics": (200, METRICS)}) as client:
        assert client.activity().in_flight == 7
    with serving({"/metrics": (200, "python_info 1.0\n")}) as client:
        assert client.activity() is None
    with serving({}) as client:
        assert client.activity() is None


def test_what_was_served_is_that_of_all_engines():
    with serving({"/metrics": (200, METRICS)}) as client:
        assert client.activity() == Activity(3, 4, 5, 1520, 300)
    with serving({"/metrics": (503, METRICS)}) as client:
        assert client.activity() is None
    for without in ("prompt_tokens_total 1.0\n", "vllm:num_requests_running 0.0\n"):
        with serving({"/metrics": (200, without)}) as client:
            assert client.activity() is None
    with serving({"/metrics": (200, "vllm:prompt_tokens_total 1.0\n")}) as client:
        assert client.activity() == Activity(0, 0, 0, 1, 0)
