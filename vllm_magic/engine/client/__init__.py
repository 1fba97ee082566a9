"""HTTP requests to a server: readiness, metrics, and what a user asks of the model."""
