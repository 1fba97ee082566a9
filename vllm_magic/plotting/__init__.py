"""A server's life as a figure: the samples that are kept of it, and the SVG."""
