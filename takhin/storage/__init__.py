"""The log on disk: segments, partitions, flushing, recovery. Knows no protocol."""
