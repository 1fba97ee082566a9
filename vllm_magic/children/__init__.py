"""Watched child processes that are no servers: downloads, benchmarks, and the reading of vLLM's flags."""
