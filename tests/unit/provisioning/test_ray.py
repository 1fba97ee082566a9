"""A server for a Ray cluster: its options are checked before anything is sent to the cluster."""

from __future__ import annotations

import pytest

from vllm_magic.engine import free_port
from vllm_magic.engine.address import LOOPBACK
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.provisioning import ray


def spec(*args: str) -> ServerSpec:
    return ServerSpec("m", args, cluster="http://127.0.0.1:8265")


@pytest.mark.parametrize("port", ["0", "99999", "many"])
def test_a_port_that_is_none(port):
    with pytest.raises(InvalidOption, match="eave --port out for a free one"):
        ray.build(spec("--port", port))


def test_a_port_that_is_taken():
    with free_port.bind(LOOPBACK, 0) as taken:
        taken.listen()
        with pytest.raises(StartFailed, match="is taken"):
            ray.build(spec("--port", str(taken.getsockname()[1])))


def test_the_port_goes_to_the_agent_only():
    port = free_port.choose(LOOPBACK)
    command, job_spec = ray.build(spec("--port", str(port), "--seed", "1"))
    assert (command.endpoint.port, job_spec.port, job_spec.args) == (port, port, ("--seed", "1"))
