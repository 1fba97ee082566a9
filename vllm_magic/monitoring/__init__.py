"""Measures the servers and GPUs once a second, and warns of a start that will probably fail."""
