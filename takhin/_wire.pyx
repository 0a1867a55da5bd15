# The protobuf wire codec of the hot messages. The interface is in _wire.pyi.
#
# Decoding: one pass over the request finds the records as spans in its bytes. Encoding a
# response: one pass over the batches writes it into one bytes object.
# Each is a `def` (arguments, with the GIL) over a kernel that touches no Python object, fills a
# struct and gives a negative status, which `raise_malformed` turns into an exception.
# The kernels are in _wire_requests.pxd and _wire_responses.pxd, what they share in _wire_fields.pxd.

from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memmove
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8

cimport cython

from ._fastlog cimport (
    BatchHead, Batches, HEADER_BYTES, HeaderSpan, RecordSpan, RecordSpans, read_head,
)
from ._fastlog_walk cimport Walk, walk_open, walk_save
from ._wire_fields cimport (
    BYTES_1, BYTES_5, BYTES_7, VARINT_2, VARINT_3, VARINT_4, VARINT_5, VARINT_6, VARINT_8, VARINT_9, VARINT_100,
    BAD_GROUP_ID, BAD_HEADER_KEY, BAD_TOPIC, CUT_FIELD, CUT_GROUP, CUT_VARINT, FIELD_ZERO, LONG_VARINT,
    MANY_HEADERS, MANY_RECORDS, NO_MEMORY, STRAY_GROUP_END, TOO_DEEP, WIRE_TYPE, Reader, int_size, text_size,
    write_int, write_text,
)
from ._wire_plain cimport Records
from ._wire_requests cimport (
    ConsumeFields, ProduceFields, RECORDS_AT_MOST, Text, read_batch, read_consume, read_message,
)
from ._wire_responses cimport write_records

from .errors import DataLoss, MalformedMessage, TooManyRecords

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    # As pointers: a bytes object can be resized only while there is one reference to it.
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    void set_size "Py_SET_SIZE"(void* o, Py_ssize_t size)
    int resize_bytes "_PyBytes_Resize"(PyObject** data, Py_ssize_t size) except -1

cdef extern from *:
    """
    #ifdef __GLIBC__
    #include <malloc.h>
    static int tk_keep_buffers(int size) {
        return mallopt(M_MMAP_THRESHOLD, size) && mallopt(M_TRIM_THRESHOLD, 2 * size);
    }
    #else
    #define tk_keep_buffers(size) 0
    #endif
    """
    int tk_keep_buffers(int size)

# Below this many bytes, giving the GIL away and taking it back costs more than it gives. Measured with
# 2 to 8 threads: a kernel of 5 microseconds breaks even, which is 30 KiB of records of 100 bytes and
# 200 KiB of records of 1 KiB.
cdef enum:
    RELEASE_GIL_BYTES = 131072

    # Of the size of a large chunk, the room that a response has at once.
    CHUNKS = 8
    # Of a message, the part that may be left unused behind it: an eighth.
    SPARE_SHIFT = 3
    # At most, of a tag and an integer.
    FIELD_BYTES = 12

MAX_RECORDS = RECORDS_AT_MOST


# -- requests ---------------------------------------------------------------------------------

@cython.final
@cython.no_gc
@cython.auto_pickle(False)
@cython.freelist(64)
cdef class ProduceRequest:
    cdef readonly str topic
    cdef readonly RecordSpans records
    cdef readonly object required_acks
    cdef readonly int64_t correlation_id
    cdef readonly int64_t producer_id
    cdef readonly int32_t partition
    cdef readonly int32_t timeout_ms
    cdef readonly int32_t producer_epoch
    cdef readonly int32_t sequence

    def __init__(self):
        raise TypeError("ProduceRequest comes from decode_produce_message and decode_produce_batch")

    def copy_records(self):
        cdef RecordSpan* record
        cdef HeaderSpan* header
        cdef uint32_t i, h
        cdef list result = []
        for i in range(self.records.count):
            record = self.records.records + i
            headers = []
            for h in range(record.first_header, record.first_header + record.header_count):
                header = self.records.headers + h
                headers.append((blob(header.key, header.key_len).decode(), blob(header.value, header.value_len)))
            result.append(
                (blob(record.key, record.key_len), blob(record.value, record.value_len), headers, record.timestamp))
        return result


cdef object blob(const uint8_t* data, int32_t length):
    return None if length < 0 else PyBytes_FromStringAndSize(<const char*>data, length)


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class ConsumeRequest:
    cdef readonly str topic
    cdef readonly str group_id
    cdef readonly int64_t offset
    cdef readonly int64_t start_timestamp
    cdef readonly int32_t partition
    cdef readonly int32_t max_bytes
    cdef readonly int32_t min_bytes
    cdef readonly int32_t max_wait_ms
    cdef readonly int32_t max_records
    cdef readonly int32_t heartbeat_ms
    cdef readonly bint until_end

    def __init__(self):
        raise TypeError("ConsumeRequest comes from decode_consume")


