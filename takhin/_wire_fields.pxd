# Fields of a protobuf message, read and written: inline C.
#
# Readers never look at or past the end that they are given, and accept what
# google.protobuf accepts. Writers trust that their caller has sized the buffer.
# Nothing here raises.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._bytes cimport read_varint, varint_size, write_varint

cdef extern from "_utf8.h" nogil:
    const uint8_t* utf8_fault "takhin_utf8_fault"(const uint8_t* p, const uint8_t* end) noexcept
    int64_t utf8_repaired_size "takhin_utf8_repaired_size"(const uint8_t* p, const uint8_t* end) noexcept
    uint8_t* utf8_repair "takhin_utf8_repair"(uint8_t* to, const uint8_t* p, const uint8_t* end) noexcept

# Tags: field number << 3 | wire type.
cdef enum:
    VARINT_2 = 2 << 3
    VARINT_3 = 3 << 3
    VARINT_4 = 4 << 3
    VARINT_5 = 5 << 3
    VARINT_6 = 6 << 3
    VARINT_8 = 8 << 3
    VARINT_9 = 9 << 3
    VARINT_100 = 100 << 3
    BYTES_1 = 1 << 3 | 2
    BYTES_2 = 2 << 3 | 2
    BYTES_3 = 3 << 3 | 2
    BYTES_4 = 4 << 3 | 2
    BYTES_5 = 5 << 3 | 2
    BYTES_7 = 7 << 3 | 2

# Wire types.
cdef enum:
    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    GROUP = 3
    GROUP_END = 4
    FIXED32 = 5

# How deep groups and messages nest at most, in all: google.protobuf's bound.
cdef enum:
    MAX_DEPTH = 100

# What is wrong with a message.
cdef enum:
    CUT_VARINT = -1
    LONG_VARINT = -2
    FIELD_ZERO = -3
    WIRE_TYPE = -4
    CUT_FIELD = -5
    STRAY_GROUP_END = -6
    CUT_GROUP = -7
    TOO_DEEP = -8
    BAD_TOPIC = -9
    BAD_GROUP_ID = -10
    BAD_HEADER_KEY = -11
    MANY_RECORDS = -12
    MANY_HEADERS = -13
    NO_MEMORY = -14


cdef struct Reader:
    const uint8_t* start        # of the whole message: positions count from it
    const uint8_t* p            # the next field
    const uint8_t* fault        # where it went wrong, after a negative status

cdef struct Field:
    uint32_t number
    uint32_t wire_type
    uint64_t value              # VARINT: the value; BYTES: the length
    const uint8_t* data         # BYTES: the first byte


cdef inline const uint8_t* read_varint32(
    const uint8_t* p, const uint8_t* end, uint64_t largest, uint64_t* out
) noexcept nogil:
    """Reads a tag or a length: at most 5 bytes, at most `largest`. NULL when it is not that."""
    cdef uint64_t value = 0
    cdef int shift = 0
    if p < end and p[0] < 0x80:
        out[0] = p[0]
        return p + 1
    while p < end and shift < 35:
        value |= <uint64_t>(p[0] & 0x7F) << shift
        if p[0] < 0x80:
            out[0] = value
            return p + 1 if value <= largest else NULL
        p += 1
        shift += 7
    return NULL

