"""The magic ``%vllm``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, needs_local_scope, no_var_expand
from traitlets import Float, Unicode

from vllm_magic.errors import InvalidOption, ServerNotFound, VllmMagicError
from vllm_magic.jupyter import arguments, words
from vllm_magic.jupyter.arguments import Verb
from vllm_magic.jupyter.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from IPython.core.interactiveshell import InteractiveShell

    from vllm_magic.engine.download import Download
    from vllm_magic.jupyter.ask import Asker
    from vllm_magic.manager import Manager
    from vllm_magic.server import Server

HELP = """\
%vllm                        the servers of this kernel
%vllm start MODEL [flags]    serve a model; flags of `vllm serve` go to vLLM as they stand
      --name NAME            what to call it (else the last part of the model's name)
      --gpus 0,1 | auto      GPUs by index or UUID, or the freest that are enough (else vLLM chooses)
      --port N               TCP port (else a free one)
      --env NAME=VALUE       environment variable for the server; may be repeated
      --executable PATH      the vllm to run (else $VLLM_MAGIC_EXECUTABLE, vllm beside this Python, vllm on $PATH)
      --profile NAME         the words of this profile, before those of this line
      --force                start it also where the GPUs have too little free memory, or vLLM has no such flag
      --keep 10m             outlive this kernel for so long, for another one to attach (else it ends with the kernel)
      --ttl 30m              release it when it had no request for that long
      --no-wait              return at once
      --timeout TIME         give up, and release it, when it is not ready by then
%vllm attach [NAME]          take over a server that was kept
%vllm stop [NAME | --all]    end it, and prove that its VRAM is back
      --drain TIME           let requests finish first
      --grace TIME           from SIGTERM to SIGKILL
%vllm restart [NAME]         stop it and start it again
%vllm switch MODEL [flags]   have it ready as start does, with the others out of its way: asleep, else stopped
%vllm sleep [NAME]           give its VRAM back but keep its processes; it was started with --enable-sleep-mode
      --level 2              throw the weights away (else they go to the machine's memory)
%vllm wake [NAME]            wake it up
%vllm status [NAME]          the same as %vllm, for one
%vllm logs [NAME] [-n N]     the last lines of its log, also after its end
%vllm fit MODEL [flags]      whether it would fit, and what it needs: weights, KV cache; the words are those of start
%vllm metrics [NAME]         requests, tokens a second, KV cache, times to the first token and between tokens
%vllm lora list              the LoRA adapters of a server that was started with --enable-lora
%vllm lora load NAME FOLDER  load one; name it as the model in a request
%vllm lora unload NAME       unload it
      --server NAME          of which server, where there are several
%vllm bench [NAME] [flags]   measure it with `vllm bench serve`, which takes the flags
%vllm pull MODEL             download it ahead of its start; what is here whole is not downloaded again
      --revision REVISION    a branch, tag or commit (else the main one)
%vllm models                 what is in the Hugging Face cache: size, served or not
%vllm gpu                    who holds how much of which GPU
%vllm doctor                 what is wrong on this machine, and what helps
%vllm reap                   release what dead kernels left
      --pid PID [--yes]      show, and with --yes end, a vLLM process that nobody owns
%vllm help                   this
%%vllm [NAME]                say the cell below to a model; its answer comes as Markdown, Interrupt ends it
      --system TEXT          the system message
      --temperature T        0 for the likeliest words each time
      --max-tokens N         the most to answer
      --as VARIABLE          keep the answer in a variable
      --json SCHEMA          an answer that fits a JSON schema: JSON in single quotes, or a variable with a
                             dict or a pydantic model class; --as keeps it parsed
      --history, --new       go on with the conversation with this server; begin a new one

NAME can be left out where there is only one. {name} and $name put in variables of the notebook ($$ is a
dollar sign), but not in the cell below %%vllm, which is sent as it stands. TIME is 90, 90s, 30m or 1h30m.
`server = %vllm start ...` keeps the server: server.base_url, server.api_key, server.stop().
%config VllmMagics shows what can be set for each start: executable, flags, gpus, host, and the grace of each stop.
A profile is a table of ~/.config/vllm-magic/profiles.toml, of lines such as model = "ORG/MODEL", gpus = "0,1", ttl = "30m",
env = { NAME = "VALUE" }, flags = "--max-model-len 32768"; %vllm start --profile NAME uses it."""

FORESIGHT = 0.2  # seconds that a start without waiting waits for a warning

# What lower floors return, and the function in `views` that shows it; by name, so that loading imports none.
VIEWS = {
    "vllm_magic.server.Server": "server",
    "vllm_magic.release.Release": "release",
    "vllm_magic.life.nap.Nap": "nap",
    "vllm_magic.engine.generate.Answer": "answer",
    "vllm_magic.life.fit.Fit": "fit",
}


@magics_class
class VllmMagics(Magics):
    """Serve models with vLLM from the notebook."""

    executable = Unicode("", help="Path of the vllm to run; empty for the one that is found.").tag(
        config=True
    )
    flags = Unicode("", help="Words behind each %vllm start MODEL, before its own.").tag(config=True)
    gpus = Unicode("", help="The --gpus of each start; empty: vLLM chooses.").tag(config=True)
    host = Unicode("", help="The --host of each start; empty for 127.0.0.1.").tag(config=True)
    grace = Float(
        None,
        min=0.0,
        allow_none=True,
        help="Seconds from SIGTERM to SIGKILL; None: as long as SIGTERM shows an effect.",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell  # Magics.shell is typed as if it could be missing
        self._asker: Asker | None = None
        self._add_views()

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def vllm(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Start, stop and see vLLM servers, and say a cell to one; `%vllm help` tells how."""
        try:
            said = words.expand(words.split(line), {**self._shell.user_ns, **(local_ns or {})})
            if cell is not None:
                return self._ask(said, cell)
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
            Verb.SWITCH: self._switch,
            Verb.SLEEP: self._sleep,
            Verb.WAKE: self._wake,
            Verb.STATUS: self._status,
            Verb.LOGS: self._logs,
            Verb.FIT: self._fit,
            Verb.METRICS: self._metrics,
            Verb.LORA: self._lora,
            Verb.BENCH: self._bench,
            Verb.MODELS: self._models,
            Verb.PULL: self._pull,
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
        return self._run(arguments.start(said, self._defaults()))

    def _defaults(self) -> Settings:
        return Settings(self.executable, self.flags, self.gpus, self.host)

    def _run(self, wanted: arguments.StartWords) -> Any:
        from vllm_magic.jupyter.progress import ProgressLine, ready

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
        line.finish(ready(start.server) if wanted.wait and not start.reused else "")
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

    def _ask(self, said: list[str], cell: str) -> None:
        from vllm_magic.jupyter.ask import Asker

        if self._asker is None:
            self._asker = Asker(notebook=hasattr(self._shell, "kernel"))
        wanted = arguments.ask(said)
        self._asker.ask(self._manager.get(wanted.name), cell.strip("\n"), wanted, self._shell.user_ns)

    def tell_news(self, *_: object) -> None:
        """Print what happened without anyone's asking; run after each cell, in the thread that runs cells."""
        if "vllm_magic.manager" in sys.modules:
            for line in self._manager.news():
                print(line)  # noqa: T201 - in the cell's thread

    def _stop(self, said: list[str]) -> Any:
        from vllm_magic.jupyter import views

        wanted = arguments.stop(said, self.grace)
        with _interruptible():
            if wanted.every:
                return views.releases(self._manager.stop_all(grace=wanted.grace, drain=wanted.drain))
            return self._manager.stop(wanted.name, grace=wanted.grace, drain=wanted.drain)

    def _restart(self, said: list[str]) -> Any:
        server = self._manager.get_even_past(arguments.restart(said))
        if not server.state.over:
            with _interruptible():
                self._manager.stop(server.name, grace=self.grace)
        return self._run(arguments.StartWords(server.spec, wait=True, timeout=None))

    def _switch(self, said: list[str]) -> Any:
        from vllm_magic import switching
        from vllm_magic.jupyter.progress import ProgressLine

        wanted = arguments.start(said, self._defaults(), Verb.SWITCH)
        line = ProgressLine(notebook=hasattr(self._shell, "kernel"))
        try:
            switch = switching.switch(self._manager, wanted.spec, timeout=wanted.timeout, report=line.report)
        finally:
            line.finish("")
        for done in switch.done:
            print(done.text)  # noqa: T201 - in the cell's thread
        return switch.server

    def _sleep(self, said: list[str]) -> Any:
        from vllm_magic import switching

        wanted = arguments.sleep(said)
        return switching.sleep(self._manager, wanted.name, wanted.level)

    def _wake(self, said: list[str]) -> Any:
        from vllm_magic import switching

        return switching.wake(self._manager, arguments.wake(said))

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

    def _metrics(self, said: list[str]) -> Any:
        from vllm_magic.jupyter import views

        server = self._manager.get(arguments.metrics(said))
        return views.metrics(server.name, server.metrics())

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
        from vllm_magic.jupyter.progress import Line
        from vllm_magic.view import View

        wanted = arguments.bench(said)
        server = self._manager.get(wanted.name)
        line = Line(notebook=hasattr(self._shell, "kernel"))

        def report(last: str, seconds: float) -> None:
            line.show(f"{server.name}: vllm bench serve, {seconds:.0f} s  {last}", None)

        try:
            return View(lines=tuple(server.bench(*wanted.args, report=report)))
        except KeyboardInterrupt:
            raise VllmMagicError("Interrupted: the benchmark was ended. The server runs on.") from None
        finally:
            line.finish("")

    def _models(self, said: list[str]) -> Any:
        import os

        from vllm_magic.engine import hf_cache
        from vllm_magic.jupyter import views

        arguments.nothing(Verb.MODELS, said)
        cache = hf_cache.folder((), os.environ)
        return views.models(cache, hf_cache.models(cache), list(self._manager.servers().values()))

    def _pull(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.progress import Line, download
        from vllm_magic.life.pull import pull
        from vllm_magic.view import View, gib

        wanted = arguments.pull(said)
        line = Line(notebook=hasattr(self._shell, "kernel"))

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
