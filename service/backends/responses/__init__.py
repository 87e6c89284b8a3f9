"""An upstream that speaks the Responses API: over HTTP, or over a WebSocket that holds conversations."""
