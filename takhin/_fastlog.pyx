# Record batches in memory: framing, checking, walking. The interface is in _fastlog.pyi.
#
# A record batch of magic 2, big endian; the name of each field's place is derived from the
# field before it. Source: Kafka, "Record Batch" in the message format documentation.
#
#   base_offset 8 | batch_length 4 (of all that follows) | leader_epoch 4 | magic 1 | crc 4
#   | attributes 2 | last_offset_delta 4 | base_timestamp 8 | max_timestamp 8
#   | producer_id 8 | producer_epoch 2 | base_sequence 4 | record_count 4 | records
#
# The CRC-32C covers everything from the attributes on. The base offset is outside of it: a
# batch is framed and summed before anybody knows its offset, without a lock.

from libc.stdint cimport INT32_MAX, INT64_MAX, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from ._bytes cimport (
    read_be16, varint_size, write_be16, write_be32, write_be64, write_varint, zigzag,
)
from ._fastlog_walk cimport RecordView, Walk, header_next, walk_next, walk_open, walk_save

from collections import namedtuple

from .errors import DataLoss, InvalidArgument, InvalidTimestamp, RecordTooLarge

cdef extern from "_crc32c.h":
    int tk_crc_best
    void tk_crc32c_setup()
    uint32_t tk_crc32c(uint32_t crc, const void* data, size_t n, int way) nogil

cdef extern from "_murmur2.h":
    uint32_t tk_murmur2(const uint8_t* key, size_t n) nogil

tk_crc32c_setup()

BATCH_HEADER_BYTES = HEADER_BYTES
MAX_OFFSET = INT64_MAX

BatchInfo = namedtuple("BatchInfo", (
    "position", "size", "base_offset", "last_offset", "leader_epoch", "magic", "crc", "crc_ok", "attributes",
    "base_timestamp", "max_timestamp", "producer_id", "producer_epoch", "base_sequence", "record_count",
))

# Below this many bytes, giving the GIL away and taking it back costs more than it gives, where others want it.
cdef enum:
    RELEASE_GIL_BYTES = 131072


cdef tuple BACKENDS = ("table", "sse4.2", "vpclmulqdq")


def crc32c(data, uint32_t crc=0, str backend=None):
    cdef Py_buffer view
    cdef int way = tk_crc_best if backend is None else crc32c_backends().index(backend)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return tk_crc32c(crc, view.buf, <size_t>view.len, way)
    finally:
        PyBuffer_Release(&view)


def crc32c_backends():
    return BACKENDS[:tk_crc_best + 1]


def murmur2(const uint8_t[::1] key not None):
    return tk_murmur2(&key[0] if key.shape[0] else NULL, <size_t>key.shape[0])


# -- records as spans -----------------------------------------------------------------------

