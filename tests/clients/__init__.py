"""Released clients, unmodified, against the real service."""
