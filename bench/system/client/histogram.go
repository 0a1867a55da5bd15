package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in log-linear buckets: a power of two of nanoseconds in 64 equal parts, so that a
// percentile is at most 1.6 % too high.
type histogram struct {
	buckets [64 * 58]uint64
	total   uint64
	sum     time.Duration
	max     time.Duration
}

func (h *histogram) add(d time.Duration) {
	v := uint64(max(d, 0))
	h.buckets[bucket(v)]++
	h.total++
	h.sum += d
	h.max = max(h.max, d)
}

func bucket(v uint64) int {
	if v < 64 {
		return int(v)
	}
	shift := bits.Len64(v) - 7
	return 64*(shift+1) + int(v>>shift) - 64
}

// largest value of a bucket.
func largest(bucket int) uint64 {
	if bucket < 64 {
		return uint64(bucket)
	}
	shift := bucket/64 - 1
	return (uint64(bucket%64+64)+1)<<shift - 1
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.total += other.total
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// percentile in microseconds; 0 when nothing was counted.
func (h *histogram) percentile(p float64) float64 {
	want := uint64(p / 100 * float64(h.total))
	var seen uint64
	for i, n := range h.buckets {
		seen += n
		if n > 0 && seen > want || seen == h.total && n > 0 {
			return min(float64(largest(i)), float64(h.max)) / 1000
		}
	}
	return 0
}

func (h *histogram) report() map[string]float64 {
	mean := 0.0
	if h.total > 0 {
		mean = float64(h.sum) / float64(h.total) / 1000
	}
	return map[string]float64{
		"mean": mean, "p50": h.percentile(50), "p90": h.percentile(90), "p99": h.percentile(99),
		"p999": h.percentile(99.9), "max": float64(h.max) / 1000,
	}
}
