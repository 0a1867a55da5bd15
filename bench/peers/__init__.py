"""The same work on other servers, each real and with its usual fast client: ``python -m bench.peers``."""
