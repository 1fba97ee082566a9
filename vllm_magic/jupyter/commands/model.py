"""``%%vllm``, and what else is done with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands import arguments
from vllm_magic.jupyter.commands.base import Deeds

if TYPE_CHECKING:
    from vllm_magic.engine.models.download import Download
    from vllm_magic.jupyter.display.chat_cell import Asker


class Using(Deeds):
    """Each gives what its cell shows."""

    _asker: Asker | None = None

    def _ask(self, said: list[str], cell: str) -> None:
        from vllm_magic.jupyter.display.chat_cell import Asker

        if self._asker is None:
            self._asker = Asker(notebook=self._in_notebook)
        wanted = arguments.ask(said)
        self._asker.ask(self._manager.get(wanted.name), cell.strip("\n"), wanted, self._shell.user_ns)

    def _lora(self, said: list[str]) -> Any:
        from vllm_magic.view import View

        wanted = arguments.lora(said)
        server = self._manager.get(wanted.server)
        if wanted.deed is arguments.LoraDeed.LOAD:
            server.load_lora(wanted.adapter, wanted.path)
        elif wanted.deed is arguments.LoraDeed.UNLOAD:
            server.unload_lora(wanted.adapter)
        names = server.loras()
        listed = ", ".join(names) if names else "none. %vllm lora load NAME FOLDER loads one"
        return View(f"Adapters of {server.name}: {listed}.")

    def _bench(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display.progress import Line
        from vllm_magic.view import View

        wanted = arguments.bench(said)
        server = self._manager.get(wanted.name)
        line = Line(notebook=self._in_notebook)

        def report(last: str, seconds: float) -> None:
            line.show(f"{server.name}: vllm bench serve, {seconds:.0f} s  {last}", None)

        try:
            return View(lines=tuple(server.bench(*wanted.args, report=report)))
        except KeyboardInterrupt:
            raise VllmMagicError("Interrupted: the benchmark was ended. The server runs on.") from None
        finally:
            line.finish("")

    def _pull(self, said: list[str]) -> Any:
        from vllm_magic.children.pull import pull
        from vllm_magic.jupyter.display.progress import Line, download
        from vllm_magic.view import View, gib

        wanted = arguments.pull(said)
        line = Line(notebook=self._in_notebook)

        def report(seen: Download) -> None:
            share = min(1.0, seen.done / seen.total) if seen.total else None
            line.show(f"{wanted.model}: {download(seen)}", share)

        try:
            done = pull(wanted.model, revision=wanted.revision, vllm=self.executable or None, report=report)
        except KeyboardInterrupt:
            raise VllmMagicError(
                f"Interrupted. Files that are here whole stay, for the next %vllm pull {wanted.model}."
            ) from None
        finally:
            line.finish("")
        return View(f"{done.model} is here, {gib(done.size)}: {done.folder}")
