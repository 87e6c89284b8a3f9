"""The engine: conversations, turns and what they need. It knows no transport."""
