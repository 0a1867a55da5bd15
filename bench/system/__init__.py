"""A server and a client as processes of their own, against the bare transport: ``python -m bench.system``."""
