"""The shell class: events, errors and cell magics in ways of its own."""

import sys

from ipykernel import jsonutil, zmqshell
from IPython.core import events, interactiveshell


class Shell(zmqshell.ZMQInteractiveShell):
    """The shell of a runtime."""

    def init_events(self):
        self.events = events.EventManager(self, events.available_events)
        self.events.register("pre_execute", self._clear_warning_registry)

    def _showtraceback(self, etype, evalue, stb):
        sys.stdout.flush()
        sys.stderr.flush()
        content = {"traceback": stb, "ename": etype.__name__, "evalue": str(evalue)}
        hook = self.displayhook
        topic = hook.topic.replace(b"execute_result", b"err") if hook.topic else None
        hook.session.send(
            hook.pub_socket, "error", jsonutil.json_clean(content), hook.parent_header, ident=topic
        )
        self._last_traceback = stb

    def run_cell_magic(self, magic_name, line, cell):
        return super().run_cell_magic(magic_name, line, " " if line and not cell else cell)


interactiveshell.InteractiveShellABC.register(Shell)
