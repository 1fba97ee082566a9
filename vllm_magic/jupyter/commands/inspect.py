"""``%vllm status`` and what else only looks, ``reap`` among it: it begins with a look."""

from __future__ import annotations

import os
from typing import Any

from vllm_magic import ledger
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands import arguments, parser, start_arguments
from vllm_magic.jupyter.commands.base import Deeds
from vllm_magic.jupyter.commands.help import HELP
from vllm_magic.jupyter.commands.parser import Verb
from vllm_magic.view import gib


class Showing(Deeds):
    """Each gives what its cell shows."""

    def _show_panel(self, said: list[str]) -> Any:
        parser.nothing(Verb.PANEL, said)
        if not self._in_notebook:
            return self._status([])
        from vllm_magic.jupyter.panel.singleton import panel

        return panel()

    def _status(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display import views

        name = arguments.status(said)
        servers = list(self._manager.servers().values()) if name is None else [self._manager.get(name)]
        others = [f"{one.name}: its Ray cluster does not answer." for one in servers if not one.reachable]
        others += [f"{one.name}: {one.caveat}." for one in servers if one.caveat]
        if not name:
            others += [*self._manager.farewells(), *self._manager.waiting(), *self._spare_line()]
        if servers and (full := ledger.full_disk()):
            others.append(f"{full}: what servers say is not in their logs. Make room there.")
        return views.status(servers, self._manager.recent_gpus() if servers else None, others)

    def _spare_line(self) -> list[str]:
        one = self._manager.spares.status()
        return [f"A spare waits for the next start, in {gib(one.memory)} of memory."] if one.warm else []

    def _logs(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display import views

        wanted = arguments.logs(said)
        server = self._manager.get_even_past(wanted.name)
        return views.lines(server.name, server.log(wanted.count), server.farewell)

    def _fit(self, said: list[str]) -> Any:
        return self._manager.fit(start_arguments.fit(said, self.settings))

    def _metrics(self, said: list[str]) -> Any:
        from vllm_magic.jupyter.display import views

        server = self._manager.get(arguments.metrics(said))
        return views.metrics(server.name, server.metrics())

    def _plot(self, said: list[str]) -> Any:
        return self._manager.get_even_past(arguments.plot(said)).plot()

    def _models(self, said: list[str]) -> Any:
        from vllm_magic.engine.models import hf_cache
        from vllm_magic.jupyter.display import views

        parser.nothing(Verb.MODELS, said)
        cache = hf_cache.folder((), os.environ)
        return views.models(cache, hf_cache.models(cache), list(self._manager.servers().values()))

    def _gpu(self, said: list[str]) -> Any:
        from vllm_magic.doctor import gpus, survey

        parser.nothing(Verb.GPU, said)
        return gpus.view(*survey.holders(self._manager.probe))

    def _cluster(self, said: list[str]) -> Any:
        from vllm_magic.cluster.survey import survey, view

        return view(survey(arguments.cluster(said)), {one.job for one in self._manager.servers().values()})

    def _doctor(self, said: list[str]) -> Any:
        from vllm_magic.doctor.survey import survey
        from vllm_magic.jupyter.display import views

        parser.nothing(Verb.DOCTOR, said)
        return views.doctor(survey(self._manager.probe, self.executable or None))

    def _reap(self, said: list[str]) -> Any:
        from vllm_magic.doctor import reap
        from vllm_magic.jupyter.display import views
        from vllm_magic.recovery.sweep import sweep_all

        wanted = arguments.reap(said)
        probe = self._manager.probe
        try:
            if not wanted.pids:
                return views.swept(sweep_all(probe))
            candidates = reap.judge_all(wanted.pids)
        except OSError as error:  # the state folder is not ours alone
            raise VllmMagicError(str(error)) from None
        shown = reap.view(candidates, probe.snapshot())
        reaped = [reap.reap(one, probe) for one in candidates] if wanted.sure else []
        return views.reaped(shown, reaped, wanted.pids)

    def _help(self, _: list[str]) -> Any:
        from vllm_magic.view import View

        return View(lines=tuple(HELP.splitlines()))
