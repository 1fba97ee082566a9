"""``%vllm start`` and ``stop``, and what else changes which servers run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands import arguments, start_arguments
from vllm_magic.jupyter.commands.base import Deeds
from vllm_magic.jupyter.commands.parser import Verb
from vllm_magic.release.result import Release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.server.server import Server

FORESIGHT = 0.2  # seconds that a start without waiting waits for a warning


class Running(Deeds):
    """Each gives what its cell shows."""

    def _start(self, said: list[str]) -> Any:
        return self._run(start_arguments.start(said, self.settings))

    def _run(self, wanted: start_arguments.StartWords) -> Any:
        from vllm_magic.jupyter.display.progress import ProgressLine, ready

        line = ProgressLine(notebook=self._in_notebook)
        foresight = self._manager.foresee(wanted.spec)

        def report(server: Server) -> None:
            if warning := foresight.warning():
                line.finish("")
                print(warning)  # noqa: T201 - in the cell's thread
            line.report(server)

        try:
            start = self._manager.start(wanted.spec, wait=wanted.wait, timeout=wanted.timeout, report=report)
        except BaseException:
            line.finish("")
            raise
        line.finish(ready(start.server) if wanted.wait and not start.reused else "")
        if start.reused:
            print(f"{start.server.name} runs already, with the same options.")  # noqa: T201 - in the cell's thread
        elif not wanted.wait and (warning := foresight.warning(FORESIGHT)):
            print(warning)  # noqa: T201
        if wanted.wait and not start.reused and start.server.caveat:
            print(f"{start.server.name}: {start.server.caveat}.")  # noqa: T201
        if start.server.exposed and not start.reused:
            print(  # noqa: T201
                f"Other machines can reach {start.server.name}. Its key guards /v1 only: vLLM leaves /invocations, "
                "/tokenize and /metrics open."
            )
        return start.server

    def _attach(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display.progress import ProgressLine

        line = ProgressLine(notebook=self._in_notebook)
        before = self._manager.servers()
        try:
            return self._manager.attach(arguments.attach(said), report=line.report)
        except KeyboardInterrupt:
            attached = [
                name for name, server in self._manager.servers().items() if server is not before.get(name)
            ]
            if not attached:
                raise
            raise VllmMagicError(
                f"Interrupted: {attached[0]} is attached, and goes on starting. %vllm shows how far it is."
            ) from None
        finally:
            line.finish("")

    def _stop(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display import views

        wanted = arguments.stop(said, self.grace)
        with _interruptible():
            if wanted.every:
                return views.releases(self._manager.stop_all(grace=wanted.grace, drain=wanted.drain))
            return self._manager.stop(wanted.name, grace=wanted.grace, drain=wanted.drain)

    def _restart(self, said: list[str]) -> Any:
        server = self._manager.get_even_past(arguments.restart(said))
        if not server.state.over:
            self._manager.expect(server.spec)
            with _interruptible():
                release = self._manager.stop(server.name, grace=self.grace)
            if release.doubt:
                print(release.text + release.in_brackets)  # noqa: T201 - in the cell's thread
        return self._run(start_arguments.StartWords(server.spec, wait=True, timeout=None))

    def _switch(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display.progress import ProgressLine
        from vllm_magic.manager import switching

        wanted = start_arguments.start(said, self.settings, Verb.SWITCH)
        line = ProgressLine(notebook=self._in_notebook)
        try:
            switch = switching.switch(self._manager, wanted.spec, timeout=wanted.timeout, report=line.report)
        finally:
            line.finish("")
        for done in switch.done:
            print(done.text + (done.in_brackets if isinstance(done, Release) else ""))  # noqa: T201 - in the cell's thread
        return switch.server

    def _set_spare(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display import views

        deed = arguments.spare(said)
        if deed is not arguments.SpareDeed.STATUS:
            self.spare = deed.value
        spares = self._manager.spares
        if deed is arguments.SpareDeed.ON:
            self._manager.expect_another(start_arguments.start(["any"], self.settings).spec)
        elif deed is arguments.SpareDeed.OFF:
            spares.wait_gone()
        return views.spare(spares.status())

    def _sleep(self, said: list[str]) -> Any:
        from vllm_magic.manager import switching

        wanted = arguments.sleep(said)
        return switching.sleep(self._manager, wanted.name, wanted.level)

    def _wake(self, said: list[str]) -> Any:
        from vllm_magic.manager import switching

        return switching.wake(self._manager, arguments.wake(said))


@contextmanager
def _interruptible() -> Iterator[None]:
    """An interrupt ends the wait for a release, not the release."""
    try:
        yield
    except KeyboardInterrupt:
        raise VllmMagicError(
            "Interrupted: the release goes on by itself. %vllm shows how far it is."
        ) from None
