"""The panel: an ipywidgets widget that shows and controls the servers of a kernel.

One thread owns the panel's state (`controller`). Clicks, update requests from the sampler and the results of background
work reach this thread through a queue, and it alone sends to the front end. ``front/`` holds the front end's JavaScript.
"""
