"""Release the servers whose kernel and guards are dead, and clear the folders of servers without living processes."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.errors import VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.guard import record
from vllm_magic.guard.protocol import Why
from vllm_magic.ledger import Condition
from vllm_magic.linux import disk, files, machine
from vllm_magic.recovery import hung_guards, orphaned_commands
from vllm_magic.release import force_kill, from_record, local_verifier, report, unproved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from vllm_magic.gpu.probe import Probe
    from vllm_magic.guard.record import Record
    from vllm_magic.ledger import Entry, Folder
    from vllm_magic.linux.processes import Process
    from vllm_magic.recovery.orphaned_commands import EndedCommand
    from vllm_magic.release.result import Release
    from vllm_magic.release.unproved import Recheck

CLUSTER_LIMIT = 5.0  # seconds to wait for the answer of a Ray cluster
SWEPT_CONDITIONS = (Condition.ORPHANED, Condition.LEFT, Condition.RELEASING, Condition.HUNG)
UNANSWERED = "unseen"  # a file in the folder of a server whose cluster did not answer
RETRY_LIMIT = 86400.0  # seconds for which later sweeps try again to reach a cluster that does not answer


@dataclass(frozen=True)
class Swept:
    """One server that was swept.

    Attributes:
        name: the name of the server.
        id: the id of its folder.
        release: the release; None if only files were left, or if the server could not be checked.
        problem: why the server could not be checked; "" if it was checked.
        left_alone: a sentence about the processes that have the server's environment but do not belong to it; "" for none.
        files_left: a sentence about files that could not be removed; "" for none.
    """

    name: str
    id: str
    release: Release | None
    problem: str = ""
    left_alone: str = ""
    files_left: str = ""

    @property
    def verified(self) -> bool:
        """Whether nothing of the server is left."""
        return not self.problem and not self.files_left and (self.release is None or self.release.verified)

    @property
    def text(self) -> str:
        """What happened, in one line."""
        files_left = f"{self.files_left}." if self.files_left else ""
        return " ".join(filter(None, (self._text, self.left_alone, files_left)))

    @property
    def _text(self) -> str:
        if self.problem:
            return f"{self.name} was left by a kernel that died, and cannot be checked: {self.problem}"
        if self.release is None:
            cleared = "cannot be cleared" if self.files_left else "are cleared"
            return f"{self.name}: its files were left, and {cleared}."
        count = len(self.release.ended)
        ended = f"{count} process{'' if count == 1 else 'es'} ended in {self.release.seconds:.1f} s"
        if self.release.verified:
            return (
                f"{self.name} was left by a kernel that died: {ended}, proved by {self.release.proof.value}."
                f"{self.release.in_brackets}"
            )
        return f"{self.name} was left by a kernel that died, and is NOT released: {self.release.note}."


def sweep_all(probe: Probe) -> list[Swept | EndedCommand | Recheck]:
    """Sweep here and on the clusters, end orphaned commands, and check again each release that is not proved.

    Raises:
        OSError: as for `sweep`.
    """
    rechecked = unproved.recheck(probe)  # before the sweeps, which check their own releases
    return [*sweep(probe, with_files=True), *orphaned_commands.end(), *sweep_clusters(probe), *rechecked]


def sweep(probe: Probe, *, with_files: bool = False) -> list[Swept]:
    """Release every orphan of this machine in the ledger, and clear every folder of a server without living processes.

    Each folder has a lock, so that only one of several sweeps handles it. A sweep never touches servers of living kernels, of
    guards that work, or of another boot, machine, PID namespace or user. It ends guards that hang after their kernel's end.

    Args:
        probe: reads the GPUs.
        with_files: whether to report a server that left only files which cannot be removed. Each sweep finds such files again.

    Raises:
        PermissionError: other users can enter or replace the state folder.
        OSError: the state folder cannot be read, or /proc shows another PID namespace.
    """
    machine.check_proc()
    entries = ledger.entries()
    for entry in entries:
        if entry.condition is Condition.TORN:
            _remove_unfinished(entry.folder)
    done = [_sweep(entry, server, probe) for entry, server in _ownerless(entries, on_cluster=False)]
    return [swept for swept in done if swept and (swept.release or not swept.files_left or with_files)]


def sweep_clusters(probe: Probe) -> list[Swept]:
    """Release every server on a Ray cluster whose kernel is dead, as `sweep` does for this machine.

    This takes as long as a cluster takes to answer. A cluster that does not answer is asked once. The folders of its servers
    are kept for `RETRY_LIMIT` seconds after the first attempt.

    Args:
        probe: reads the GPUs.

    Raises:
        PermissionError: other users can enter or replace the state folder.
        OSError: the state folder cannot be read, or /proc shows another PID namespace.
    """
    machine.check_proc()
    done: list[Swept] = []
    silent: set[str] = set()
    for entry, server in _ownerless(ledger.entries(), on_cluster=True):
        if server.cluster in silent:
            continue
        try:
            swept = _sweep(entry, server, probe, on_cluster=True)
        except VllmMagicError as error:
            swept = Swept(server.name, entry.id, None, str(error))
        if swept and swept.release and swept.release.may_recheck:
            silent.add(server.cluster)
        done += [swept] if swept else []
    return done


def _ownerless(entries: Iterable[Entry], *, on_cluster: bool) -> Iterator[tuple[Entry, Record]]:
    """Yield the servers without a kernel, and without guards that work: those of clusters, or those of this machine."""
    for entry in entries:
        if entry.record and entry.condition in SWEPT_CONDITIONS and bool(entry.record.job) is on_cluster:
            yield entry, entry.record


def _sweep(entry: Entry, found: Record, probe: Probe, *, on_cluster: bool = False) -> Swept | None:
    """Release one server; return None if another sweep handles it, or if there is nothing to report.

    Args:
        entry: the server.
        found: the record of the entry.
        probe: reads the GPUs.
        on_cluster: whether the server may run though no process of it lives here.
    """
    with contextlib.ExitStack() as stack:
        # The GPUs' locks are taken first: a start waits for them even while another sweep holds the folder's lock.
        with contextlib.suppress(OSError, ValueError):
            stack.enter_context(locks.ReleaseLocks(found.gpus))
        if entry.condition in (Condition.HUNG, Condition.RELEASING) and not hung_guards.end(entry):
            return None
        try:
            if not disk.may_hang(entry.path):  # on a disk that may hang, the guards hold no lock either
                stack.callback(record.drop_lock, record.hold_lock(str(entry.path)))
        except OSError as error:
            # Another sweep holds the lock, or the folder is gone. On a file system without locks, two sweeps may release the
            # same server, which does no harm.
            if error.errno not in files.NO_LOCKS:
                return None
        again = ledger.read_entry(entry.path)
        if again is None or again.record is None:  # another sweep was faster
            return None
        living = entry.processes
        release = _release(entry, found, living, probe) if living or on_cluster else None
        left = [[process.pid, process.start] for process in release.left] if release else []
        ledger.add_known_processes(entry.path, left)
        # While a process lives, only the folder shows to which server it belongs. A later check of memory needs no folder
        # (see `unproved`), but a later request to a cluster needs it.
        stays = bool(left) or bool(entry.processes)
        stays = stays or bool(on_cluster and release and release.may_recheck and _may_retry(entry))
        if not stays:
            entry.folder.clear()
    if release is None and stays:
        return None
    files_left = ""
    if not stays:
        files_left = entry.folder.clear()  # again: NFS renames a removed file that is open, as the lock was
    left_alone = (
        local_verifier.left_alone(entry.folder.mark, entry.leader) if release is None else release.left_alone
    )
    return Swept(found.name, entry.id, release, left_alone=left_alone, files_left=files_left)


def _may_retry(entry: Entry) -> bool:
    """Whether a later sweep may try again to reach the server's cluster. The first call begins the time of `RETRY_LIMIT`."""
    try:
        return disk.call(entry.path, _is_young, entry.path / UNANSWERED)
    except OSError:
        return False


