"""The panel: an ipywidgets widget that shows the servers of a kernel and steers them.

One thread owns all that a panel knows (`controller`): clicks, looks of the sampler and the ends of longer work come to it
as messages, and it alone sends to the front end. What the front end draws is in ``front/``.
"""
