"""The release of a server: who ended, how, and the proof that its VRAM is back."""
