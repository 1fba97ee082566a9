"""A stand-in for the package google-colab: what its kernel and its shell change, and its functions that we call."""

from . import output, userdata

__all__ = ["load_ipython_extension", "output", "userdata"]


def load_ipython_extension(shell):
    """Handle the errors of imports in a way of its own, as google-colab does."""

    def handle(shell, kind, error, traceback, tb_offset=None):
        lines = shell.InteractiveTB.structured_traceback(kind, error, traceback, tb_offset=tb_offset)
        shell._showtraceback(kind, error, [*lines, "", "NOTE: If your import is failing ..."])
        return lines

    shell.set_custom_exc((ImportError,), handle)
