"""The guard pair: two small processes that outlive the kernel and end the server that the kernel started."""
