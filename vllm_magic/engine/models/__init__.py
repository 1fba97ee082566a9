"""Models on the Hugging Face Hub, in its cache and in folders."""
