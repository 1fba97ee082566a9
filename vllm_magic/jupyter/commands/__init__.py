"""The sub-commands of %vllm: what they take, what they do, and their help."""
