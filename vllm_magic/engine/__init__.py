"""Knowledge about vLLM: its command line, its log, its failures, its HTTP API. Nothing here starts a process."""
