"""How a server comes to be: on this machine, attached, on a Ray cluster, or from a standby that has imported vLLM already."""
