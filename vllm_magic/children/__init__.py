"""Child processes that are no servers: downloads, benchmarks, the reading of vLLM's flags and of its version."""
