"""What only one wire can show: handshakes, framing, limits, deadlines."""
