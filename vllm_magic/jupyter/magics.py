"""The magic ``%vllm``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, needs_local_scope, no_var_expand
from traitlets import Unicode

from vllm_magic.errors import InvalidOption, ServerNotFound, VllmMagicError
from vllm_magic.jupyter import arguments, words
from vllm_magic.jupyter.arguments import Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.manager import Manager
    from vllm_magic.server import Server

HELP = """\
%vllm                        the servers of this kernel
%vllm start MODEL [flags]    serve a model; flags of `vllm serve` go to vLLM as they stand
      --name NAME            what to call it (else the last part of the model's name)
      --gpus 0,1 | auto      GPUs by index or UUID, or the freest that are enough (else vLLM chooses)
      --port N               TCP port (else a free one)
      --env NAME=VALUE       environment variable for the server; may be repeated
      --executable PATH      the vllm to run (else %config VllmMagics.executable, $VLLM_MAGIC_EXECUTABLE,
                             vllm beside this Python, vllm on $PATH)
      --force                start it also where the GPUs have too little free memory
      --keep 10m             outlive this kernel for so long, for another one to attach (else it ends with the kernel)
      --ttl 30m              release it when it had no request for that long
      --no-wait              return at once
      --timeout TIME         give up, and release it, when it is not ready by then
%vllm attach [NAME]          take over a server that was kept
%vllm stop [NAME | --all]    end it, and prove that its VRAM is back
      --drain TIME           let requests finish first
      --grace TIME           from SIGTERM to SIGKILL
%vllm restart [NAME]         stop it and start it again
%vllm status [NAME]          the same as %vllm, for one
%vllm logs [NAME] [-n N]     the last lines of its log, also after its end
%vllm fit MODEL [flags]      whether it would fit, and what it needs: weights, KV cache; the words are those of start
%vllm gpu                    who holds how much of which GPU
%vllm doctor                 what is wrong on this machine, and what helps
%vllm reap                   release what dead kernels left
      --pid PID [--yes]      show, and with --yes end, a vLLM process that nobody owns
%vllm help                   this

NAME can be left out where there is only one. {name} and $name put in variables of the notebook ($$ is a
dollar sign). TIME is 90, 90s, 30m or 1h30m. `server = %vllm start ...` keeps the server: server.base_url, server.api_key, server.stop()."""

FORESIGHT = 0.2  # seconds that a start without waiting waits for a warning

# What lower floors return, and the function in `views` that shows it; by name, so that loading imports none.
VIEWS = {
    "vllm_magic.server.Server": "server",
    "vllm_magic.release.Release": "release",
    "vllm_magic.life.fit.Fit": "fit",
}


@magics_class
class VllmMagics(Magics):
    """Serve models with vLLM from the notebook."""

    executable = Unicode("", help="Path of the vllm to run; empty for the one that is found.").tag(
        config=True
    )

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell  # Magics.shell is typed as if it could be missing
        self._add_views()

    @needs_local_scope
    @no_var_expand
    @line_magic
    def vllm(self, line: str, local_ns: dict[str, Any] | None = None) -> Any:
        """Start, stop and see vLLM servers; `%vllm help` tells how."""
        try:
            said = words.expand(words.split(line), {**self._shell.user_ns, **(local_ns or {})})
            verb = arguments.verb(said)
            return self._verbs()[verb](said[1:])
        except (InvalidOption, ServerNotFound) as error:
            raise UsageError(str(error)) from None

    def _verbs(self) -> dict[Verb, Callable[[list[str]], Any]]:
        return {
            Verb.START: self._start,
            Verb.ATTACH: self._attach,
            Verb.STOP: self._stop,
            Verb.RESTART: self._restart,
            Verb.STATUS: self._status,
            Verb.LOGS: self._logs,
            Verb.FIT: self._fit,
            Verb.GPU: self._gpu,
            Verb.DOCTOR: self._doctor,
            Verb.REAP: self._reap,
            Verb.HELP: self._help,
        }

    @property
    def _manager(self) -> Manager:
        from vllm_magic.manager import manager

        return manager

    def _start(self, said: list[str]) -> Any:
        wanted = arguments.start(said, self.executable or None)
        return self._run(wanted)

    def _run(self, wanted: arguments.StartWords) -> Any:
        from vllm_magic.jupyter.progress import ProgressLine

        line = ProgressLine(notebook=hasattr(self._shell, "kernel"))
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
        ready = start.server.ready_after if wanted.wait and not start.reused else None
        line.finish("" if ready is None else f"{start.server.name} is ready after {ready:.1f} s.")
        if start.reused:
            print(f"{start.server.name} runs already, with the same options.")  # noqa: T201 - in the cell's thread
        elif not wanted.wait and (warning := foresight.warning(FORESIGHT)):
            print(warning)  # noqa: T201
        if start.server.exposed and not start.reused:
            print(  # noqa: T201
                f"Other machines can reach {start.server.name}. Its key guards /v1 only: vLLM leaves /invocations, "
                "/tokenize and /metrics open."
            )
        return start.server

    def _attach(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.progress import ProgressLine

        line = ProgressLine(notebook=hasattr(self._shell, "kernel"))
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

    def tell_news(self, *_: object) -> None:
        """Print what happened without anyone's asking; run after each cell, in the thread that runs cells."""
        if "vllm_magic.manager" in sys.modules:
            for line in self._manager.news():
                print(line)  # noqa: T201 - in the cell's thread

    def _stop(self, said: list[str]) -> Any:
        from vllm_magic.jupyter import views

        wanted = arguments.stop(said)
        with _interruptible():
            if wanted.every:
                return views.releases(self._manager.stop_all(grace=wanted.grace, drain=wanted.drain))
            return self._manager.stop(wanted.name, grace=wanted.grace, drain=wanted.drain)

    def _restart(self, said: list[str]) -> Any:
        server = self._manager.get_even_past(arguments.restart(said))
        if not server.state.over:
            with _interruptible():
                self._manager.stop(server.name)
        return self._run(arguments.StartWords(server.spec, wait=True, timeout=None))

    def _status(self, said: list[str]) -> Any:
        from vllm_magic.jupyter import views

        name = arguments.status(said)
        servers = list(self._manager.servers().values()) if name is None else [self._manager.get(name)]
        others = [*self._manager.farewells(), *self._manager.waiting()] if name is None else []
        return views.status(servers, self._manager.gpus() if servers else None, others)

    def _logs(self, said: list[str]) -> Any:
        from vllm_magic.jupyter import views

        wanted = arguments.logs(said)
        server = self._manager.get_even_past(wanted.name)
        return views.lines(server.name, server.log(wanted.count), server.farewell)

    def _fit(self, said: list[str]) -> Any:
        return self._manager.fit(arguments.fit(said))

    def _gpu(self, said: list[str]) -> Any:
        from vllm_magic.doctor import gpus, survey

        arguments.nothing(Verb.GPU, said)
        return gpus.view(*survey.holders(self._manager.probe))

    def _doctor(self, said: list[str]) -> Any:
        from vllm_magic.doctor.survey import survey
        from vllm_magic.jupyter import views

        arguments.nothing(Verb.DOCTOR, said)
        return views.doctor(survey(self._manager.probe, self.executable or None))

    def _reap(self, said: list[str]) -> Any:
        from vllm_magic.doctor import reap
        from vllm_magic.jupyter import views
        from vllm_magic.life.sweep import sweep

        wanted = arguments.reap(said)
        probe = self._manager.probe
        try:
            if not wanted.pids:
                return views.swept(sweep(probe))
            candidates = reap.judge_all(wanted.pids)
        except OSError as error:  # the state folder is not ours alone
            raise VllmMagicError(str(error)) from None
        shown = reap.view(candidates, probe.snapshot())
        reaped = [reap.reap(one, probe) for one in candidates] if wanted.sure else []
        return views.reaped(shown, reaped, wanted.pids)

    def _help(self, _: list[str]) -> Any:
        from vllm_magic.view import View

        return View(lines=tuple(HELP.splitlines()))

    def _add_views(self) -> None:
        for formatters, name, view in self._views():
            module, _, kind = name.rpartition(".")
            formatters["text/html"].for_type_by_name(module, kind, _html(view))
            formatters["text/plain"].for_type_by_name(module, kind, _plain(view))

    def remove_views(self) -> None:
        """Take the formatters out of the shell again."""
        for formatters, name, _ in self._views():
            formatters["text/html"].pop(name, None)
            formatters["text/plain"].pop(name, None)

    def _views(self) -> list[tuple[Any, str, str]]:
        formatter = self._shell.display_formatter
        return [(formatter.formatters, name, view) for name, view in VIEWS.items()] if formatter else []


@contextmanager
def _interruptible() -> Iterator[None]:
    """An interrupt ends the wait for a release, not the release."""
    try:
        yield
    except KeyboardInterrupt:
        raise VllmMagicError(
            "Interrupted: the release goes on by itself. %vllm shows how far it is."
        ) from None


def _view(function: str, value: Any) -> Any:
    from vllm_magic.jupyter import views

    return getattr(views, function)(value)


def _html(function: str) -> Callable[[Any], str]:
    return lambda value: _view(function, value)._repr_html_()


def _plain(function: str) -> Callable[[Any, Any, bool], None]:
    return lambda value, printer, _: printer.text(repr(_view(function, value)))
