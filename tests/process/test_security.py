"""What another user of the machine can see of a server, and do to it: nothing."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from stand_in import leftovers

from vllm_magic.guard.protocol import Attach, Stop, encode
from vllm_magic.linux import processes

PROGRAM = Path(__file__).with_name("stranger.py")
TOKEN = "hf_" + "aBcDeFgH" * 4
SECRET = "wJalrXUtnFEMI/K7MDENG"
DENIED = {"EACCES", "EPERM"}


@pytest.fixture
def stranger():
    """Has another user try something; gives what came of each attempt."""
    if os.getuid() != 0:
        pytest.fail("Only root can become another user: run this as root (CI does)")

    def attempt(*attempts: tuple[object, ...]) -> list[str]:
        nobody = str(pwd.getpwnam("nobody").pw_uid)
        ended = subprocess.run(
            [sys.executable, PROGRAM, nobody], input=json.dumps(attempts), capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return attempt


@pytest.fixture
def home(monkeypatch):
    """A state folder that is reached by everybody; pytest's own folders are not."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("VLLM_MAGIC_HOME", f"{folder}/h")
        monkeypatch.setenv(leftovers.HOME, f"{folder}/h")
        yield Path(folder, "h")


@pytest.fixture
def server(manager, spec):
    env = {"AWS_SECRET_ACCESS_KEY": SECRET}
    wanted = spec("tiny", "--api-key", "a-key-of-my-own", "--hf-token", TOKEN, env=env)
    return manager.start(wanted, timeout=60).server


def family(server) -> list[int]:
    """The pids of the leader, of all below it, and of both guards."""
    table = processes.table()
    inner = table[server.pid].parent
    outer = table[inner].parent
    return [outer, *sorted(processes.descendants(table, outer))]


def files(home: Path) -> list[Path]:
    """Everything in the state folder that is no folder."""
    return [path for path in home.rglob("*") if not path.is_dir()]


def open_up(home: Path) -> None:
    """Open every folder to everybody, as a careless chmod does."""
    for folder in [home, *(path for path in home.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)


def test_every_file_is_private_by_its_own_mode(server, home):
    found = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in files(server.log_path.parent)}
    assert {"log", "record.json", "control", "alive"} <= found.keys()
    ours = {path.name for path in server.log_path.parent.iterdir()}
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077 and name in ours} == {}
    folders = [home, home / "logs", server.log_path.parent, server.log_path.parent / "t"]
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in folders] == ["0o700"] * 4
    release = server.stop()
    assert release.verified
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in files(home)] == ["0o600"]  # the kept log


def test_the_key_and_the_tokens_are_in_no_file_but_the_log(server, home):
    for path in files(home):
        if not path.is_socket() and path.name != "log":
            data = path.read_bytes()
            assert not any(secret.encode() in data for secret in (server.api_key, TOKEN, SECRET)), path
    assert server.api_key.encode() not in server.log_path.read_bytes()


def test_another_user_sees_nothing(server, home, stranger):
    folder = server.log_path.parent
    paths = [home, folder, home / "logs", folder / "t"]
    assert set(stranger(*(("list", str(path)) for path in paths))) == {"EACCES"}
    assert set(stranger(*(("read", str(path)) for path in files(home)))) == {"EACCES"}
    assert set(stranger(*(("write", str(folder / name)) for name in ("log", "new")))) == {"EACCES"}


def test_nor_where_the_folders_were_opened(server, home, stranger):
    open_up(home)
    folder = server.log_path.parent
    names = ("log", "record.json", "alive")
    assert set(stranger(*(("read", str(folder / name)) for name in names))) == {"EACCES"}
    assert set(stranger(*(("write", str(folder / name)) for name in (*names, "new")))) == {"EACCES"}
    assert stranger(("connect", str(folder / "control"), "")) == ["EACCES"]
    home.chmod(0o700)


def test_what_every_user_sees_of_a_process_holds_no_secret(server, stranger):
    pids = family(server)
    assert len(pids) >= 4
    shown = stranger(
        *(
            (what, f"/proc/{pid}/{name}")
            for pid in pids
            for what, name in (("read", "cmdline"), ("read", "comm"))
        )
    )
    assert "serve" in "".join(shown)
    assert not any(secret in line for line in shown for secret in (server.api_key, TOKEN, SECRET))


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("read", "environ"),
        ("read", "mem"),
        ("read", "maps"),
        ("list", "fd"),
        ("link", "cwd"),
        ("link", "exe"),
    ],
)
def test_what_is_private_of_a_process_is_not_seen(server, stranger, what, name):
    pids = family(server)
    assert server.api_key.encode() in Path(f"/proc/{server.pid}/environ").read_bytes()
    assert set(stranger(*((what, f"/proc/{pid}/{name}") for pid in pids))) <= DENIED


def test_another_user_cannot_touch_a_process(server, stranger):
    pids = family(server)
    attempts = [(what, pid) for pid in pids for what in ("signal", "pidfd", "ptrace")]
    assert set(stranger(*attempts)) == {"EPERM"}
    assert server.state == "ready"
    assert family(server) == pids


def test_another_user_is_not_let_in_by_the_guard(server, home, stranger):
    """Not even where both the folder and the socket were opened: the guard asks who it is (SO_PEERCRED)."""
    control = server.log_path.parent / "control"
    open_up(home)
    control.chmod(0o666)
    said = [encode(message).decode() for message in (Stop(0.0, 0.0), Attach(None))]
    answers = stranger(*(("connect", str(control), one) for one in said))
    assert set(answers) <= {"hung up", "ECONNRESET", "EPIPE"}
    assert server.state == "ready"
    assert processes.read(server.pid).alive
    home.chmod(0o700)
    assert server.stop().verified


def test_another_user_needs_the_key(server, stranger):
    assert stranger(("get", server.port, "/v1/models"), ("get", server.port, "/health")) == ["401", "200"]


def test_the_stranger_can_do_what_is_open(stranger, tmp_path_factory):
    """So that the denials above are no fault of the stranger's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "open")
        path.write_text("hello")
        path.chmod(0o644)
        assert stranger(("read", str(path)), ("list", folder), ("write", str(path))) == [
            "hello",
            "open",
            "EACCES",
        ]
        user = pwd.getpwnam("nobody").pw_uid
        with subprocess.Popen(["sleep", "60"], user=user, group=user, extra_groups=[]) as own:
            try:
                got = stranger(("ptrace", own.pid), ("signal", own.pid), ("pidfd", own.pid))
            finally:
                own.kill()
        assert got == ["attached", "sent", "sent"]