cdef class RecordSpans:
    def __dealloc__(self):  # all fields begin as zero, so this is safe at any time
        free(self.records)
        free(self.headers)

    cdef RecordSpan* add_record(self) noexcept nogil:
        cdef RecordSpan* span
        cdef uint32_t capacity
        if self.count == self.capacity:
            capacity = 4 if self.capacity == 0 else self.capacity * 2
            span = <RecordSpan*>realloc(self.records, capacity * sizeof(RecordSpan))
            if span == NULL:
                return NULL
            self.records = span
            self.capacity = capacity
        span = self.records + self.count
        memset(span, 0, sizeof(RecordSpan))
        span.key_len = span.value_len = -1
        span.first_header = self.header_count
        self.count += 1
        return span

    cdef HeaderSpan* add_header(self) noexcept nogil:
        cdef HeaderSpan* span
        cdef uint32_t capacity
        if self.header_count == self.header_capacity:
            capacity = 4 if self.header_capacity == 0 else self.header_capacity * 2
            span = <HeaderSpan*>realloc(self.headers, capacity * sizeof(HeaderSpan))
            if span == NULL:
                return NULL
            self.headers = span
            self.header_capacity = capacity
        span = self.headers + self.header_count
        memset(span, 0, sizeof(HeaderSpan))
        span.key_len = span.value_len = -1
        self.header_count += 1
        self.records[self.count - 1].header_count += 1
        return span

    @staticmethod
    def from_records(records):
        cdef RecordSpans spans = RecordSpans()
        cdef RecordSpan* span
        cdef HeaderSpan* header
        cdef list kept = []
        spans.source = kept
        for key, value, headers, timestamp in records:
            span = spans.add_record()
            if span == NULL:
                raise MemoryError
            span.timestamp = timestamp
            span.key = hold(kept, key, &span.key_len)
            span.value = hold(kept, value, &span.value_len)
            for name, content in headers:
                header = spans.add_header()
                if header == NULL:
                    raise MemoryError
                header.key = hold(kept, name.encode() if isinstance(name, str) else name, &header.key_len)
                header.value = hold(kept, content, &header.value_len)
        return spans

    def __len__(self):
        return self.count

    def first_key(self):
        if self.count == 0 or self.records[0].key_len < 0:
            return None
        return PyBytes_FromStringAndSize(<const char*>self.records[0].key, self.records[0].key_len)

    def frame(self, int64_t now_ms, *, bint log_append_time=False, int64_t producer_id=-1, int16_t producer_epoch=-1,
              int32_t base_sequence=-1, int64_t max_bytes=INT32_MAX):
        cdef uint32_t i
        cdef int64_t base_timestamp, max_timestamp = -1
        cdef int64_t size = HEADER_BYTES
        cdef RecordBatch batch
        if self.count == 0:
            raise InvalidArgument("a batch needs at least one record", bad_field="records")
        for i in range(self.count):
            if self.records[i].timestamp < 0:
                raise InvalidTimestamp(
                    "record timestamp must not be negative", bad_field="record.timestamp",
                    timestamp=self.records[i].timestamp)
            if self.records[i].timestamp == 0:
                self.records[i].timestamp = now_ms
            max_timestamp = max(max_timestamp, self.records[i].timestamp)
        base_timestamp = self.records[0].timestamp
        if log_append_time:
            base_timestamp = max_timestamp = now_ms
        size += records_size(self, base_timestamp, log_append_time)
        if size > min(max_bytes, INT32_MAX):
            raise RecordTooLarge(
                f"the batch takes {size} bytes and may take {max_bytes}", size_bytes=size, limit_bytes=max_bytes)
        batch = RecordBatch.__new__(RecordBatch)
        batch.data = <uint8_t*>malloc(<size_t>size)
        if batch.data == NULL:
            raise MemoryError
        batch.size = size
        batch.record_count = self.count
        batch.max_timestamp = max_timestamp
        batch.producer_id = producer_id
        batch.producer_epoch = producer_epoch
        batch.base_sequence = base_sequence
        if size < RELEASE_GIL_BYTES:
            frame_batch(self, batch, base_timestamp, log_append_time)
        else:
            with nogil:
                frame_batch(self, batch, base_timestamp, log_append_time)
        return batch


cdef const uint8_t* hold(list kept, content, int32_t* length) except? NULL:
    cdef bytes data
    if content is None:
        length[0] = -1
        return NULL
    data = bytes(content)
    kept.append(data)
    length[0] = <int32_t>PyBytes_GET_SIZE(data)
    return <const uint8_t*>PyBytes_AS_STRING(data)


cdef inline int64_t blob_size(int32_t length) noexcept nogil:
    return varint_size(zigzag(length)) + (length if length > 0 else 0)


cdef inline uint8_t* write_blob(uint8_t* p, const uint8_t* data, int32_t length) noexcept nogil:
    p = write_varint(p, zigzag(length))
    if length > 0:
        memcpy(p, data, <size_t>length)
        p += length
    return p


cdef inline int64_t body_size(RecordSpans spans, uint32_t i, int64_t timestamp_delta) noexcept nogil:
    """Bytes of a record after its length field."""
    cdef RecordSpan* span = spans.records + i
    cdef uint32_t h
    cdef int64_t size = 1 + varint_size(zigzag(timestamp_delta)) + varint_size(zigzag(i))
    size += blob_size(span.key_len) + blob_size(span.value_len) + varint_size(zigzag(span.header_count))
    for h in range(span.first_header, span.first_header + span.header_count):
        size += blob_size(spans.headers[h].key_len) + blob_size(spans.headers[h].value_len)
    return size


