"""The sub-commands of %vllm: their declarations, and what they do in a notebook."""
