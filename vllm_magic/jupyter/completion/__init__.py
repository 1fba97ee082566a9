"""Completion of %vllm lines and of the first line of %%vllm cells."""