def decode_produce_message(bytes data not None):
    return decode_produce(data, False)


def decode_produce_batch(bytes data not None):
    return decode_produce(data, True)


cdef ProduceRequest decode_produce(bytes data, bint batch):
    cdef Reader r
    cdef ProduceFields fields
    cdef ProduceRequest request
    cdef RecordSpans spans = RecordSpans.__new__(RecordSpans)
    cdef const uint8_t* end = open_reader(&r, data)
    cdef int status
    spans.source = data
    if PyBytes_GET_SIZE(data) < RELEASE_GIL_BYTES:
        status = read_batch(&r, end, spans, &fields) if batch else read_message(&r, end, spans, &fields)
    else:
        with nogil:
            status = read_batch(&r, end, spans, &fields) if batch else read_message(&r, end, spans, &fields)
    if status < 0:
        raise_malformed(&r, status, "ProduceBatchRequest" if batch else "ProduceMessageRequest")
    request = ProduceRequest.__new__(ProduceRequest)
    request.topic = text(&fields.topic)
    request.records = spans
    request.required_acks = fields.required_acks if fields.has_required_acks else None
    request.correlation_id = fields.correlation_id
    request.producer_id = fields.producer_id
    request.partition = fields.partition
    request.timeout_ms = fields.timeout_ms
    request.producer_epoch = fields.producer_epoch
    request.sequence = fields.sequence
    return request


def decode_consume(bytes data not None):
    cdef Reader r
    cdef ConsumeFields fields
    cdef ConsumeRequest request
    cdef const uint8_t* end = open_reader(&r, data)
    cdef int status
    if PyBytes_GET_SIZE(data) < RELEASE_GIL_BYTES:
        status = read_consume(&r, end, &fields)
    else:
        with nogil:
            status = read_consume(&r, end, &fields)
    if status < 0:
        raise_malformed(&r, status, "ConsumeMessagesRequest")
    request = ConsumeRequest.__new__(ConsumeRequest)
    request.topic = text(&fields.topic)
    request.group_id = text(&fields.group_id)
    request.offset = fields.offset
    request.start_timestamp = fields.start_timestamp
    request.partition = fields.partition
    request.max_bytes = fields.max_bytes
    request.min_bytes = fields.min_bytes
    request.max_wait_ms = fields.max_wait_ms
    request.max_records = fields.max_records
    request.heartbeat_ms = fields.heartbeat_ms
    request.until_end = fields.until_end
    return request


cdef const uint8_t* open_reader(Reader* r, bytes data):
    r.start = r.p = r.fault = <const uint8_t*>PyBytes_AS_STRING(data)
    return r.start + PyBytes_GET_SIZE(data)


cdef inline str text(Text* field):
    """The kernel has seen that it is UTF-8."""
    return PyUnicode_DecodeUTF8(<const char*>field.data, field.size, NULL) if field.size else ""


# What is wrong, and the request field at fault where there is one.
cdef dict FAULTS = {
    CUT_VARINT: ("a varint is cut", ""),
    LONG_VARINT: ("a varint is too long or too large", ""),
    FIELD_ZERO: ("a field has the number 0", ""),
    WIRE_TYPE: ("a field has a wire type that does not exist", ""),
    CUT_FIELD: ("a field goes on past the end of its message", ""),
    STRAY_GROUP_END: ("a group ends that did not begin", ""),
    CUT_GROUP: ("a group does not end", ""),
    TOO_DEEP: ("groups are nested too deeply", ""),
    BAD_TOPIC: ("the topic is not UTF-8", "topic"),
    BAD_GROUP_ID: ("the group id is not UTF-8", "group_id"),
    BAD_HEADER_KEY: ("a header key is not UTF-8", "headers.key"),
}


cdef int raise_malformed(Reader* r, int status, str message) except -1:
    """Raises what a negative status stands for. Cold."""
    cdef Py_ssize_t position = r.fault - r.start
    if status == NO_MEMORY:
        raise MemoryError
    if status == MANY_RECORDS or status == MANY_HEADERS:
        raise TooManyRecords(
            f"{message} has more than {MAX_RECORDS} {'records' if status == MANY_RECORDS else 'headers'}",
            limit=MAX_RECORDS)
    what, bad_field = FAULTS[status]
    if status == BAD_HEADER_KEY:
        bad_field = ("record." if message == "ProduceMessageRequest" else "records.") + bad_field
    raise MalformedMessage(f"{message}: {what}, at byte {position}", bad_field=bad_field, position=position)


