"""A start as vLLM's log tells it: the stages, and the time left by what earlier starts took."""
