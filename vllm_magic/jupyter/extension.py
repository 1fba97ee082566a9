"""Adding ``%vllm`` to a shell and removing it."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from vllm_magic.jupyter.completion import matcher
from vllm_magic.jupyter.loaded_manager import loaded_manager
from vllm_magic.jupyter.magics import VllmMagics
from vllm_magic.notation import Notation, use

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load(shell: InteractiveShell) -> None:
    """Register the magic, and begin to release the servers that dead kernels left behind; a second call does nothing."""
    if VllmMagics.__name__ not in shell.magics_manager.registry:
        magics = VllmMagics(shell)
        use(Notation.MAGIC)
        shell.register_magics(magics)
        shell.events.register("post_run_cell", magics.print_news)
        matcher.add(shell, magics)
        threading.Thread(target=_sweep, name="vllm-magic sweep", daemon=True).start()


def _sweep() -> None:
    """Release the servers that dead kernels left behind; import the manager only if the ledger has an entry."""
    from vllm_magic import ledger

    with suppress(OSError):  # the manager's sweep reports the error
        if not ledger.folders():
            return  # the manager need not be imported
    from vllm_magic.manager.manager import manager

    manager.sweep()


def _stop_servers() -> None:
    """Stop every server, print the releases, and end the spare and the sampler."""
    manager = loaded_manager()
    if manager is None:
        return
    from vllm_magic.provisioning.standby_pool import StandbyMode

    for release in manager.stop_all():
        print(release.text)  # noqa: T201 - in the cell's thread
    manager.spares.set_mode(StandbyMode.OFF)
    manager.spares.wait_gone()
    manager.close()


def unload(shell: InteractiveShell) -> None:
    """Stop every server, then remove the magic.

    Raises:
        ReleaseFailed: a server was not released; the magic stays, so that the user can see and stop that server.
    """
    magics = shell.magics_manager.registry.get(VllmMagics.__name__)
    if magics is None:
        return
    _stop_servers()
    if "vllm_magic.jupyter.panel.singleton" in sys.modules:
        from vllm_magic.jupyter.panel import singleton

        singleton.close()
    registered: dict[str, dict[str, Any]] = shell.magics_manager.magics
    for kind in ("line", "cell"):
        registered[kind].pop("vllm", None)
    del shell.magics_manager.registry[VllmMagics.__name__]
    configurables = cast("list[Any]", shell.configurables)
    configurables[:] = [configurable for configurable in configurables if configurable is not magics]
    shell.events.unregister("post_run_cell", magics.print_news)
    matcher.remove(shell)
    use(Notation.CALL)
    if "vllm_magic.children.flag_reading" in sys.modules:
        from vllm_magic.children import flag_reading

        flag_reading.end()
