"""GPUs: what the driver reports, which processes have device files open, the choice of GPUs, and locks across kernels."""
