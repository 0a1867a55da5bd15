# A segment's file and its indexes. The interface is in _segment.pyi.

from libc.errno cimport errno
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from posix.fcntl cimport O_CREAT, O_EXCL, O_RDONLY, O_RDWR
from posix.unistd cimport close as posix_close

from ._bytes cimport read_be32, read_be64, write_be32, write_be64
from ._fastlog cimport (
    AFTER_LENGTH, AT_LENGTH, AT_MAGIC, BATCH_CUT, BATCH_OK, COMPRESSION_MASK, HEADER_BYTES, BatchHead, Batches, RecordBatch,
    check_batch, head_info, read_head,
)
from ._os cimport os_allocate, os_flush, os_open, os_read_at, os_read_cached, os_truncate, os_write_at

import os

cdef extern from "<fcntl.h>" nogil:
    int posix_fadvise(int fd, long offset, long n, int advice)
    int POSIX_FADV_DONTNEED

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        long st_size
        long st_blocks
    int fstat(int fd, stat_t* out)

cdef enum:
    ALLOCATE_FROM_BYTES = 8388608   # size from which on blocks are asked for in advance: a quarter of it, at most
    ALLOCATE_BYTES = 33554432       # so many. The filesystem then writes for a third less CPU.
    SPARE_BYTES = 65536         # blocks behind the end of a file that nobody need give back
    SCAN_BYTES = 1 << 20        # read at once by a scan
    BATCH_BAD_OFFSET = -5       # beside the statuses of _fastlog: not the offset that must follow

OFFSET_ENTRY_BYTES = 8
TIME_ENTRY_BYTES = 12

STATUS_TEXT = {
    0: "ok", 1: "the file ends within the batch", -1: "the batch goes on past the end of the file",
    -2: "not a batch of magic 2", -3: "an impossible length or count", -4: "the CRC does not fit",
    -5: "not the offset that must follow",
}


cdef object fail(int64_t code, str path):
    raise OSError(<int>-code, os.strerror(<int>-code), path)


