"""The local engine's metrics, read off its state when somebody scrapes: the hot path pays nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..storage.environment import Environment
from ..storage.partition import Partition
from ..storage.scrubber import Scrubber


class LocalCollector(Collector):
    def __init__(self, environment: Environment, scrubber: Scrubber, partitions: Callable[[], list[Partition]]) -> None:
        self._environment = environment
        self._scrubber = scrubber
        self._partitions = partitions

    def describe(self) -> list[Metric]:
        # Nothing is read when it is registered: partitions are not open yet.
        return []

    def collect(self) -> Iterator[Metric]:
        counters = self._environment.counters
        for name, text, value in (
            ("takhin_records_appended", "Records appended.", counters.records_appended),
            ("takhin_appended_bytes", "Bytes of record batches appended.", counters.bytes_appended),
            ("takhin_batches_appended", "Record batches appended.", counters.batches_appended),
            ("takhin_flushes", "Flushes of partitions; each serves all who waited.", counters.flushes),
            ("takhin_flush_seconds", "Seconds spent in flushes, over all threads.", counters.flush_seconds),
            ("takhin_read_bytes", "Bytes of record batches read for consumers.", counters.bytes_read),
            ("takhin_damage_reads", "Reads that met bytes which fail their checks.", counters.damages),
            ("takhin_segments_removed", "Segments removed by retention.", counters.segments_deleted),
        ):
            yield CounterMetricFamily(name, text, value)
        space = self._environment.space
        yield GaugeMetricFamily(
            "takhin_disk_free_bytes", "Free on the disk when it was last looked at.", space.free_bytes
        )
        yield GaugeMetricFamily("takhin_disk_low", "1 while produce is refused for want of room.", int(space.low))
        yield CounterMetricFamily(
            "takhin_scrubbed_bytes", "Bytes of sealed segments read again.", self._scrubber.bytes_scrubbed
        )
        fault = 1 if self._environment.fault.reason else 0
        yield GaugeMetricFamily("takhin_log_offline", "1 when the log takes no writes after a disk fault.", fault)
        yield GaugeMetricFamily("takhin_open_segments", "Segment files that are open.", len(self._environment.files))
        labels = ("topic", "partition")
        start = GaugeMetricFamily("takhin_log_start_offset", "First offset that can be read.", labels=labels)
        high = GaugeMetricFamily("takhin_high_watermark", "First offset that cannot be read yet.", labels=labels)
        end = GaugeMetricFamily("takhin_log_end_offset", "Next offset to be assigned.", labels=labels)
        flushed = GaugeMetricFamily("takhin_flushed_offset", "On stable storage below this.", labels=labels)
        size = GaugeMetricFamily("takhin_log_size_bytes", "Bytes of segments.", labels=labels)
        segments = GaugeMetricFamily("takhin_log_segments", "Segments.", labels=labels)
        for partition in self._partitions():
            where = (partition.topic, str(partition.partition))
            start.add_metric(where, partition.log_start_offset)
            high.add_metric(where, partition.high_watermark)
            end.add_metric(where, partition.log_end_offset)
            flushed.add_metric(where, partition.flushed_offset)
            size.add_metric(where, partition.size_bytes())
            segments.add_metric(where, len(partition.segments))
        damaged = GaugeMetricFamily("takhin_damaged_ranges", "Ranges of records known to be damaged.", labels=labels)
        for partition in self._partitions():
            known = sum(len(segment.damages) for segment in partition.segments)
            if known:
                damaged.add_metric((partition.topic, str(partition.partition)), known)
        yield from (start, high, end, flushed, size, segments, damaged)
