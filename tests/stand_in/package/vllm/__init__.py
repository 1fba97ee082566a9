"""What the stand-in has of vLLM's modules."""
