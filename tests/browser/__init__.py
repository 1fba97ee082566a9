"""Tests in a real browser: chromium, on JupyterLab and Notebook 7, with real kernels."""
