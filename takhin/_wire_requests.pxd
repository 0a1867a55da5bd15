# The hot requests, read: inline C for _wire.
#
# One pass finds the records as spans in the request's bytes. `r` is at the first field of the
# outermost message, and `end` the first byte after it. Field numbers are the proto's. A kernel
# gives 0, or the negative status of what is wrong (and `r.fault`, where).

from libc.stdint cimport int32_t, int64_t, uint8_t

from ._fastlog cimport HeaderSpan, RecordSpan, RecordSpans
from ._wire_fields cimport (
    BAD_GROUP_ID, BAD_HEADER_KEY, BAD_TOPIC, BYTES, Field, MANY_HEADERS, MANY_RECORDS, NO_MEMORY, Reader, VARINT,
    next_field, utf8_fault,
)

# Bound on the records of a message, and on their headers together.
cdef enum:
    RECORDS_AT_MOST = 100000


cdef struct Text:
    const uint8_t* data
    int64_t size

cdef struct ProduceFields:
    Text topic
    int32_t partition
    bint has_required_acks
    int32_t required_acks
    int32_t timeout_ms
    int64_t correlation_id
    int64_t producer_id
    int32_t producer_epoch
    int32_t sequence

cdef struct ConsumeFields:
    Text topic
    int32_t partition
    int64_t offset
    int32_t max_bytes
    int32_t min_bytes
    int32_t max_wait_ms
    bint until_end
    int64_t start_timestamp
    Text group_id
    int32_t max_records
    int32_t heartbeat_ms


cdef inline int read_text(Reader* r, const Field* field, Text* out, int bad) noexcept nogil:
    """A string: 1, or `bad` when it is not UTF-8."""
    cdef const uint8_t* fault = utf8_fault(field.data, field.data + field.value)
    if fault != NULL:
        r.fault = fault
        return bad
    out.data = field.data
    out.size = <int64_t>field.value
    return 1

cdef inline void clear_text(Text* field) noexcept nogil:
    field.data = NULL
    field.size = 0

cdef inline void clear_produce(ProduceFields* fields) noexcept nogil:
    clear_text(&fields.topic)
    fields.has_required_acks = False
    fields.partition = fields.required_acks = fields.timeout_ms = fields.producer_epoch = fields.sequence = 0
    fields.correlation_id = fields.producer_id = 0

cdef inline int read_header(Reader* r, const Field* outer, HeaderSpan* header) noexcept nogil:
    """RecordHeader. Neither field can be absent: then it is empty."""
    cdef const uint8_t* end = outer.data + outer.value
    cdef Field field
    cdef Text key
    cdef int status
    header.key = header.value = outer.data
    header.key_len = header.value_len = 0
    r.p = outer.data
    while True:
        status = next_field(r, end, 2, &field)
        if status <= 0:
            return status
        if field.wire_type == BYTES:
            if field.number == 1:
                status = read_text(r, &field, &key, BAD_HEADER_KEY)
                if status < 0:
                    return status
                header.key = key.data
                header.key_len = <int32_t>key.size
            elif field.number == 2:
                header.value = field.data
                header.value_len = <int32_t>field.value

cdef inline int read_record(Reader* r, const Field* outer, RecordSpans spans) noexcept nogil:
    """Record, into the span that was added last: what it does not hold stays as it was."""
    cdef const uint8_t* end = outer.data + outer.value
    cdef RecordSpan* record = spans.records + (spans.count - 1)
    cdef HeaderSpan* header
    cdef Field field
    cdef int status
    r.p = outer.data
    while True:
        status = next_field(r, end, 1, &field)
        if status <= 0:
            return status
        if field.wire_type == BYTES:
            if field.number == 1:
                record.key = field.data
                record.key_len = <int32_t>field.value
            elif field.number == 2:
                record.value = field.data
                record.value_len = <int32_t>field.value
            elif field.number == 3:
                if spans.header_count >= RECORDS_AT_MOST:
                    return MANY_HEADERS
                header = spans.add_header()
                if header == NULL:
                    return NO_MEMORY
                status = read_header(r, &field, header)
                if status < 0:
                    return status
                record = spans.records + (spans.count - 1)
        elif field.wire_type == VARINT and field.number == 4:
            # `offset` and `partition` are the server's to fill: ignored.
            record.timestamp = <int64_t>field.value

