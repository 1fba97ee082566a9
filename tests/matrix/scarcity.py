"""Deaths by what the machine runs out of."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import by_hand

from . import resources

if TYPE_CHECKING:
    from .stage import Stage

HOG = "hog = []\nwhile True: hog.append(b'x' * (1 << 20))"
MORE = 256 << 20  # bytes that the host may still take
NO_DESCRIPTOR = (
    "import os, resource\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n"
    "held = []\n"
    "while True:\n"
    "    try: held.append(os.open('/dev/null', os.O_RDONLY))\n"
    "    except OSError: break\n"
)
JOIN = "open(__import__('os').environ['MATRIX_GROUP'] + '/cgroup.procs', 'w').write('0')\ninside.begin()"


def _make_group(stage: Stage) -> None:
    group = resources.MemoryGroup(stage.id)
    stage.cleanup.callback(group.close)
    stage.host.env["MATRIX_GROUP"] = str(group.path)
    stage.group = group


def _limit_memory(stage: Stage) -> None:
    assert stage.group is not None
    stage.group.limit(MORE)


def _mount(stage: Stage) -> None:
    stage.cleanup.enter_context(resources.small_disk(stage.home))


def _fill(stage: Stage) -> None:
    resources.fill(stage.home)
    os.kill(stage.host.pid, signal.SIGKILL)


def _delete(stage: Stage) -> None:
    by_hand.remove_tree(stage.home)
    os.kill(stage.host.pid, signal.SIGKILL)


MEMORY: dict[str, Any] = {
    "begin": JOIN,
    "ending": HOG,
    "prepare": _make_group,
    "before": _limit_memory,
}
DESCRIPTORS: dict[str, Any] = {"ending": NO_DESCRIPTOR}
DISK: dict[str, Any] = {"prepare": _mount, "act": _fill}
FOLDER: dict[str, Any] = {"act": _delete}
