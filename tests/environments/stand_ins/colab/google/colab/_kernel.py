"""The kernel class: its own answer to a request for completions, and its own shell."""

from google.colab import _shell
from ipykernel import ipkernel, jsonutil


class Kernel(ipkernel.IPythonKernel):
    """The kernel of a runtime."""

    def _shell_class_default(self):
        return _shell.Shell

    def complete_request(self, stream, ident, parent):
        """Answer with the type of each match, which it asks the shell for."""
        content = parent["content"]
        matches = self.do_complete(content["code"], content["cursor_pos"])
        types = [{"type_name": self.shell.object_inspect(one)["type_name"]} for one in matches["matches"]]
        matches["metadata"] = {"colab_types_experimental": types}
        self.session.send(stream, "complete_reply", jsonutil.json_clean(matches), parent, ident)
