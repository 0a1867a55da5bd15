# Plain records of a response, written quickly: inline C for _wire.
#
# Plain are records without headers, and without numbers out of the ordinary. Where two neighbours are alike, so are
# often those behind them: they are written from one pattern.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._bytes cimport spread_varint, unzigzag, varint_size, write_varint
from ._fastlog_walk cimport Walk
from ._wire_fields cimport BYTES_1, BYTES_2, BYTES_4, VARINT_4, VARINT_5, VARINT_6

cdef enum:
    BLOCK_BYTES = 32            # copied at once: bytes that may be read behind a record, and written to
    BLOCKS_BYTES = 256          # above, memcpy is quicker than blocks
    PREFIX_BYTES = 16           # at least what is looked at before the end of a key is known
    SHORT_BITS = 49             # of a number that fits in 8 bytes with its tag


cdef struct Records:
    uint8_t* p              # where the first goes
    int64_t room            # bytes from there on
    int64_t size            # bytes written: records, with their tags and lengths
    int64_t count
    int64_t missing         # not 0: this many bytes of room are needed to go on
    bint lost               # the batches did not add up after these records
    bint exhausted          # the batches have no more records


cdef inline const uint8_t* read_short(const uint8_t* p, uint64_t* out) noexcept nogil:
    """Reads a varint of at most 3 bytes; 4 can be read at p. NULL when it is longer."""
    cdef uint32_t v
    memcpy(&v, p, 4)
    if not v & 0x80:
        out[0] = v & 0x7F
        return p + 1
    if not v & 0x8000:
        out[0] = (v & 0x7F) | (v & 0x7F00) >> 1
        return p + 2
    if not v & 0x800000:
        out[0] = (v & 0x7F) | (v & 0x7F00) >> 1 | (v & 0x7F0000) >> 2
        return p + 3
    return NULL

cdef inline uint8_t* write_length(uint8_t* p, uint32_t tag, int64_t length) noexcept nogil:
    """A tag of one byte and a length of at most 4."""
    p[0] = <uint8_t>tag
    if length < 0x80:
        p[1] = <uint8_t>length
        return p + 2
    if length < 0x4000:
        p[1] = <uint8_t>(length | 0x80)
        p[2] = <uint8_t>(length >> 7)
        return p + 3
    return write_varint(p + 1, <uint64_t>length)

cdef inline int64_t short_text_size(int64_t length) noexcept nogil:
    """Bytes of a tag of one byte, a length below 2^21, and as many bytes."""
    return length + 2 + (length >= 0x80) + (length >= 0x4000)

cdef inline uint64_t short_field(uint32_t tag, uint64_t v, int* size) noexcept nogil:
    """A field with a tag of one byte and a number below 2^SHORT_BITS, first byte lowest, and its size."""
    cdef int digits = varint_size(v)
    size[0] = 1 + digits
    return spread_varint(v, digits) << 8 | tag

cdef inline uint8_t* write_field(uint8_t* p, uint64_t field, int size) noexcept nogil:
    """Eight bytes are written to."""
    memcpy(p, &field, 8)
    return p + size

cdef inline uint8_t* write_blocks(uint8_t* p, const uint8_t* data, int64_t length) noexcept nogil:
    """Copies `length` bytes, and perhaps as many as BLOCK_BYTES behind them."""
    cdef int64_t i = 0
    if length > BLOCKS_BYTES:
        memcpy(p, data, <size_t>length)
        return p + length
    while True:
        memcpy(p + i, data + i, BLOCK_BYTES)
        i += BLOCK_BYTES
        if i >= length:
            return p + length

cdef struct Alike:
    int64_t stored          # bytes of a record in its batch, and
    int64_t framed          # in the message
    int head_size           # bytes before its key, or before its value when there is no key
    uint64_t[2] head        # they, first byte lowest, and zeros
    uint64_t step           # how much more head[0] is in the next
    bint keyed
    int64_t key_length
    int value_head_size     # bytes between key and value
    uint32_t value_head
    uint64_t lead           # in the message, before the key or value
    int lead_size
    uint64_t value_lead     # there between key and value
    int value_lead_size
    int64_t value_length


cdef inline uint64_t low_bytes(int size) noexcept nogil:
    """A mask of so many bytes: of 8 or more all, below 1 none."""
    if size >= 8:
        return ~<uint64_t>0
    return ((<uint64_t>1 << (8 * size)) - 1) if size > 0 else 0

