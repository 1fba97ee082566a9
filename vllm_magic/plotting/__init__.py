"""The figure of a server from its start to its end: the samples that are kept, and the SVG."""
