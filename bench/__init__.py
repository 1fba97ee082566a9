"""The benchmark: what vllm_magic costs, as a ratio against the raw command in the same run."""
