"""The release of a server: which processes ended, how, and the proof that its VRAM is back."""
