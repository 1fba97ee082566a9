"""How much GPU memory a model needs, from its config.json and the headers of its weights, and whether it fits."""
