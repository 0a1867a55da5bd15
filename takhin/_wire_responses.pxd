# Responses, written: inline C for _wire.
#
# One walk over the batches: each record is sized, which its length field needs, and written if it fits.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._bytes cimport spread_varint, unzigzag, varint_size, write_varint
from ._fastlog cimport HeaderSpan
from ._fastlog_walk cimport Place, RecordView, Walk, header_next, walk_back, walk_mark, walk_next
from ._wire_fields cimport (
    bytes_size, int_size, text_size, utf8_fault, utf8_repair, utf8_repaired_size, write_bytes, write_int, write_text,
)

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

# Plain records, below.
cdef enum:
    BLOCK_BYTES = 32            # copied at once: bytes that may be read behind a record, and written to
    BLOCKS_BYTES = 256          # above, memcpy is quicker than blocks
    PLAIN_RECORDS = 4           # left in a batch: below, a try costs more than it gives
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


cdef inline bint is_text(const HeaderSpan* header) noexcept nogil:
    return utf8_fault(header.key, header.key + header.key_len) == NULL

cdef inline int64_t record_size(const RecordView* view, int32_t partition, bint check, bint* repair) noexcept nogil:
    """Bytes of the Record message, or -1 when its headers do not add up.

    With `check`, header keys that are not UTF-8 are counted as repaired, and set `repair`.
    """
    cdef HeaderSpan header = HeaderSpan(NULL, NULL, 0, 0)
    cdef const uint8_t* p = view.headers
    cdef int32_t i
    cdef int64_t key_size
    cdef int64_t size = int_size(VARINT_4, view.timestamp) + int_size(VARINT_5, view.offset)
    size += int_size(VARINT_6, partition)
    if view.key_len >= 0:
        size += bytes_size(BYTES_1, view.key_len)
    if view.value_len >= 0:
        size += bytes_size(BYTES_2, view.value_len)
    for i in range(view.header_count):
        p = header_next(p, view.end, &header)
        if p == NULL:
            return -1
        key_size = header.key_len
        if check and not is_text(&header):
            key_size = utf8_repaired_size(header.key, header.key + header.key_len)
            repair[0] = True
        size += bytes_size(BYTES_3, text_size(BYTES_1, key_size) + text_size(BYTES_2, header.value_len))
    return size if p == view.end else -1

cdef inline uint8_t* write_header(uint8_t* p, const HeaderSpan* header, bint check) noexcept nogil:
    cdef const uint8_t* key_end = header.key + header.key_len
    cdef int64_t key_size = header.key_len
    cdef bint repair = check and not is_text(header)
    if repair:
        key_size = utf8_repaired_size(header.key, key_end)
    p = write_varint(p, BYTES_3)
    p = write_varint(p, <uint64_t>(text_size(BYTES_1, key_size) + text_size(BYTES_2, header.value_len)))
    if repair:
        p = write_varint(write_varint(p, BYTES_1), <uint64_t>key_size)
        p = utf8_repair(p, header.key, key_end)
    else:
        p = write_text(p, BYTES_1, header.key, key_size)
    return write_text(p, BYTES_2, header.value, header.value_len)

