"""Why a start failed, read from vLLM's log, and what helps."""