# -- responses --------------------------------------------------------------------------------

def encode_produce_message_response(
        str topic not None, int32_t partition, int64_t offset, int64_t timestamp, str error not None="",
        int32_t error_code=0):
    cdef Text name, problem
    cdef bytes kept = open_texts(topic, &name, error, &problem)
    cdef bytes result = PyBytes_FromStringAndSize(
        NULL, text_size(BYTES_1, name.size) + int_size(VARINT_2, partition) + int_size(VARINT_3, offset)
        + int_size(VARINT_4, timestamp) + text_size(BYTES_5, problem.size) + int_size(VARINT_100, error_code))
    cdef uint8_t* p = write_text(<uint8_t*>PyBytes_AS_STRING(result), BYTES_1, name.data, name.size)
    p = write_int(p, VARINT_2, partition)
    p = write_int(p, VARINT_3, offset)
    p = write_int(p, VARINT_4, timestamp)
    p = write_text(p, BYTES_5, problem.data, problem.size)
    write_int(p, VARINT_100, error_code)
    return result


def encode_produce_batch_response(
        str topic not None, int32_t partition, int64_t base_offset, int64_t last_offset, int64_t timestamp,
        int64_t correlation_id, int64_t high_watermark, str error not None="", int32_t error_code=0):
    cdef Text name, problem
    cdef bytes kept = open_texts(topic, &name, error, &problem)
    cdef bytes result = PyBytes_FromStringAndSize(
        NULL, text_size(BYTES_1, name.size) + int_size(VARINT_2, partition) + int_size(VARINT_3, base_offset)
        + int_size(VARINT_4, last_offset) + int_size(VARINT_5, timestamp) + int_size(VARINT_6, correlation_id)
        + text_size(BYTES_7, problem.size) + int_size(VARINT_8, error_code) + int_size(VARINT_9, high_watermark))
    cdef uint8_t* p = write_text(<uint8_t*>PyBytes_AS_STRING(result), BYTES_1, name.data, name.size)
    p = write_int(p, VARINT_2, partition)
    p = write_int(p, VARINT_3, base_offset)
    p = write_int(p, VARINT_4, last_offset)
    p = write_int(p, VARINT_5, timestamp)
    p = write_int(p, VARINT_6, correlation_id)
    p = write_text(p, BYTES_7, problem.data, problem.size)
    p = write_int(p, VARINT_8, error_code)
    write_int(p, VARINT_9, high_watermark)
    return result


