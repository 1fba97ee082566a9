"""All that is known of vLLM: its command line, log lines, failures, HTTP API. Nothing here starts a process."""
