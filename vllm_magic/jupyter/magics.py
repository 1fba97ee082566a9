"""The magic ``%vllm``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import line_cell_magic, magics_class, needs_local_scope, no_var_expand

from vllm_magic.errors import InvalidOption, ServerNotFound
from vllm_magic.jupyter.commands import expansion, parser
from vllm_magic.jupyter.commands.inspect import Showing
from vllm_magic.jupyter.commands.lifecycle import Running
from vllm_magic.jupyter.commands.model import Using
from vllm_magic.jupyter.commands.parser import Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

# What lower floors return, and the function in `views` that shows it; by name, so that loading imports none.
VIEWS = {
    "vllm_magic.server.server.Server": "server",
    "vllm_magic.release.result.Release": "release",
    "vllm_magic.server.sleep_mode.Nap": "nap",
    "vllm_magic.engine.client.generate.Answer": "answer",
    "vllm_magic.engine.capacity.fit.Fit": "fit",
}


@magics_class
class VllmMagics(Running, Showing, Using):
    """Serve models with vLLM from the notebook."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._add_views()

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def vllm(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Start, stop and see vLLM servers, and say a cell to one; `%vllm help` tells how."""
        try:
            said = expansion.expand(expansion.split(line), {**self._shell.user_ns, **(local_ns or {})})
            if cell is not None:
                return self._ask(said, cell)
            verb = parser.verb(said)
            return self._verbs()[verb](said[1:])
        except (InvalidOption, ServerNotFound) as error:
            raise UsageError(str(error)) from None

    def _verbs(self) -> dict[Verb, Callable[[list[str]], Any]]:
        return {
            Verb.PANEL: self._show_panel,
            Verb.START: self._start,
            Verb.ATTACH: self._attach,
            Verb.STOP: self._stop,
            Verb.RESTART: self._restart,
            Verb.SWITCH: self._switch,
            Verb.SPARE: self._set_spare,
            Verb.SLEEP: self._sleep,
            Verb.WAKE: self._wake,
            Verb.STATUS: self._status,
            Verb.LOGS: self._logs,
            Verb.FIT: self._fit,
            Verb.METRICS: self._metrics,
            Verb.PLOT: self._plot,
            Verb.LORA: self._lora,
            Verb.BENCH: self._bench,
            Verb.MODELS: self._models,
            Verb.PULL: self._pull,
            Verb.GPU: self._gpu,
            Verb.CLUSTER: self._cluster,
            Verb.DOCTOR: self._doctor,
            Verb.REAP: self._reap,
            Verb.HELP: self._help,
        }

    def tell_news(self, *_: object) -> None:
        """Print what happened without anyone's asking; run after each cell, in the thread that runs cells."""
        if "vllm_magic.manager.manager" in sys.modules:
            for line in self._manager.news():
                print(line)  # noqa: T201 - in the cell's thread

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


def _view(function: str, value: Any) -> Any:
    from vllm_magic.jupyter.display import views

    return getattr(views, function)(value)


def _html(function: str) -> Callable[[Any], str]:
    return lambda value: _view(function, value)._repr_html_()


def _plain(function: str) -> Callable[[Any, Any, bool], None]:
    return lambda value, printer, _: printer.text(repr(_view(function, value)))