cdef inline void see_alike(
    Alike* alike, const uint8_t* at, int offset_at, const uint8_t* key, bint keyed, int64_t key_length,
    const uint8_t* value, int64_t value_length, int64_t size
) noexcept nogil:
    """What the plain record that is at `at` and will take `size` bytes has in common with others of its batch that are as long.
    Its value is there; its offset, `offset_at` bytes behind its beginning."""
    cdef uint8_t[16] lead
    cdef uint8_t* p
    alike.stored = value + value_length + 1 - at
    alike.framed = short_text_size(size)
    alike.keyed = keyed
    alike.key_length = key_length
    alike.value_length = value_length
    alike.head_size = <int>((key if keyed else value) - at)
    memcpy(alike.head, at, 16)
    alike.head[0] &= low_bytes(alike.head_size)
    alike.head[1] &= low_bytes(alike.head_size - 8)
    alike.step = <uint64_t>2 << (8 * offset_at)
    p = write_length(lead, BYTES_4, size)
    if keyed:
        p = write_length(p, BYTES_1, key_length)
        alike.lead_size = <int>(p - lead)
        memcpy(&alike.lead, lead, 8)
        alike.value_head_size = <int>(value - key - key_length)
        memcpy(&alike.value_head, key + key_length, 4)
        alike.value_head &= <uint32_t>low_bytes(alike.value_head_size)
        p = write_length(lead, BYTES_2, value_length)
        alike.value_lead_size = <int>(p - lead)
        memcpy(&alike.value_lead, lead, 8)
    else:
        p = write_length(p, BYTES_2, value_length)
        alike.lead_size = <int>(p - lead)
        memcpy(&alike.lead, lead, 8)

cdef inline int64_t write_alike(
    const Alike* alike, const uint8_t* at, const uint8_t* at_end, uint8_t* to, const uint8_t* to_end, int64_t most,
    uint64_t timestamp_field, int timestamp_size, uint64_t offset_field, int offset_size,
    uint64_t partition_field, int partition_size
) noexcept nogil:
    """Writes the records from `at` on that differ from the one before in nothing but key, value, and an offset that is
    one more, in the bytes that it has. Returns how many: `most`, or as many as end by `at_end` and `to_end`."""
    cdef uint64_t low_mask = low_bytes(alike.head_size), high_mask = low_bytes(alike.head_size - 8)
    cdef uint32_t value_mask = <uint32_t>low_bytes(alike.value_head_size)
    cdef uint64_t head = alike.head[0], high_head = alike.head[1], step = alike.step, lead = alike.lead
    cdef int64_t stored = alike.stored, key_length = alike.key_length, value_length = alike.value_length
    cdef int head_size = alike.head_size, lead_size = alike.lead_size
    cdef bint keyed = alike.keyed
    cdef const uint8_t* last_at = at_end - stored
    cdef const uint8_t* last_to = to_end - alike.framed
    cdef const uint8_t* p
    cdef uint64_t low, high
    cdef uint32_t value_head
    cdef int64_t n = 0
    while n < most and at <= last_at and to <= last_to:
        head += step
        memcpy(&low, at, 8)
        memcpy(&high, at + 8, 8)
        if (low & low_mask) ^ head | (high & high_mask) ^ high_head:
            break
        # Behind the value: the number of headers, 0, and nothing else.
        if at[stored - 1] != 0:
            break
        p = at + head_size
        if keyed:
            memcpy(&value_head, p + key_length, 4)
            if value_head & value_mask != alike.value_head:
                break
            to = write_blocks(write_field(to, lead, lead_size), p, key_length)
            to = write_field(to, alike.value_lead, alike.value_lead_size)
            p += key_length + alike.value_head_size
        else:
            to = write_field(to, lead, lead_size)
        to = write_blocks(to, p, value_length)
        to = write_field(to, timestamp_field, timestamp_size)
        offset_field += 0x100
        to = write_field(to, offset_field, offset_size)
        if partition_size != 0:
            to = write_field(to, partition_field, partition_size)
        at += stored
        n += 1
    return n

