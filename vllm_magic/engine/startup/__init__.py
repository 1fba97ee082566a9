"""The progress of a start: its stages, read from vLLM's log, and the time left, from the times of earlier starts."""
