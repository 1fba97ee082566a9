"""Fixtures for all tests: a state folder for each test, the stand-in for vLLM, and a check of what is left behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
import stand_in
from by_hand import PatientProbe
from fake_gpu import fakegpu
from shells import a_shell
from stand_in import leftovers
from traces import Traces, temporary_folders

from vllm_magic import ledger, notation
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.loaded_manager import loaded_manager
from vllm_magic.manager.manager import Manager
from vllm_magic.notation import Notation
from vllm_magic.provisioning.standby_pool import StandbyMode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from IPython.core.interactiveshell import InteractiveShell

pytest_plugins = ["tiers"]

# A shell makes background commands ignore these signals, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

_numbers = itertools.count()  # of the cache folders of this process


@pytest.fixture
def home(tmp_path, monkeypatch) -> Iterator[Path]:
    """Yield the path of the state folder, which does not exist yet."""
    folder = tmp_path / "home"
    monkeypatch.setenv("VLLM_MAGIC_HOME", str(folder))
    monkeypatch.setenv(leftovers.HOME, str(folder))
    yield folder
    with contextlib.suppress(OSError, VllmMagicError):  # a test may have made it unreadable
        for entry in ledger.entries():
            if entry.record and not entry.processes:
                entry.folder.clear()  # with its shared memory
    for left in temporary_folders(folder):
        shutil.rmtree(left, ignore_errors=True)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """Return the path of the cache folder, which does not exist yet."""
    # Not in `tmp_path`: most tests need no folder, and pytest would make and remove one for each of them.
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(_numbers)}"
    monkeypatch.setenv("VLLM_MAGIC_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def environments_folder(tmp_path, monkeypatch) -> Path:
    """Return the main folder of the environments of vLLM, which does not exist yet: starts use none of the user's own."""
    folder = tmp_path / "environments"
    monkeypatch.setenv("VLLM_MAGIC_ENVIRONMENTS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def online(monkeypatch) -> None:
    """Have the stand-in started with names that no cache has, also where the environment of the tests forbids asking the Hub."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def notations() -> Iterator[None]:
    """Have the next test begin with the notation of a new process, whatever a terminal's command or a shell has set."""
    yield
    notation.use(Notation.CALL)


@pytest.fixture(scope="session", autouse=True)
def ipython(tmp_path_factory) -> Iterator[None]:
    """Keep the shells and kernels of the tests from the IPython folder of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        yield


@pytest.fixture(scope="session")
def executable(tmp_path_factory) -> str:
    """Install the stand-in for vLLM, and return its path."""
    return str(stand_in.install(tmp_path_factory.mktemp("stand-in")))


@pytest.fixture
def shell(home, executable, monkeypatch) -> Iterator[InteractiveShell]:
    """Yield a shell with the extension loaded and the stand-in configured, as in a terminal."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    if earlier := loaded_manager():
        earlier.news()  # the kernel's manager serves all tests of this process; what it has to tell of them is theirs
    with a_shell() as shell:
        shell.run_line_magic("load_ext", "vllm_magic")
        yield shell
        shell.run_line_magic("unload_ext", "vllm_magic")


@pytest.fixture
def traces(home) -> Traces:
    """Return the `Traces` of servers; a test checks with `traces.check()` that nothing is left behind."""
    return Traces(home)


@pytest.fixture
def patient(monkeypatch) -> None:
    """Make managers wait longer for the driver (`PatientProbe`), in tests of its answers, not of a driver that hangs."""
    monkeypatch.setattr("vllm_magic.manager.manager.Probe", PatientProbe)


@pytest.fixture
def manager(home):
    """Yield a manager of the test's own; after the test its servers are stopped."""
    made = Manager()
    yield made
    try:
        made.stop_all(grace=0.0)
    finally:
        made.spares.set_mode(StandbyMode.OFF)
        assert made.spares.wait_gone()
        made.close()


@pytest.fixture
def spec(executable):
    """Return a function that makes specs for the stand-in: ``spec("tiny", "--flag", name=..., faults={...})``."""

    def make(model: str = "tiny", *args: str, faults: dict | None = None, **fields) -> ServerSpec:
        env = {**fields.pop("env", {}), **(stand_in.options(**faults) if faults else {})}
        fields.setdefault("executable", executable)
        return ServerSpec(model=model, args=args, env=tuple(sorted(env.items())), **fields)

    return make


@pytest.fixture
def fake_gpus(tmp_path, monkeypatch) -> Path:
    """Make two fake GPUs of 24 GiB, which the manager's probe and the stand-in find; return their folder."""
    root = fakegpu.build(tmp_path / "gpu", gpus=2)
    for name, value in fakegpu.env(root).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    return root
