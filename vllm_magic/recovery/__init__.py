"""Find and release what dead kernels and guards left, and take over servers that were kept."""
