"""The functions of an output: the manager of widgets, and ports of the runtime in a frame."""

import json

from IPython import display

from . import _widgets
from ._widgets import enable_custom_widget_manager

__all__ = ["_widgets", "enable_custom_widget_manager", "serve_kernel_port_as_iframe"]


def serve_kernel_port_as_iframe(port, path="/", width="100%", height="400", cache_in_notebook=False):
    """Show a frame with a port of the runtime."""
    display.display(display.Javascript(f"frame({port}, {json.dumps(path)}, {json.dumps(height)})"))
