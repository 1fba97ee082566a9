"""The fault matrix: no death leaves anything behind, in any phase, with any engine.

Each test is one death. Its cells (engines x phases) are servers of one host, and the host dies once for all of them; see
`matrix`. Of each class of deaths that the guards cannot tell apart, one is tried with all cells; the others are tried with
each engine in one phase, and each phase with some engine.

`make reliability` tries everything: where $VLLM_MAGIC_MATRIX names a folder, each death is tried with all cells, and with
the methods that people use today. The results are written there.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from matrix.cells import every, pairs
from matrix.deaths import DEATHS, Seen
from matrix.ports import free_ports
from matrix.run import OURS, play

RESULTS = os.environ.get("VLLM_MAGIC_MATRIX")
# The full run tries the methods of today with every death that they can have. `make test` tries those of which something
# must be left: atexit is not run in these deaths.
TODAY = ("terminate", "killpg", "psutil") if RESULTS else ("killpg", "psutil")
LEFT = ("shutdown-c-loop", "sigkill")
SHOWN = tuple(death.name for death in DEATHS if death.today) if RESULTS else LEFT

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def results(tmp_path) -> Path:
    """Where the results go."""
    folder = Path(RESULTS) if RESULTS else tmp_path
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("death", [pytest.param(death, id=death.name) for death in DEATHS])
def test_nothing_is_left(results, death):
    cells = play(death.name, OURS, "every" if RESULTS or death.in_full else "pairs", results)
    left = [cell for cell in cells if not cell["clean"]]
    if death.survivors:  # nobody is left who could end them
        assert {"ignores SIGTERM", "setsid child", "daemon"} <= {cell["engine"] for cell in left}
    else:
        assert left == []


@pytest.mark.parametrize("method", TODAY)
@pytest.mark.parametrize("death", [pytest.param(d, id=d.name) for d in DEATHS if d.name in SHOWN])
def test_what_people_use_today(results, death, method):
    """The figures are for the table; where atexit is not run, something must be left."""
    cells = play(death.name, method, "some", results)
    if death.name in LEFT and method != "terminate":
        assert all(cell["survivors"] for cell in cells)


def test_no_port_is_given_out_twice():
    """The server that was given the port first may not listen yet."""
    given = [port for _ in range(10) for port in free_ports(20)]
    assert len(set(given)) == len(given) == 200


def test_one_of_each_class_is_tried_in_full():
    assert Counter(death.seen for death in DEATHS if death.in_full) == Counter(Seen)


def test_the_others_meet_every_engine_and_every_phase():
    whole = {cell.name: cell for number in range(4) for cell in every(number)}
    for number, death in enumerate(DEATHS):
        if death.in_full:
            continue
        concerned = [cell for cell in whole.values() if death.concerns(cell)]
        met = [cell for cell in pairs(number) if death.concerns(cell)]
        assert {cell.name for cell in met} <= whole.keys()
        assert {cell.engine.name for cell in met} == {cell.engine.name for cell in concerned}
        assert {cell.phase for cell in met} == {cell.phase for cell in concerned}


def test_every_engine_meets_every_phase_in_some_of_the_others():
    whole = {cell.name for number in range(4) for cell in every(number)}
    others = [(number, death) for number, death in enumerate(DEATHS) if not death.in_full]
    assert {cell.name for number, death in others for cell in pairs(number) if death.concerns(cell)} == whole