cdef int64_t records_size(RecordSpans spans, int64_t base_timestamp, bint log_append_time) noexcept nogil:
    cdef uint32_t i
    cdef int64_t body, size = 0
    for i in range(spans.count):
        body = body_size(spans, i, 0 if log_append_time else spans.records[i].timestamp - base_timestamp)
        size += varint_size(zigzag(body)) + body
    return size


cdef void frame_batch(RecordSpans spans, RecordBatch batch, int64_t base_timestamp, bint log_append_time) noexcept nogil:
    cdef uint8_t* head = batch.data
    cdef uint8_t* p = head + HEADER_BYTES
    cdef RecordSpan* span
    cdef uint32_t i, h
    cdef int64_t delta
    for i in range(spans.count):
        span = spans.records + i
        delta = 0 if log_append_time else span.timestamp - base_timestamp
        p = write_varint(p, zigzag(body_size(spans, i, delta)))
        p[0] = 0
        p = write_varint(p + 1, zigzag(delta))
        p = write_varint(p, zigzag(i))
        p = write_blob(p, span.key, span.key_len)
        p = write_blob(p, span.value, span.value_len)
        p = write_varint(p, zigzag(span.header_count))
        for h in range(span.first_header, span.first_header + span.header_count):
            p = write_blob(p, spans.headers[h].key, spans.headers[h].key_len)
            p = write_blob(p, spans.headers[h].value, spans.headers[h].value_len)
    write_be64(head + AT_BASE_OFFSET, 0)
    write_be32(head + AT_LEADER_EPOCH, 0)
    head[AT_MAGIC] = 2
    write_be16(head + AT_ATTRIBUTES, LOG_APPEND_TIME_BIT if log_append_time else 0)
    write_be32(head + AT_LAST_OFFSET_DELTA, <int32_t>(spans.count - 1))
    write_be64(head + AT_BASE_TIMESTAMP, base_timestamp)
    write_be64(head + AT_MAX_TIMESTAMP, batch.max_timestamp)
    write_be64(head + AT_PRODUCER_ID, batch.producer_id)
    write_be16(head + AT_PRODUCER_EPOCH, batch.producer_epoch)
    write_be32(head + AT_BASE_SEQUENCE, batch.base_sequence)
    write_be32(head + AT_RECORD_COUNT, <int32_t>spans.count)
    close_batch(head, batch.size, 0)


cdef class RecordBatch:
    def __dealloc__(self):
        free(self.data)

    cdef void place(self, int64_t base_offset) noexcept nogil:
        write_be64(self.data + AT_BASE_OFFSET, base_offset)

    def tobytes(self, int64_t base_offset=0):
        self.place(base_offset)
        return PyBytes_FromStringAndSize(<const char*>self.data, self.size)

    def records_bytes(self):
        return PyBytes_FromStringAndSize(<const char*>self.data + HEADER_BYTES, self.size - HEADER_BYTES)

    def compressed(self, int codec, bytes records not None):
        cdef RecordBatch batch = RecordBatch.__new__(RecordBatch)
        batch.size = HEADER_BYTES + PyBytes_GET_SIZE(records)
        batch.data = <uint8_t*>malloc(<size_t>batch.size)
        if batch.data == NULL:
            raise MemoryError
        batch.record_count, batch.max_timestamp = self.record_count, self.max_timestamp
        batch.producer_id, batch.producer_epoch = self.producer_id, self.producer_epoch
        batch.base_sequence = self.base_sequence
        memcpy(batch.data, self.data, HEADER_BYTES)
        memcpy(batch.data + HEADER_BYTES, PyBytes_AS_STRING(records), <size_t>PyBytes_GET_SIZE(records))
        close_batch(batch.data, batch.size, codec)
        return batch


cdef void close_batch(uint8_t* head, int64_t size, int codec) noexcept nogil:
    """Sets what depends on the records' bytes: length, codec and CRC."""
    write_be32(head + AT_LENGTH, <int32_t>(size - AFTER_LENGTH))
    write_be16(head + AT_ATTRIBUTES, (read_be16(head + AT_ATTRIBUTES) & ~COMPRESSION_MASK) | codec)
    write_be32(head + AT_CRC, <int32_t>tk_crc32c(
        0, head + AT_ATTRIBUTES, <size_t>(size - AT_ATTRIBUTES), tk_crc_best))