cdef bytes open_texts(str topic, Text* name, str error, Text* problem):
    """The UTF-8 of both; the caller keeps what comes back until it has written them.

    An error text may quote what is not Unicode (a file's name): that must not hide the error.
    """
    cdef bytes kept = b""
    cdef Py_ssize_t size
    name.data = <const uint8_t*>PyUnicode_AsUTF8AndSize(topic, &size)
    name.size = size
    if error:
        kept = error.encode("utf-8", "replace")
    problem.data = <const uint8_t*>PyBytes_AS_STRING(kept)
    problem.size = PyBytes_GET_SIZE(kept)
    return kept


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
@cython.freelist(16)
cdef class ConsumeResponse:
    cdef PyObject* raw          # NULL before the first batches, and after the end
    cdef bytes topic
    cdef Records out
    cdef int64_t head           # bytes before the records
    cdef int64_t before_watermark
    cdef int64_t max_bytes
    cdef int64_t max_records
    cdef int32_t partition
    cdef bint finished

    def __cinit__(self):
        self.finished = True  # until it is open

    def __init__(self, bytes topic not None, int32_t partition, int64_t high_watermark, int64_t max_bytes,
                 int64_t max_records):
        if self.topic is not None:
            raise ValueError("the response is open")
        self.open(topic, partition, high_watermark, max_bytes, max_records)

    cdef void open(self, bytes topic, int32_t partition, int64_t high_watermark, int64_t max_bytes,
                   int64_t max_records) noexcept:
        self.topic = topic
        self.partition = partition
        self.before_watermark = text_size(BYTES_1, PyBytes_GET_SIZE(topic)) + int_size(VARINT_2, partition)
        self.head = self.before_watermark + int_size(VARINT_3, high_watermark)
        # A message of 2 GiB is more than any client reads.
        self.max_bytes = min(max_bytes, INT32_MAX - self.head - 2 * FIELD_BYTES)
        self.max_records = max_records if max_records > 0 else INT64_MAX
        self.out.room = self.out.size = self.out.count = self.out.missing = 0
        self.finished = False

    def __dealloc__(self):
        Py_XDECREF(self.raw)

    @property
    def count(self):
        return self.out.count

    def add(self, Batches batches not None):
        cdef Walk walk
        cdef Records* out = &self.out
        cdef int64_t size, least
        cdef bint large
        if self.finished:
            raise ValueError("the response is finished")
        walk_open(batches, &walk)
        size = walk.size - walk.batch_position
        large = min(self.max_bytes - out.size, size) >= RELEASE_GIL_BYTES
        # Records are seldom twice as long here as in the log; where they are, there is more room a little later.
        # After a large chunk there may be others: the message takes back what they do not need.
        least = min(self.max_bytes, out.size + 2 * size)
        if self.raw == NULL or out.room < least:
            self.make_room(min(self.max_bytes, max(least, CHUNKS * size)) if large else least)
        out.lost = out.exhausted = False
        while True:
            out.p = <uint8_t*>PyBytes_AS_STRING(<object>self.raw) + self.head
            if large:
                with nogil:
                    write_records(&walk, self.partition, self.max_bytes, self.max_records, out)
            else:
                write_records(&walk, self.partition, self.max_bytes, self.max_records, out)
            if out.missing == 0:
                break
            self.make_room(max(2 * out.room, out.size + out.missing))
        if out.lost and out.count == 0:
            raise_data_loss(&walk)
        walk_save(batches, &walk)
        return out.exhausted and (
            out.count == 0 or (out.count < self.max_records and out.size < self.max_bytes))

    cdef int make_room(self, int64_t room) except -1:
        room = max(room, 0)
        self.finished = True  # unless there is memory
        if self.raw == NULL:
            self.raw = new_bytes(NULL, self.head + room + FIELD_BYTES)
        else:
            resize_bytes(&self.raw, self.head + room + FIELD_BYTES)
        self.finished = False
        self.out.room = room
        return 0

    cdef int cut(self, Py_ssize_t size) except -1:
        """The message becomes shorter. A little memory behind it is kept, for as long as the message: given back, it
        goes to something small, and the next message finds no place where this one was."""
        cdef Py_ssize_t spare = PyBytes_GET_SIZE(<object>self.raw) - size
        if 0 <= spare <= size >> SPARE_SHIFT:
            set_size(<void*>self.raw, size)
            PyBytes_AS_STRING(<object>self.raw)[size] = 0
        else:
            resize_bytes(&self.raw, size)
        return 0

    def finish(self, int64_t high_watermark, int64_t log_start_offset):
        cdef PyObject* raw
        cdef uint8_t* p
        cdef int64_t head = self.before_watermark + int_size(VARINT_3, high_watermark)
        cdef int64_t size = head + self.out.size + int_size(VARINT_100, log_start_offset)
        if self.finished:
            raise ValueError("the response is finished")
        self.finished = True
        if self.raw == NULL:
            self.raw = new_bytes(NULL, size)
        elif head > self.head:
            resize_bytes(&self.raw, head + self.out.size + FIELD_BYTES)
        p = <uint8_t*>PyBytes_AS_STRING(<object>self.raw)
        if head != self.head:
            memmove(p + head, p + self.head, <size_t>self.out.size)
        if PyBytes_GET_SIZE(<object>self.raw) != size:
            self.cut(size)
        p = <uint8_t*>PyBytes_AS_STRING(<object>self.raw)
        p = write_text(p, BYTES_1, <const uint8_t*>PyBytes_AS_STRING(self.topic), PyBytes_GET_SIZE(self.topic))
        p = write_int(p, VARINT_2, self.partition)
        p = write_int(p, VARINT_3, high_watermark)
        write_int(p + self.out.size, VARINT_100, log_start_offset)
        raw, self.raw = self.raw, NULL
        try:
            return <object>raw
        finally:
            Py_XDECREF(raw)


def encode_consume_response(
        bytes topic not None, int32_t partition, int64_t high_watermark, int64_t log_start_offset, Batches batches,
        int64_t max_bytes, int64_t max_records):
    cdef ConsumeResponse response = ConsumeResponse.__new__(ConsumeResponse)
    response.open(topic, partition, high_watermark, max_bytes, max_records)
    if batches is not None:
        response.add(batches)
    return response.finish(high_watermark, log_start_offset), response.out.count


def keep_buffers(int size):
    return bool(tk_keep_buffers(size))


cdef int raise_data_loss(Walk* walk) except -1:
    """Names the offsets of the batch that the walk could not read. Cold."""
    cdef BatchHead head
    cdef int64_t last_offset = walk.next_offset
    if walk.size - walk.batch_position >= HEADER_BYTES:
        read_head(walk.data + walk.batch_position, &head)
        last_offset = max(last_offset, head.last_offset)
    raise DataLoss("a batch's records do not add up", first_offset=walk.next_offset, last_offset=last_offset)