def _is_young(marker: Path) -> bool:
    """Whether the file is not older than `RETRY_LIMIT`; make it if it is missing."""
    try:
        marker.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return time.time() - files.modified(marker) < RETRY_LIMIT
    return True


def _remove_unfinished(folder: Folder) -> None:
    """Remove the folder of a kernel that was killed before it wrote the record. A folder with any file in it stays."""
    with contextlib.suppress(OSError):
        disk.call(folder.path, _remove_if_empty, folder)


def _remove_if_empty(folder: Folder) -> None:
    if {path.name for path in folder.path.iterdir()} <= {folder.tmp.name}:
        if folder.tmp.exists():
            folder.tmp.rmdir()
        folder.path.rmdir()


def _release(entry: Entry, found: Record, living: Iterable[Process], probe: Probe) -> Release:
    began = time.monotonic()
    verifier = from_record.verifier(found, entry.folder.mark, probe, silence=CLUSTER_LIMIT)
    known = [process.identity for process in living]
    verifier.observe_before_stop(known, in_a_hurry=False)
    ended = force_kill.kill_server(entry.folder, entry.leader, known)
    release = report.release(found.name, Why.KERNEL_GONE, began, [ended], verifier, entry.leader)
    unproved.update(entry.leader, verifier, release)
    return release