cdef class SegmentIndex:
    def __cinit__(self, int64_t base_offset, int64_t interval_bytes):
        self.base_offset = base_offset
        self.interval_bytes = interval_bytes
        self.max_timestamp = self.offset_of_max_timestamp = -1
        self.bytes_since_entry = 0
        self.offsets = NULL
        self.times = NULL
        self.offset_count = self.time_count = self.offset_capacity = self.time_capacity = 0

    def __dealloc__(self):
        free(self.offsets)
        free(self.times)

    @property
    def size_bytes(self):
        return self.offset_capacity * sizeof(OffsetEntry) + self.time_capacity * sizeof(TimeEntry)

    cdef int add(self, const BatchHead* head, int64_t position) noexcept nogil:
        cdef OffsetEntry* grown
        if head.max_timestamp > self.max_timestamp:
            self.max_timestamp = head.max_timestamp
            self.offset_of_max_timestamp = head.last_offset
        if self.bytes_since_entry > self.interval_bytes:
            if self.offset_count == self.offset_capacity:
                self.offset_capacity = 8 if self.offset_capacity == 0 else self.offset_capacity * 2
                grown = <OffsetEntry*>realloc(self.offsets, self.offset_capacity * sizeof(OffsetEntry))
                if grown == NULL:
                    return -1
                self.offsets = grown
            self.offsets[self.offset_count].relative_offset = <int32_t>(head.last_offset - self.base_offset)
            self.offsets[self.offset_count].position = <int32_t>position
            self.offset_count += 1
            self.bytes_since_entry = 0
            if self.add_time(self.max_timestamp, self.offset_of_max_timestamp) < 0:
                return -1
        self.bytes_since_entry += head.size
        return 0

    cdef int add_time(self, int64_t timestamp, int64_t offset) noexcept nogil:
        cdef TimeEntry* grown
        # As Kafka does, none for a batch without a timestamp (-1).
        if timestamp <= (self.times[self.time_count - 1].timestamp if self.time_count else -1):
            return 0
        if self.time_count == self.time_capacity:
            self.time_capacity = 8 if self.time_capacity == 0 else self.time_capacity * 2
            grown = <TimeEntry*>realloc(self.times, self.time_capacity * sizeof(TimeEntry))
            if grown == NULL:
                return -1
            self.times = grown
        self.times[self.time_count].timestamp = timestamp
        self.times[self.time_count].relative_offset = <int32_t>(offset - self.base_offset)
        self.time_count += 1
        return 0

    def note_batch(self, RecordBatch batch not None, int64_t base_offset, int64_t position):
        cdef BatchHead head
        read_head(batch.data, &head)
        head.base_offset = base_offset
        head.last_offset = base_offset + batch.record_count - 1
        if self.add(&head, position) < 0:
            raise MemoryError

    def seal(self):
        if self.max_timestamp >= 0 and self.add_time(self.max_timestamp, self.offset_of_max_timestamp) < 0:
            raise MemoryError

    def floor(self, int64_t offset):
        cdef int64_t relative = offset - self.base_offset
        cdef int32_t low = 0, high = self.offset_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.offsets[middle].relative_offset <= relative:
                low = middle + 1
            else:
                high = middle
        return None if low == 0 else self.entry(low - 1)

    def after_position(self, int64_t position):
        cdef int32_t low = 0, high = self.offset_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.offsets[middle].position <= position:
                low = middle + 1
            else:
                high = middle
        return None if low == self.offset_count else self.entry(low)

    def entry(self, int32_t i):
        if not 0 <= i < self.offset_count:
            raise IndexError(i)
        return self.base_offset + self.offsets[i].relative_offset, self.offsets[i].position

    def time_entry(self, int32_t i):
        if not 0 <= i < self.time_count:
            raise IndexError(i)
        return self.times[i].timestamp, self.base_offset + self.times[i].relative_offset

    def time_floor(self, int64_t timestamp):
        cdef int32_t low = 0, high = self.time_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.times[middle].timestamp < timestamp:
                low = middle + 1
            else:
                high = middle
        return None if low == 0 else self.time_entry(low - 1)

    def offset_bytes(self, int32_t first=0):
        cdef int32_t i
        cdef int32_t start = min(max(first, 0), self.offset_count)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, (self.offset_count - start) * 8)
        cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(start, self.offset_count):
            write_be32(p, self.offsets[i].relative_offset)
            write_be32(p + 4, self.offsets[i].position)
            p += 8
        return out

    def time_bytes(self, int32_t first=0):
        cdef int32_t i
        cdef int32_t start = min(max(first, 0), self.time_count)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, (self.time_count - start) * 12)
        cdef uint8_t* p = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(start, self.time_count):
            write_be64(p, self.times[i].timestamp)
            write_be32(p + 8, self.times[i].relative_offset)
            p += 12
        return out

    def load(self, bytes offsets not None, bytes times not None, int64_t limit, int64_t max_timestamp=-1,
             int64_t offset_of_max_timestamp=-1):
        cdef const uint8_t* p
        cdef Py_ssize_t i
        cdef Py_ssize_t n = PyBytes_GET_SIZE(offsets) // 8
        cdef Py_ssize_t t = PyBytes_GET_SIZE(times) // 12
        cdef int64_t last_offset = -1, last_position = -1, last_timestamp = -1
        if PyBytes_GET_SIZE(offsets) % 8 or PyBytes_GET_SIZE(times) % 12 or n > INT32_MAX // 8 or t > INT32_MAX // 16:
            return False
        free(self.offsets)
        free(self.times)
        self.offsets = NULL
        self.times = NULL
        self.offset_count = self.time_count = 0
        self.offsets = <OffsetEntry*>malloc(max(n, 1) * sizeof(OffsetEntry))
        self.times = <TimeEntry*>malloc(max(t, 1) * sizeof(TimeEntry))
        if self.offsets == NULL or self.times == NULL:
            raise MemoryError
        self.offset_capacity = <int32_t>max(n, 1)
        self.time_capacity = <int32_t>max(t, 1)
        p = <const uint8_t*>PyBytes_AS_STRING(offsets)
        for i in range(n):
            self.offsets[i].relative_offset = read_be32(p + 8 * i)
            self.offsets[i].position = read_be32(p + 8 * i + 4)
            if (self.offsets[i].relative_offset <= last_offset or self.offsets[i].position <= last_position
                    or self.offsets[i].position >= limit):
                return False
            last_offset = self.offsets[i].relative_offset
            last_position = self.offsets[i].position
        self.offset_count = <int32_t>n
        last_offset = -1
        p = <const uint8_t*>PyBytes_AS_STRING(times)
        for i in range(t):
            self.times[i].timestamp = read_be64(p + 12 * i)
            self.times[i].relative_offset = read_be32(p + 12 * i + 8)
            if self.times[i].timestamp <= last_timestamp or self.times[i].relative_offset <= last_offset:
                return False
            last_timestamp = self.times[i].timestamp
            last_offset = self.times[i].relative_offset
        self.time_count = <int32_t>t
        self.max_timestamp = max_timestamp
        self.offset_of_max_timestamp = offset_of_max_timestamp
        self.bytes_since_entry = limit - last_position if n else limit
        return True


cdef struct Place:
    int64_t position        # in the file, of the next batch
    int64_t expected        # the base offset that must be there; -1: any
    int64_t next_offset     # batches that end below it are passed over
    int64_t end_offset      # batches that begin at or above it are not taken
    int64_t max_bytes
    int64_t taken           # bytes taken so far
    int64_t first           # place in the buffer of the first batch taken; -1: none
    int64_t want            # bytes that the batch which is cut needs
    bint compressed         # some batch taken is


