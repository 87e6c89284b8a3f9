"""Real processes of the service, a real Envoy in front of them, and what can be done to both."""
