"""What Tab shows behind ``server.``: what users use, and nothing else."""

from __future__ import annotations

from view_checks import a_server

from vllm_magic.engine.client.requests import RequestMethods
from vllm_magic.server.server import Server

STATUS = (
    "status name model spec state progress ready_after pid url base_url port api_key log_path start_kind cold_because "
    "asleep job nodes reachable caveat release error"
)
LIFE = "wait stop sleep wake log processes metrics plot bench"
REQUESTS = "chat complete embed score classify client async_client load_lora unload_lora loras"


def test_the_public_names():
    shown = {name for name in dir(a_server()) if not name.startswith("_")}
    assert shown == {*STATUS.split(), *LIFE.split(), *REQUESTS.split()}


def test_it_inherits_its_requests_and_nothing_else():
    assert Server.__mro__ == (Server, RequestMethods, object)
