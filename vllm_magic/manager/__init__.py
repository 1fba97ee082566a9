"""One manager for each kernel, which knows the kernel's servers by name."""
