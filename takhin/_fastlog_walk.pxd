# A walk over the records of batches, in place: inline, for the readers that take each record.

from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint64_t

from ._bytes cimport read_signed
from ._fastlog cimport (
    COMPRESSION_MASK, CONTROL_BIT, HEADER_BYTES, LOG_APPEND_TIME_BIT, BatchHead, Batches, HeaderSpan, read_head,
)


# One record as it lies in a batch.
cdef struct RecordView:
    int64_t offset
    int64_t timestamp
    const uint8_t* key
    const uint8_t* value
    const uint8_t* headers      # first byte of the first header
    const uint8_t* end          # first byte after the record
    int32_t key_len             # -1: null
    int32_t value_len           # -1: null
    int32_t header_count


# Control batches, which hold transaction marks, are passed over.
cdef struct Walk:
    const uint8_t* data
    int64_t size
    int64_t batch_position
    int64_t record_position     # of the next record; 0: the batch's first
    int64_t next_offset
    int64_t end_offset
    int64_t batch_end           # 0: the header of the batch has not been looked at
    int64_t base_offset
    int64_t last_offset
    int64_t base_timestamp
    int64_t append_timestamp    # of all records; -1: each has its own
    int32_t record_index        # of the next record, in its batch
    int32_t record_count


# Where a walk was, to step back to.
cdef struct Place:
    int64_t batch_position
    int64_t record_position
    int64_t next_offset
    int32_t record_index


cdef inline void walk_open(Batches batches, Walk* walk) noexcept:
    walk.data = batches.data
    walk.size = batches.size
    walk.batch_position = batches.batch_position
    walk.record_position = batches.record_position
    walk.record_index = batches.record_index
    walk.next_offset = batches.next_offset
    walk.end_offset = batches.end_offset
    walk.batch_end = 0


cdef inline void walk_save(Batches batches, Walk* walk) noexcept:
    """The walk's place becomes that of the batches."""
    batches.batch_position = walk.batch_position
    batches.record_position = walk.record_position
    batches.record_index = walk.record_index
    batches.next_offset = walk.next_offset


cdef inline void walk_mark(const Walk* walk, Place* place) noexcept nogil:
    place.batch_position = walk.batch_position
    place.record_position = walk.record_position
    place.next_offset = walk.next_offset
    place.record_index = walk.record_index


cdef inline void walk_back(Walk* walk, const Place* place) noexcept nogil:
    walk.batch_position = place.batch_position
    walk.record_position = place.record_position
    walk.next_offset = place.next_offset
    walk.record_index = place.record_index
    walk.batch_end = 0


cdef inline const uint8_t* read_blob(
        const uint8_t* p, const uint8_t* end, const uint8_t** data, int32_t* length) noexcept nogil:
    cdef int64_t n
    p = read_signed(p, end, &n)
    if p == NULL or n < -1 or n > end - p:
        return NULL
    data[0] = p
    length[0] = <int32_t>n
    return p + n if n > 0 else p


cdef inline const uint8_t* header_next(const uint8_t* p, const uint8_t* end, HeaderSpan* header) noexcept nogil:
    """Reads the header at p (of RecordView.headers, then behind the header before). The first byte
    after it, or NULL when the bytes are wrong."""
    p = read_blob(p, end, &header.key, &header.key_len)
    if p == NULL or header.key_len < 0:
        return NULL
    return read_blob(p, end, &header.value, &header.value_len)


cdef inline int walk_enter(Walk* walk) noexcept nogil:
    """Goes to the next batch that may hold a record to give. 1: it is entered; 0: there is none; -1: the
    bytes are wrong."""
    cdef BatchHead head
    while walk.batch_position + HEADER_BYTES <= walk.size:
        read_head(walk.data + walk.batch_position, &head)
        if head.size < HEADER_BYTES or head.size > walk.size - walk.batch_position:
            return -1
        if head.base_offset >= walk.end_offset:
            return 0
        if (head.last_offset >= walk.next_offset and not head.attributes & CONTROL_BIT
                and walk.record_index < head.record_count):
            if head.attributes & COMPRESSION_MASK:
                return -1
            walk.batch_end = walk.batch_position + head.size
            walk.base_offset = head.base_offset
            walk.last_offset = head.last_offset
            walk.base_timestamp = head.base_timestamp
            walk.append_timestamp = head.max_timestamp if head.attributes & LOG_APPEND_TIME_BIT else -1
            walk.record_count = head.record_count
            if walk.record_position == 0:
                walk.record_position = walk.batch_position + HEADER_BYTES
            return 1
        walk.next_offset = max(walk.next_offset, head.last_offset + 1)
        walk.batch_position += head.size
        walk.record_position = 0
        walk.record_index = 0
    return 0


cdef inline int walk_next(Walk* walk, RecordView* view) noexcept nogil:
    """Goes on to the next record with next_offset <= offset < end_offset. 1: view is filled and the walk is
    past it; 0: no more; -1: the bytes are wrong."""
    cdef const uint8_t* p
    cdef const uint8_t* batch_end
    cdef int64_t length, delta, offset_delta, headers
    cdef int status
    while True:
        if walk.batch_end == 0:
            status = walk_enter(walk)
            if status <= 0:
                return status
        batch_end = walk.data + walk.batch_end
        p = walk.data + walk.record_position
        while walk.record_index < walk.record_count:
            p = read_signed(p, batch_end, &length)
            if p == NULL or length < 1 or length > batch_end - p:
                return -1
            view.end = p + length
            p = read_signed(p + 1, view.end, &delta)
            if p == NULL:
                return -1
            p = read_signed(p, view.end, &offset_delta)
            if p == NULL or offset_delta < 0 or offset_delta > INT32_MAX:
                return -1
            view.offset = walk.base_offset + offset_delta
            if view.offset >= walk.end_offset:
                return 0
            walk.record_position = view.end - walk.data
            walk.record_index += 1
            if view.offset < walk.next_offset:
                p = view.end
                continue
            view.timestamp = walk.append_timestamp if walk.append_timestamp >= 0 else <int64_t>(
                <uint64_t>walk.base_timestamp + <uint64_t>delta)
            p = read_blob(p, view.end, &view.key, &view.key_len)
            if p == NULL:
                return -1
            p = read_blob(p, view.end, &view.value, &view.value_len)
            if p == NULL:
                return -1
            p = read_signed(p, view.end, &headers)
            if p == NULL or headers < 0 or headers > view.end - p:
                return -1
            view.headers = p
            view.header_count = <int32_t>headers
            walk.next_offset = view.offset + 1
            return 1
        # Offsets behind the last record belong to the batch too, where compaction took records.
        walk.next_offset = max(walk.next_offset, walk.last_offset + 1)
        walk.batch_position = walk.batch_end
        walk.batch_end = 0
        walk.record_position = 0
        walk.record_index = 0
