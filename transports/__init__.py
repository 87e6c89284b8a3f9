"""Ways to reach the engine. They know its port, `service.engine`, and nothing behind it."""
