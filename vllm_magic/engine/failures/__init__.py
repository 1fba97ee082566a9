"""The cause of a failed start, read from vLLM's log, and a hint what to do."""
