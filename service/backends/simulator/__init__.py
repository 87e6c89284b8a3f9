"""A deterministic model server for tests and load."""
