"""Apache Kafka, one broker in KRaft mode, by its own performance tools."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.system.processes import REPOSITORY

from .peer import RECORD_BYTES, Figures, Peer, free_port, output_of, process

_JARS = REPOSITORY / "build" / "bench" / "kafka"
_POM = Path(__file__).parent / "kafka" / "pom.xml"


class Kafka(Peer):
    client = "ProducerPerformance, acks=all, batch.size 256 KiB, linger.ms 5; ConsumerPerformance"

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.setting = "flush.messages=1" if durable else "default (the system flushes)"
        version = re.search(r"<kafka.version>(.*)</kafka.version>", _POM.read_text())
        self.title = f"Apache Kafka {version[1] if version else ''}"

    def missing(self) -> str:
        return ", ".join(name for name in ("java", "mvn") if shutil.which(name) is None)

    def _java(self, main: str, *arguments: str, heap: str = "512m") -> list[str]:
        return ["java", f"-Xmx{heap}", "-cp", f"{_JARS}/*", main, *arguments]

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[int]:
        if not _JARS.is_dir():
            output_of(["mvn", "-B", "-q", "-f", str(_POM), f"-Dout={_JARS}", "package"], 600)
            shutil.rmtree(_POM.parent / "target", ignore_errors=True)
        port, controller = free_port(), free_port()
        self._address = f"127.0.0.1:{port}"
        config = directory / "server.properties"
        config.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
"""
        )
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        output_of(self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)))
        with process(self._java("kafka.Kafka", str(config), heap="1g"), directory / "kafka.log", port) as pid:
            flags = ["--bootstrap-server", self._address, "--create", "--topic", "bench"]
            flags += ["--config", "flush.messages=1"] if self.durable else []
            output_of(self._java("org.apache.kafka.tools.TopicCommand", *flags))
            self._produce(20_000, -1, 5)  # the JVM is warm then, as it is in a server that runs for long
            yield pid

    def _produce(self, records: int, throughput: int, linger_ms: int) -> Figures:
        flags = ["--topic", "bench", "--num-records", str(records), "--record-size", str(RECORD_BYTES)]
        flags += ["--throughput", str(throughput), "--producer-props", f"bootstrap.servers={self._address}"]
        flags += ["acks=all", f"linger.ms={linger_ms}", "batch.size=262144"]
        output = output_of(self._java("org.apache.kafka.tools.ProducerPerformance", *flags))
        last = [line for line in output.splitlines() if "99.9th" in line][-1]
        rate = re.search(r"([\d.]+) records/sec", last)
        p50, p99 = re.search(r"([\d.]+) ms 50th", last), re.search(r"([\d.]+) ms 99th", last)
        assert rate is not None, last
        assert p50 is not None, last
        assert p99 is not None, last
        return Figures(float(rate[1]), float(p50[1]), float(p99[1]))

    def write(self, records: int) -> Figures:
        return self._produce(records, -1, 5)

    def write_singly(self, records: int) -> Figures:
        """Its client has no mode that waits for each answer: 200 records a second, without linger."""
        figures = self._produce(min(records, 1000), 200, 0)
        return Figures(0.0, figures.p50_ms, figures.p99_ms)

    def read(self, records: int) -> Figures:
        flags = ["--bootstrap-server", self._address, "--topic", "bench", "--messages", str(records)]
        output = output_of(self._java("org.apache.kafka.tools.ConsumerPerformance", *flags))
        row = [line.split(", ") for line in output.splitlines() if line[:2].isdigit()][-1]
        return Figures(float(row[9]))  # of the fetching alone, without the join of the group
