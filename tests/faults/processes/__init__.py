"""Real processes that are killed, frozen and starved, and clients that count what they were promised."""
