"""As much as one client process can ask of a server: 200 callers and some streams.

    python -m tests.integration.flood ADDRESS TOPIC PARTITIONS

Says "going" when the first call was answered, and goes on until its standard input ends.
"""

from __future__ import annotations

import itertools
import sys
import threading

import grpc

from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc

CALLERS = 200
STREAMS = 8
#: Connections; one carries a hundred calls at once.
CHANNELS = 10


def main() -> None:
    address, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
    options = [("grpc.use_local_subchannel_pool", 1)]
    stubs = [takhin_pb2_grpc.TakhinServiceStub(grpc.insecure_channel(address, options)) for _ in range(CHANNELS)]
    over, going = threading.Event(), threading.Event()

    def call(number: int) -> None:
        request = pb.ProduceMessageRequest(
            topic=topic, partition=number % partitions, record=pb.Record(value=b"v" * 100)
        )
        while not over.is_set():
            try:
                stubs[number % CHANNELS].ProduceMessage(request, timeout=60)
                going.set()
            except grpc.RpcError:
                over.wait(0.01)

    def stream(number: int) -> None:
        records = [pb.Record(value=b"v" * 1000)] * 100
        request = pb.ProduceBatchRequest(topic=topic, partition=number % partitions, records=records)
        try:
            for _ in stubs[number % CHANNELS].ProduceBatchStream(itertools.repeat(request)):
                if over.is_set():
                    break
        except grpc.RpcError:
            pass

    runs = [(call, n) for n in range(CALLERS)] + [(stream, n) for n in range(STREAMS)]
    for run, number in runs:
        threading.Thread(target=run, args=(number,), daemon=True).start()
    going.wait(30)
    print("going", flush=True)
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    main()
