"""Install vLLM in an environment of its own: choose the version that this machine can run, build it, and prove it."""
