"""GPUs: what the driver says of them, who has them open, which to use, and locks across kernels."""
