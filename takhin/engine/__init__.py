"""What the server talks to: the interface, and the engines behind it."""
