# A segment's file and its indexes, in C. The interface is in _segment.pyi.

from libc.stdint cimport int32_t, int64_t, uint8_t

from ._fastlog cimport BatchHead

cdef struct OffsetEntry:
    int32_t relative_offset     # of the last record of the batch that starts at position
    int32_t position

cdef struct TimeEntry:
    int64_t timestamp
    int32_t relative_offset     # of the last record of the batch that holds the timestamp


cdef class SegmentIndex:
    cdef readonly int64_t base_offset
    cdef readonly int64_t interval_bytes
    cdef readonly int64_t max_timestamp             # -1: no batch yet
    cdef readonly int64_t offset_of_max_timestamp   # last offset of the batch that holds it; -1
    cdef int64_t bytes_since_entry
    cdef OffsetEntry* offsets
    cdef TimeEntry* times
    cdef readonly int32_t offset_count
    cdef readonly int32_t time_count
    cdef int32_t offset_capacity
    cdef int32_t time_capacity

    # 0, or -1 when memory is out.
    cdef int add(self, const BatchHead* head, int64_t position) noexcept nogil
    cdef int add_time(self, int64_t timestamp, int64_t offset) noexcept nogil


cdef class SegmentFile:
    cdef readonly int fd
    cdef int64_t allocated      # no blocks need to be asked for below
    cdef readonly str path
    cdef void allocate(self, int64_t position, int64_t size)
