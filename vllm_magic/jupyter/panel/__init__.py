"""The panel: an ipywidgets widget that shows and controls the servers of a kernel.

One thread owns the state of the panel (`controller`), and only this thread sends to the front end. Requests of the views,
update requests of the sampler, and the results of background work reach it through a queue. The JavaScript of the front
end is in ``front/``.
"""