cdef int collect(const uint8_t* data, int64_t n, int64_t limit, bint dense, Place* place) noexcept nogil:
    """Takes batches from a buffer that holds the file from place.position on."""
    cdef int64_t at = 0
    cdef BatchHead head
    cdef int status
    while place.position < limit and (place.first < 0 or place.taken < place.max_bytes):
        status = check_batch(data + at, n - at, limit - place.position, &head)
        if status == BATCH_CUT:
            place.want = head.size if n - at >= HEADER_BYTES else HEADER_BYTES
            return BATCH_CUT
        if status != BATCH_OK:
            return status
        if place.expected >= 0 and (
                head.base_offset != place.expected if dense else head.base_offset < place.expected):
            return BATCH_BAD_OFFSET
        if head.base_offset >= place.end_offset:
            return BATCH_OK
        if head.last_offset >= place.next_offset:
            # The first batch is taken however large it is; a later one only if it fits.
            if place.first < 0:
                place.first = at
            elif place.taken + head.size > place.max_bytes:
                return BATCH_OK
            place.taken += head.size
            place.compressed = place.compressed or (head.attributes & COMPRESSION_MASK) != 0
        at += head.size
        place.position += head.size
        place.expected = head.last_offset + 1
    return BATCH_OK


cdef class SegmentFile:
    def __cinit__(self, str path not None, *, bint create=False, bint writable=False):
        cdef bytes name = os.fsencode(path)
        cdef int flags = (O_RDWR if writable or create else O_RDONLY) | (O_CREAT | O_EXCL if create else 0)
        self.fd = -1
        self.path = path
        cdef const char* p = name
        cdef int fd
        with nogil:
            fd = os_open(p, flags, 0o640)
        self.fd = fd
        if self.fd < 0:
            fail(self.fd, path)

    def __dealloc__(self):
        if self.fd >= 0:
            posix_close(self.fd)

    def size(self):
        cdef stat_t out
        if fstat(self.fd, &out) < 0:
            fail(-errno, self.path)
        return out.st_size

    def append(self, RecordBatch batch not None, int64_t position, int64_t base_offset):
        cdef int status
        batch.place(base_offset)
        if position + batch.size > self.allocated and position >= ALLOCATE_FROM_BYTES:
            self.allocate(position, batch.size)
        status = os_write_at(self.fd, batch.data, batch.size, position)
        if status < 0:
            fail(status, self.path)

    cdef void allocate(self, int64_t position, int64_t size):
        """Asks for the blocks of what is likely to come. A failure is no matter: the write will tell."""
        cdef int64_t n = max(min(position // 4, <int64_t>ALLOCATE_BYTES), size)
        cdef int status
        with nogil:
            status = os_allocate(self.fd, position, n)
        self.allocated = position + n if status == 0 else INT64_MAX

    def free_blocks(self):
        cdef stat_t out
        if fstat(self.fd, &out) == 0 and <int64_t>out.st_blocks * 512 > out.st_size + SPARE_BYTES:
            with nogil:
                os_truncate(self.fd, out.st_size)
            self.allocated = 0

    def flush(self):
        cdef int status
        with nogil:
            status = os_flush(self.fd)
        if status < 0:
            fail(status, self.path)

    def truncate(self, int64_t size):
        cdef int status
        with nogil:
            status = os_truncate(self.fd, size)
        if status < 0:
            fail(status, self.path)

    def drop_cache(self, int64_t position=0):
        posix_fadvise(self.fd, position, 0, POSIX_FADV_DONTNEED)

    def pread(self, int64_t position, int64_t n):
        cdef bytes buffer = PyBytes_FromStringAndSize(NULL, n)
        cdef char* p = PyBytes_AS_STRING(buffer)
        cdef int64_t got
        with nogil:
            got = os_read_at(self.fd, p, n, position)
        if got < 0:
            fail(got, self.path)
        return buffer if got == n else buffer[:got]

    def head(self, int64_t position, int64_t limit):
        data = self.pread(position, min(HEADER_BYTES, max(limit - position, 0)))
        cdef BatchHead head
        if PyBytes_GET_SIZE(data) < HEADER_BYTES:
            return None
        read_head(<const uint8_t*>PyBytes_AS_STRING(data), &head)
        return head_info(position, &head, False)

    def read(self, int64_t position, int64_t limit, int64_t expected, int64_t next_offset, int64_t end_offset,
             int64_t max_bytes, bint dense=True, bint cached_only=False):
        cdef Place place
        cdef bytes buffer
        cdef char* p
        cdef int64_t at, got, want = max(min(max_bytes, limit - position), 0)
        cdef int status
        cdef Batches batches
        place.position = position
        place.expected = expected
        place.next_offset = next_offset
        place.end_offset = end_offset
        place.max_bytes = max_bytes
        place.taken = 0
        place.first = -1
        place.want = 0
        place.compressed = False
        while True:
            position = place.position
            if position >= limit:
                return None, 0, place.position, place.expected
            want = min(max(want, HEADER_BYTES), limit - position)
            buffer = PyBytes_FromStringAndSize(NULL, want)
            p = PyBytes_AS_STRING(buffer)
            with nogil:
                if cached_only:
                    got = os_read_cached(self.fd, p, want, position)
                else:
                    got = os_read_at(self.fd, p, want, position)
                # A file that is shorter than it should be ends here.
                status = 0 if got < 0 else collect(
                    <const uint8_t*>p, got, limit if got == want else position + got, dense, &place)
            if got < 0:
                fail(got, self.path)
            if place.first >= 0:
                batches = Batches.__new__(Batches, buffer, next_offset, end_offset)
                batches.data = <const uint8_t*>p + place.first
                batches.size = place.taken
                batches.is_compressed = place.compressed
                at = place.position - position
                if got - at >= HEADER_BYTES:
                    batches.following_bytes = <int64_t>read_be32(<const uint8_t*>p + at + AT_LENGTH) + AFTER_LENGTH
                return batches, 0, place.position, place.expected
            if status == BATCH_CUT:
                want = max(place.want + HEADER_BYTES, max_bytes)
                continue
            if status == BATCH_OK and place.position < limit and got < want:
                status = -1
            return None, status, place.position, place.expected

    def scan(self, int64_t position, int64_t limit, int64_t expected, *, SegmentIndex index=None, bint dense=True,
             list producers=None, object progress=None):
        cdef uint8_t* buffer = NULL
        cdef int64_t capacity = 0, want = SCAN_BYTES, got = 0, at
        cdef int status = BATCH_OK
        cdef bint stop = False, note = producers is not None
        cdef BatchHead head
        try:
            while position < limit and not stop:
                want = min(want, limit - position)
                if want > capacity:
                    free(buffer)
                    buffer = <uint8_t*>malloc(<size_t>want)
                    if buffer == NULL:
                        raise MemoryError
                    capacity = want
                with nogil:
                    got = os_read_at(self.fd, buffer, want, position)
                if got < 0:
                    fail(got, self.path)
                if got < want:
                    limit = position + got
                at = 0
                want = SCAN_BYTES
                while position < limit:
                    with nogil:
                        while position < limit:
                            status = check_batch(buffer + at, got - at, limit - position, &head)
                            if status != BATCH_OK:
                                break
                            if expected >= 0 and (
                                    head.base_offset != expected if dense else head.base_offset < expected):
                                status = BATCH_BAD_OFFSET
                                break
                            if index is not None and index.add(&head, position) < 0:
                                status = -100
                                break
                            at += head.size
                            position += head.size
                            expected = head.last_offset + 1
                            if note and head.producer_id >= 0:
                                break
                    if status == -100:
                        raise MemoryError
                    if status == BATCH_CUT:
                        if got - at >= HEADER_BYTES and head.size > want:
                            want = head.size
                        break
                    if status != BATCH_OK:
                        stop = True
                        break
                    if note and head.producer_id >= 0:
                        producers.append(head_info(position - head.size, &head, True))
                if progress is not None:
                    progress(position)
            return (0 if status == BATCH_CUT else status), position, expected
        finally:
            free(buffer)

    def check(self, int64_t position, int64_t limit):
        cdef BatchHead head
        cdef bytes data = self.pread(position, min(HEADER_BYTES, max(limit - position, 0)))
        cdef int status
        if PyBytes_GET_SIZE(data) < HEADER_BYTES:
            return None
        read_head(<const uint8_t*>PyBytes_AS_STRING(data), &head)
        if head.magic != 2 or head.size < HEADER_BYTES or head.size > limit - position:
            return None
        data = self.pread(position, head.size)
        status = check_batch(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), limit - position, &head)
        return head_info(position, &head, True) if status == BATCH_OK else None

    def candidates(self, int64_t position, int64_t stop, int64_t limit, int64_t min_offset, int64_t max_offset):
        cdef bytes data = self.pread(position, max(min(stop + HEADER_BYTES - 1, limit) - position, 0))
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef int64_t n = PyBytes_GET_SIZE(data), at
        cdef BatchHead head
        cdef list found = []
        for at in range(n - HEADER_BYTES + 1):
            if p[at + AT_MAGIC] != 2:
                continue
            read_head(p + at, &head)
            if HEADER_BYTES <= head.size <= limit - position - at and min_offset <= head.base_offset <= max_offset:
                found.append(position + at)
        return found
