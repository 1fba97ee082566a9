"""What this kernel's servers and the GPUs do, seen once a second while somebody wants to know."""