cdef inline int varint_fault(Reader* r, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """The status for the varint at p that could not be read."""
    r.fault = p
    while p < end:
        if p[0] < 0x80:
            return LONG_VARINT
        p += 1
    return LONG_VARINT if p - r.fault >= 10 else CUT_VARINT

cdef inline int skip_group(Reader* r, const uint8_t* p, const uint8_t* end, uint32_t number, int depth) noexcept nogil:
    """Passes over the group `number` whose first field is at p: 1, or a negative status.

    `depth` is that of the message around it: 0 for the outermost, 2 at most. As in google.protobuf, the
    number of a field inside an unknown group may be 0.
    """
    cdef uint32_t[MAX_DEPTH] numbers
    cdef int count = 1
    cdef uint64_t tag, value
    cdef const uint8_t* at = p
    cdef const uint8_t* group = p
    numbers[0] = number
    while count > 0:
        at = p
        if p >= end:
            r.fault = group
            return CUT_GROUP
        p = read_varint32(at, end, 0xFFFFFFFF, &tag)
        if p == NULL:
            return varint_fault(r, at, end)
        r.fault = at
        value = 0
        if tag & 7 == VARINT:
            at = p
            p = read_varint(at, end, &value)
            if p == NULL:
                return varint_fault(r, at, end)
            value = 0
        elif tag & 7 == FIXED64:
            value = 8
        elif tag & 7 == BYTES:
            at = p
            p = read_varint32(at, end, 0x7FFFFFFF, &value)
            if p == NULL:
                return varint_fault(r, at, end)
        elif tag & 7 == GROUP:
            if count + depth >= MAX_DEPTH:
                return TOO_DEEP
            numbers[count] = <uint32_t>(tag >> 3)
            count += 1
        elif tag & 7 == GROUP_END:
            count -= 1
            if numbers[count] != <uint32_t>(tag >> 3):
                return STRAY_GROUP_END
        elif tag & 7 == FIXED32:
            value = 4
        else:
            return WIRE_TYPE
        if <uint64_t>(end - p) < value:
            return CUT_FIELD
        p += value
    r.p = p
    return 1

cdef inline int next_field(Reader* r, const uint8_t* end, int depth, Field* field) noexcept nogil:
    """Reads the next field below `end` of a message at `depth`: 1; 0 at the end; else a negative status.

    A group, which no message of ours has, comes back with its content passed over.
    """
    cdef const uint8_t* at = r.p
    cdef const uint8_t* p
    cdef uint64_t tag
    cdef uint64_t length
    if at >= end:
        return 0
    p = read_varint32(at, end, 0xFFFFFFFF, &tag)
    if p == NULL:
        return varint_fault(r, at, end)
    field.number = <uint32_t>(tag >> 3)
    field.wire_type = <uint32_t>(tag & 7)
    field.value = 0
    field.data = p
    r.fault = at
    if field.number == 0:
        return FIELD_ZERO
    if field.wire_type == BYTES:
        at = p
        p = read_varint32(at, end, 0x7FFFFFFF, &length)
        if p == NULL:
            return varint_fault(r, at, end)
        field.data = p
        field.value = length
    elif field.wire_type == VARINT:
        at = p
        p = read_varint(at, end, &field.value)
        if p == NULL:
            return varint_fault(r, at, end)
        length = 0
    elif field.wire_type == FIXED64:
        length = 8
    elif field.wire_type == FIXED32:
        length = 4
    elif field.wire_type == GROUP:
        return skip_group(r, p, end, field.number, depth)
    elif field.wire_type == GROUP_END:
        return STRAY_GROUP_END
    else:
        return WIRE_TYPE
    if <uint64_t>(end - p) < length:
        return CUT_FIELD
    r.p = p + length
    return 1


# Writers. `tag` is (number << 3 | wire type). Scalars and strings at their default
# are not written: proto3. Negative int32 and int64 take ten bytes.

cdef inline int64_t int_size(uint32_t tag, int64_t value) noexcept nogil:
    return varint_size(tag) + varint_size(<uint64_t>value) if value != 0 else 0

cdef inline uint8_t* write_int(uint8_t* p, uint32_t tag, int64_t value) noexcept nogil:
    if value == 0:
        return p
    return write_varint(write_varint(p, tag), <uint64_t>value)

cdef inline int64_t bytes_size(uint32_t tag, int64_t length) noexcept nogil:
    """Of a field that is written even when it is empty."""
    return varint_size(tag) + varint_size(<uint64_t>length) + length

cdef inline uint8_t* write_bytes(uint8_t* p, uint32_t tag, const uint8_t* data, int64_t length) noexcept nogil:
    p = write_varint(write_varint(p, tag), <uint64_t>length)
    memcpy(p, data, <size_t>length)
    return p + length

cdef inline int64_t text_size(uint32_t tag, int64_t length) noexcept nogil:
    return bytes_size(tag, length) if length > 0 else 0

cdef inline uint8_t* write_text(uint8_t* p, uint32_t tag, const uint8_t* data, int64_t length) noexcept nogil:
    return write_bytes(p, tag, data, length) if length > 0 else p
