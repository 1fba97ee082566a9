"""The flags of `vllm serve`: the table of all flags, the values on a command line, and the flags of a --config file."""