cdef inline uint8_t* write_record(uint8_t* p, const RecordView* view, int32_t partition, bint repair) noexcept nogil:
    cdef HeaderSpan header = HeaderSpan(NULL, NULL, 0, 0)
    cdef const uint8_t* at = view.headers
    cdef int32_t h
    if view.key_len >= 0:
        p = write_bytes(p, BYTES_1, view.key, view.key_len)
    if view.value_len >= 0:
        p = write_bytes(p, BYTES_2, view.value, view.value_len)
    for h in range(view.header_count):
        at = header_next(at, view.end, &header)
        p = write_header(p, &header, repair)
    p = write_int(p, VARINT_4, view.timestamp)
    p = write_int(p, VARINT_5, view.offset)
    return write_int(p, VARINT_6, partition)

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
    cdef const uint8_t* p
    cdef const uint8_t* key
    cdef uint8_t* to = out.p + out.size
    cdef int64_t room = min(max_bytes, out.room - BLOCK_BYTES)
    cdef int64_t written = out.size, count = out.count, next_offset = walk.next_offset
    cdef int64_t base_offset = walk.base_offset, end_offset = min(walk.end_offset, <int64_t>1 << SHORT_BITS)
    cdef int64_t base_timestamp = walk.base_timestamp, append_timestamp = walk.append_timestamp
    cdef int32_t index = walk.record_index, record_count = walk.record_count
    cdef uint64_t length, delta, offset_delta, key_raw, value_raw
    cdef int64_t offset, timestamp, key_length, value_length, size, framed
    # Fields that are the same for many records, or nearly, are kept.
    cdef uint64_t offset_field = 0, timestamp_field = 0, partition_field = 0
    cdef int offset_size = 0, timestamp_size = 0, partition_size = 0
    cdef int64_t kept_timestamp = 0, kept_offset = -1
    # Where two are alike, so are often those behind them.
    cdef Alike alike
    cdef uint64_t kept_shape = 0, shape
    cdef const uint8_t* offset_at
    cdef int64_t most, more
    if partition < 0:
        return
    if partition != 0:
        partition_field = short_field(VARINT_6, partition, &partition_size)
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
        shape = length | delta << 21 | value_raw << 42
        if shape == kept_shape and value_raw != 1:
            # No longer than the lowest 7 bits of the offset have room, here (twice the offset) and there.
            most = min(
                min(<int64_t>(0x7F - (offset_delta & 0x7F)) >> 1, 0x7F - (offset & 0x7F)),
                min(min(record_count - index, max_records - count), end_offset - next_offset),
            )
            see_alike(&alike, at, <int>(offset_at - at), key, key_raw != 1, key_length, p, value_length, size)
            more = write_alike(
                &alike, end, min(batch_end, data_end - BLOCK_BYTES), to, out.p + room, most,
                timestamp_field, timestamp_size, offset_field, offset_size, partition_field, partition_size,
            )
            offset_field += <uint64_t>more * 0x100
            kept_offset += more
            end += more * alike.stored
            to += more * framed
            written += more * framed
            count += more
            index += <int32_t>more
            next_offset += more
        kept_shape = shape
        at = end
    walk.record_position = at - walk.data
    walk.record_index = index
    walk.next_offset = next_offset
    out.size = written
    out.count = count

cdef inline void write_records(
    Walk* walk, int32_t partition, int64_t max_bytes, int64_t max_records, Records* out
) noexcept nogil:
    """Goes on behind what is written, with the records that fit in `max_bytes`, in all at least one. The walk
    ends before the first that does not fit, or that has no room.

    When `lost` is set and the count is 0, the walk is where the batches do not add up.
    """
    cdef Place before
    cdef RecordView view
    cdef uint8_t* p
    cdef int64_t size, framed
    cdef int64_t count
    # Of the batch that the walk is in, -1 before; and whether it is worth a try with plain records.
    cdef int64_t batch_position = -1
    cdef bint plain = False
    cdef bint repair
    cdef int status
    out.missing = 0
    while out.count < max_records:
        if walk.batch_position != batch_position:
            batch_position = walk.batch_position
            plain = True
        elif plain and walk.record_count - walk.record_index >= PLAIN_RECORDS and walk.batch_end != 0:
            count = out.count
            write_plain_records(walk, partition, max_bytes, max_records, out)
            if out.count >= max_records:
                return
            # Records that are not plain seldom come alone.
            plain = out.count > count
        walk_mark(walk, &before)
        status = walk_next(walk, &view)
        if status == 0:
            out.exhausted = True
            return
        repair = False
        size = record_size(&view, partition, True, &repair) if status > 0 else -1
        if size < 0:
            out.lost = True
            if out.count > 0:
                # What came before goes out first; the next call finds the same place again.
                walk_back(walk, &before)
            elif status > 0:
                walk.next_offset = view.offset
            return
        framed = bytes_size(BYTES_4, size)
        if out.count > 0 and out.size + framed > max_bytes:
            walk_back(walk, &before)
            return
        if out.size + framed > out.room:
            out.missing = framed
            walk_back(walk, &before)
            return
        p = write_varint(write_varint(out.p + out.size, BYTES_4), <uint64_t>size)
        write_record(p, &view, partition, repair)
        out.size += framed
        out.count += 1
