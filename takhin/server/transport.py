"""Which of its ways gRPC core takes to read connections. Imports nothing: it has to be asked before ``grpc`` is."""

import os

#: In the thread that polls for completions, which is ours, and not in threads of its own that hand over to it: what
#: that costs is more than all else that happens to a message (docs/adr/0009-serving-thread.md).
GRPC_EXPERIMENTS = "-event_engine_listener"


def choose_polling() -> None:
    """Only before ``grpc`` is first imported in this process. A value that the user has set stays."""
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
