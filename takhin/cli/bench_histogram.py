"""Latencies in log-linear buckets, as an HDR histogram has them: small, exact enough, and never sampled."""

from __future__ import annotations

from typing import Final

#: Parts of a power of two: a percentile is at most 1/128 (0.8 %) too high.
_PARTS: Final = 128
_PART_BITS: Final = 7


class Histogram:
    """Durations in whole microseconds. One thread adds; merge those of several."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self._sum_us = 0
        self._max_us = 0

    def add(self, seconds: float, times: int = 1) -> None:
        us = max(int(seconds * 1e6), 0)
        bucket = _bucket(us)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + times
        self.count += times
        self._sum_us += us * times
        self._max_us = max(self._max_us, us)

    def merge(self, other: Histogram) -> None:
        for bucket, times in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + times
        self.count += other.count
        self._sum_us += other._sum_us
        self._max_us = max(self._max_us, other._max_us)

    def percentile_ms(self, percent: float) -> float:
        """The least bound that ``percent`` of the durations keep to; 0 when there are none."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(_largest_us(bucket), self._max_us) / 1000
        return 0.0

    def summary_ms(self) -> dict[str, float]:
        mean = self._sum_us / self.count / 1000 if self.count else 0.0
        figures = {"mean": mean}
        figures |= {name: self.percentile_ms(p) for name, p in (("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9))}
        figures["max"] = self._max_us / 1000
        return {name: round(value, 3) for name, value in figures.items()}


def _bucket(us: int) -> int:
    shift = max(us.bit_length() - _PART_BITS - 1, 0)
    return (shift << _PART_BITS) + (us >> shift)


def _largest_us(bucket: int) -> int:
    """Of the durations that fall into a bucket."""
    if bucket < 2 * _PARTS:
        return bucket
    shift = (bucket >> _PART_BITS) - 1
    return ((bucket - (shift << _PART_BITS) + 1) << shift) - 1
