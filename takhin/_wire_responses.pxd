# Responses, written: inline C for _wire.
#
# One walk over the batches: each record is sized, which its length field needs, and written if it fits.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from ._bytes cimport write_varint
from ._fastlog cimport HeaderSpan
from ._fastlog_walk cimport Place, RecordView, Walk, header_next, walk_back, walk_mark, walk_next
from ._wire_fields cimport (
    BYTES_1, BYTES_2, BYTES_3, BYTES_4, VARINT_4, VARINT_5, VARINT_6, bytes_size, int_size, text_size, utf8_fault,
    utf8_repair, utf8_repaired_size, write_bytes, write_int, write_text,
)
from ._wire_plain cimport Records, write_plain_records

# Plain records left in a batch: below, a try costs more than it gives.
cdef enum:
    PLAIN_RECORDS = 4


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