def batch_with_records(bytes batch not None, bytes records not None):
    cdef bytes out = batch[:HEADER_BYTES] + records
    if PyBytes_GET_SIZE(out) > INT32_MAX or PyBytes_GET_SIZE(batch) < HEADER_BYTES:
        raise ValueError("not a batch, or too large for one")
    close_batch(<uint8_t*>PyBytes_AS_STRING(out), PyBytes_GET_SIZE(out), 0)
    return out


# -- batches as bytes -------------------------------------------------------------------------

cdef int check_batch(const uint8_t* p, int64_t available, int64_t limit, BatchHead* head) noexcept nogil:
    if available < HEADER_BYTES:
        return BATCH_CUT if available < limit else BATCH_TORN
    read_head(p, head)
    if head.magic != 2:
        return BATCH_BAD_MAGIC
    if head.size < HEADER_BYTES or head.base_offset < 0:
        return BATCH_BAD_LENGTH
    if head.size > limit:
        return BATCH_TORN
    if head.size > available:
        return BATCH_CUT
    if tk_crc32c(0, p + AT_ATTRIBUTES, <size_t>(head.size - AT_ATTRIBUTES), tk_crc_best) != head.crc:
        return BATCH_BAD_CRC
    if head.last_offset < head.base_offset or head.record_count < 0:
        return BATCH_BAD_LENGTH
    return BATCH_OK


def batch_info(data, Py_ssize_t position=0):
    cdef Py_buffer view
    cdef BatchHead head
    cdef int status
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if position < 0 or view.len - position < HEADER_BYTES:
            return None
        status = check_batch(<const uint8_t*>view.buf + position, view.len - position, view.len - position, &head)
        return head_info(position, &head, status == BATCH_OK)
    finally:
        PyBuffer_Release(&view)


cdef object head_info(int64_t position, BatchHead* head, bint crc_ok):
    return BatchInfo(
        position, head.size, head.base_offset, head.last_offset, head.leader_epoch, head.magic, head.crc, crc_ok,
        head.attributes, head.base_timestamp, head.max_timestamp, head.producer_id, head.producer_epoch,
        head.base_sequence, head.record_count)


cdef class Batches:
    def __cinit__(self, data=b"", int64_t next_offset=0, int64_t end_offset=INT64_MAX):
        self.owner = data
        self.data = <const uint8_t*>PyBytes_AS_STRING(data)
        self.size = PyBytes_GET_SIZE(data)
        self.batch_position = self.record_position = 0
        self.record_index = 0
        self.next_offset = next_offset
        self.end_offset = end_offset

    @property
    def size_bytes(self):
        return self.size

    def tobytes(self):
        return PyBytes_FromStringAndSize(<const char*>self.data, self.size)

    def first_info(self):
        cdef BatchHead head
        if self.size < HEADER_BYTES:
            raise IndexError("no batch")
        read_head(self.data, &head)
        return head_info(0, &head, True)

    def find_time(self, int64_t timestamp):
        cdef Walk walk
        cdef RecordView view
        cdef int status
        walk_open(self, &walk)
        with nogil:
            while True:
                status = walk_next(&walk, &view)
                if status <= 0 or view.timestamp >= timestamp:
                    break
        if status < 0:
            raise DataLoss("a batch's records do not add up", first_offset=walk.next_offset)
        walk_save(self, &walk)
        return (view.offset, view.timestamp) if status else None

    def records(self):
        cdef Walk walk
        cdef RecordView view
        cdef HeaderSpan header
        cdef const uint8_t* p
        cdef int status, h
        cdef list result = []
        walk_open(self, &walk)
        while True:
            status = walk_next(&walk, &view)
            if status == 0:
                break
            headers = []
            p = view.headers
            for h in range(view.header_count if status > 0 else 0):
                p = header_next(p, view.end, &header)
                if p == NULL:
                    status = -1
                    break
                headers.append((blob(header.key, header.key_len), blob(header.value, header.value_len)))
            if status < 0:
                raise DataLoss("a batch's records do not add up", first_offset=walk.next_offset)
            result.append(
                (view.offset, view.timestamp, blob(view.key, view.key_len), blob(view.value, view.value_len), headers))
        walk_save(self, &walk)
        return result


cdef object blob(const uint8_t* data, int32_t length):
    return None if length < 0 else PyBytes_FromStringAndSize(<const char*>data, length)
