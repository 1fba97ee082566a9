"""One set of checks for several versions of vLLM: `make versions`."""
