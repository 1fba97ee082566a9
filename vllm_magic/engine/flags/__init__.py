"""The flags of `vllm serve`: which there are, what they are set to, and what a --config file sets."""