# The kernels. `r` is at the first field; `end` is the first byte after the message.

cdef inline int read_message(Reader* r, const uint8_t* end, RecordSpans spans, ProduceFields* fields) noexcept nogil:
    """ProduceMessageRequest."""
    cdef Field field
    cdef int status
    clear_produce(fields)
    if spans.add_record() == NULL:
        return NO_MEMORY
    while True:
        status = next_field(r, end, 0, &field)
        if status <= 0:
            return status
        if field.wire_type == BYTES:
            if field.number == 1:
                status = read_text(r, &field, &fields.topic, BAD_TOPIC)
            elif field.number == 3:
                # Given twice, the two are merged into one.
                status = read_record(r, &field, spans)
            if status < 0:
                return status
        elif field.wire_type == VARINT:
            if field.number == 2:
                fields.partition = <int32_t>field.value
            elif field.number == 4:
                fields.has_required_acks = True
                fields.required_acks = <int32_t>field.value
            elif field.number == 5:
                fields.timeout_ms = <int32_t>field.value
            elif field.number == 100:
                fields.producer_id = <int64_t>field.value
            elif field.number == 101:
                fields.producer_epoch = <int32_t>field.value
            elif field.number == 102:
                fields.sequence = <int32_t>field.value

cdef inline int read_batch(Reader* r, const uint8_t* end, RecordSpans spans, ProduceFields* fields) noexcept nogil:
    """ProduceBatchRequest."""
    cdef Field field
    cdef int status
    clear_produce(fields)
    while True:
        status = next_field(r, end, 0, &field)
        if status <= 0:
            return status
        if field.wire_type == BYTES:
            if field.number == 3:
                if spans.count >= RECORDS_AT_MOST:
                    return MANY_RECORDS
                if spans.add_record() == NULL:
                    return NO_MEMORY
                status = read_record(r, &field, spans)
            elif field.number == 1:
                status = read_text(r, &field, &fields.topic, BAD_TOPIC)
            if status < 0:
                return status
        elif field.wire_type == VARINT:
            if field.number == 2:
                fields.partition = <int32_t>field.value
            elif field.number == 4:
                fields.has_required_acks = True
                fields.required_acks = <int32_t>field.value
            elif field.number == 5:
                fields.timeout_ms = <int32_t>field.value
            elif field.number == 6:
                fields.correlation_id = <int64_t>field.value
            elif field.number == 7:
                fields.producer_id = <int64_t>field.value
            elif field.number == 8:
                fields.producer_epoch = <int32_t>field.value
            elif field.number == 9:
                fields.sequence = <int32_t>field.value

cdef inline int read_consume(Reader* r, const uint8_t* end, ConsumeFields* fields) noexcept nogil:
    """ConsumeMessagesRequest."""
    cdef Field field
    cdef int status
    clear_text(&fields.topic)
    clear_text(&fields.group_id)
    fields.partition = fields.max_bytes = fields.min_bytes = fields.max_wait_ms = 0
    fields.max_records = fields.heartbeat_ms = 0
    fields.offset = fields.start_timestamp = 0
    fields.until_end = False
    while True:
        status = next_field(r, end, 0, &field)
        if status <= 0:
            return status
        if field.wire_type == BYTES:
            if field.number == 1:
                status = read_text(r, &field, &fields.topic, BAD_TOPIC)
            elif field.number == 102:
                status = read_text(r, &field, &fields.group_id, BAD_GROUP_ID)
            if status < 0:
                return status
        elif field.wire_type == VARINT:
            if field.number == 2:
                fields.partition = <int32_t>field.value
            elif field.number == 3:
                fields.offset = <int64_t>field.value
            elif field.number == 4:
                fields.max_bytes = <int32_t>field.value
            elif field.number == 5:
                fields.min_bytes = <int32_t>field.value
            elif field.number == 6:
                fields.max_wait_ms = <int32_t>field.value
            elif field.number == 100:
                fields.until_end = field.value != 0
            elif field.number == 101:
                fields.start_timestamp = <int64_t>field.value
            elif field.number == 103:
                fields.max_records = <int32_t>field.value
            elif field.number == 104:
                fields.heartbeat_ms = <int32_t>field.value
