"""The guard pair: two tiny processes that outlive the kernel and end the server it started."""
