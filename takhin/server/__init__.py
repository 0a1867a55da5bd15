"""gRPC and HTTP in front of an engine."""
