"""What a client asks for: the rules of a request, and what its items stand for and are alike."""
