"""The fault matrix: whatever dies, in whatever phase, whoever the engine is: nothing is left.

Every death is a test; its cells (engines x phases) are servers of one host, which die it together. See
tests/matrix. The results are written to $VLLM_MAGIC_MATRIX, if it is set; `make reliability` makes
docs/reliability.md of them.
"""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import pytest
from matrix.deaths import DEATHS
from matrix.run import OURS, Stages

TODAY = ("terminate", "killpg", "psutil")
RESULTS = os.environ.get("VLLM_MAGIC_MATRIX")
# With the results goes what people use today, in every death; without, in those where it must show.
SHOWN = tuple(death.name for death in DEATHS if death.today) if RESULTS else ("shutdown-c-loop", "sigkill")
PACKAGES = ("ipykernel", "jupyter_client", "jupyter_server", "nbclient", "nbconvert", "ipython")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stages(request, tmp_path_factory):
    """All stages that this session wants, begun in the order of their tests."""
    stages = Stages(tmp_path_factory.mktemp("matrix"))
    for item in request.session.items:
        if item.module is request.module:
            stages.ask(item.callspec.params["death"].name, item.callspec.params.get("method", OURS))
    yield stages
    stages.close()
    if RESULTS:
        machine = {
            "cores": os.cpu_count(),
            "linux": platform.release(),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        }
        Path(RESULTS).write_text(json.dumps({"machine": machine, "cells": stages.finished()}))


@pytest.mark.parametrize("death", [pytest.param(death, id=death.name) for death in DEATHS])
def test_nothing_is_left(stages, death):
    cells = stages.result(death.name, OURS)
    left = [cell for cell in cells if not cell["clean"]]
    if death.survivors:  # nobody is left who could end them
        assert {"ignores SIGTERM", "setsid child", "daemon"} <= {cell["engine"] for cell in left}
    else:
        assert left == []


@pytest.mark.parametrize("method", TODAY)
@pytest.mark.parametrize("death", [pytest.param(d, id=d.name) for d in DEATHS if d.name in SHOWN])
def test_what_people_use_today(stages, death, method):
    """The figures are for the table; where atexit is not run, the method must show what is left."""
    cells = stages.result(death.name, method)
    if death.name in ("shutdown-c-loop", "sigkill") and method != "terminate":
        assert all(cell["survivors"] for cell in cells)
