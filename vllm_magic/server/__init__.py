"""What a person holds of a server: its status, its requests, its end."""