cdef inline void write_plain_records(
    Walk* walk, int32_t partition, int64_t max_bytes, int64_t max_records, Records* out
) noexcept nogil:
    """What write_records does, quicker, for the next records of the batch that the walk is in, as long as they have
    no headers, no numbers out of the ordinary, and room for whole blocks behind their bytes, here and there.

    Ends before the first other record: that may be anything, also one that does not fit or is wrong.
    """
    cdef const uint8_t* data_end = walk.data + walk.size
    cdef const uint8_t* batch_end = walk.data + walk.batch_end
    cdef const uint8_t* at = walk.data + walk.record_position
    cdef const uint8_t* end
    cdef const uint8_t* p = NULL
    cdef const uint8_t* key = NULL
    cdef uint8_t* to = out.p + out.size
    cdef int64_t room = min(max_bytes, out.room - BLOCK_BYTES)
    cdef int64_t written = out.size, count = out.count, next_offset = walk.next_offset
    cdef int64_t base_offset = walk.base_offset, end_offset = min(walk.end_offset, <int64_t>1 << SHORT_BITS)
    cdef int64_t base_timestamp = walk.base_timestamp, append_timestamp = walk.append_timestamp
    cdef int32_t index = walk.record_index, record_count = walk.record_count
    cdef uint64_t length, delta, offset_delta = 0, key_raw = 1, value_raw
    cdef int64_t offset = 0, timestamp, key_length = 0, value_length = 0, size = 0, framed = 0
    # Fields that are the same for many records, or nearly, are kept.
    cdef uint64_t offset_field = 0, timestamp_field = 0, partition_field = 0
    cdef int offset_size = 0, timestamp_size = 0, partition_size = 0
    cdef int64_t kept_timestamp = 0, kept_offset = -1
    # Where two are alike, so are often those behind them.
    cdef Alike alike
    cdef uint64_t kept_shape = 0, shape
    cdef const uint8_t* offset_at = NULL
    cdef const uint8_t* before = NULL
    cdef bint seen
    cdef int64_t most, more
    if partition < 0:
        return
    if partition != 0:
        partition_field = short_field(VARINT_6, partition, &partition_size)
    while True:
        seen = False
        while index < record_count and count < max_records:
            if batch_end - at < PREFIX_BYTES:
                break
            p = read_short(at, &length)
            if p == NULL or length & 1 or <int64_t>(length >> 1) > batch_end - p:
                break
            end = p + (length >> 1)
            if data_end - end < BLOCK_BYTES:
                break
            p = read_short(p + 1, &delta)
            if p == NULL:
                break
            offset_at = p
            p = read_short(p, &offset_delta)
            if p == NULL or offset_delta & 1:
                break
            key = read_short(p, &key_raw)
            if key == NULL or (key_raw & 1 and key_raw != 1):
                break
            key_length = <int64_t>(key_raw >> 1)
            if key_length > batch_end - key - 4:
                break
            p = read_short(key + key_length, &value_raw)
            if p == NULL or (value_raw & 1 and value_raw != 1):
                break
            value_length = <int64_t>(value_raw >> 1)
            # Behind the value: the number of headers, 0, and nothing else.
            if value_length != end - p - 1 or p[value_length] != 0:
                break
            offset = base_offset + <int64_t>(offset_delta >> 1)
            if offset < next_offset or offset >= end_offset or offset < 1:
                break
            timestamp = append_timestamp if append_timestamp >= 0 else <int64_t>(
                <uint64_t>base_timestamp + <uint64_t>unzigzag(delta))
            if timestamp != kept_timestamp:
                if timestamp >> SHORT_BITS != 0:
                    break
                kept_timestamp = timestamp
                timestamp_field = short_field(VARINT_4, timestamp, &timestamp_size)
            elif timestamp == 0:
                break
            if offset == kept_offset + 1 and offset & 0x7F:
                offset_field += 0x100  # one more in the first byte behind the tag, which has room for it
            else:
                offset_field = short_field(VARINT_5, offset, &offset_size)
            kept_offset = offset
            size = timestamp_size + offset_size + partition_size
            if key_raw != 1:
                size += short_text_size(key_length)
            if value_raw != 1:
                size += short_text_size(value_length)
            framed = short_text_size(size)
            if written + framed > room:
                break
            to = write_length(to, BYTES_4, size)
            if key_raw != 1:
                to = write_blocks(write_length(to, BYTES_1, key_length), key, key_length)
            if value_raw != 1:
                to = write_blocks(write_length(to, BYTES_2, value_length), p, value_length)
            to = write_field(to, timestamp_field, timestamp_size)
            to = write_field(to, offset_field, offset_size)
            if partition_size != 0:
                to = write_field(to, partition_field, partition_size)
            written += framed
            count += 1
            index += 1
            next_offset = offset + 1
            before = at
            at = end
            shape = length | delta << 21 | value_raw << 42
            if shape == kept_shape and value_raw != 1:
                seen = True
                break
            kept_shape = shape
        if not seen:
            break
        # No longer than the lowest 7 bits of the offset have room, here (twice the offset) and there.
        most = min(
            min(<int64_t>(0x7F - (offset_delta & 0x7F)) >> 1, 0x7F - (offset & 0x7F)),
            min(min(record_count - index, max_records - count), end_offset - next_offset),
        )
        see_alike(&alike, before, <int>(offset_at - before), key, key_raw != 1, key_length, p, value_length, size)
        more = write_alike(
            &alike, at, min(batch_end, data_end - BLOCK_BYTES), to, out.p + room, most,
            timestamp_field, timestamp_size, offset_field, offset_size, partition_field, partition_size,
        )
        offset_field += <uint64_t>more * 0x100
        kept_offset += more
        at += more * alike.stored
        to += more * framed
        written += more * framed
        count += more
        index += <int32_t>more
        next_offset += more
    walk.record_position = at - walk.data
    walk.record_index = index
    walk.next_offset = next_offset
    out.size = written
    out.count = count
