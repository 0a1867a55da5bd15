# The C face of _fastlog, for _wire: records as spans, and batches as bytes.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t

from ._bytes cimport read_be16, read_be32, read_be64


# Where the fields of a record batch lie, each derived from the one before.
cdef enum:
    AT_BASE_OFFSET = 0
    AT_LENGTH = AT_BASE_OFFSET + 8
    AT_LEADER_EPOCH = AT_LENGTH + 4
    AFTER_LENGTH = AT_LEADER_EPOCH
    AT_MAGIC = AT_LEADER_EPOCH + 4
    AT_CRC = AT_MAGIC + 1
    AT_ATTRIBUTES = AT_CRC + 4
    AT_LAST_OFFSET_DELTA = AT_ATTRIBUTES + 2
    AT_BASE_TIMESTAMP = AT_LAST_OFFSET_DELTA + 4
    AT_MAX_TIMESTAMP = AT_BASE_TIMESTAMP + 8
    AT_PRODUCER_ID = AT_MAX_TIMESTAMP + 8
    AT_PRODUCER_EPOCH = AT_PRODUCER_ID + 8
    AT_BASE_SEQUENCE = AT_PRODUCER_EPOCH + 2
    AT_RECORD_COUNT = AT_BASE_SEQUENCE + 4
    HEADER_BYTES = AT_RECORD_COUNT + 4

    COMPRESSION_MASK = 0x07
    LOG_APPEND_TIME_BIT = 0x08
    CONTROL_BIT = 0x20

# What check_batch finds.
cdef enum:
    BATCH_OK = 0
    BATCH_CUT = 1           # more bytes are needed, and the file has them
    BATCH_TORN = -1         # it goes on past the end of the file
    BATCH_BAD_MAGIC = -2
    BATCH_BAD_LENGTH = -3
    BATCH_BAD_CRC = -4

cdef struct BatchHead:
    int64_t base_offset
    int64_t last_offset         # inclusive
    int64_t size                # of the whole batch
    int64_t base_timestamp
    int64_t max_timestamp
    int64_t producer_id
    int32_t leader_epoch
    int32_t base_sequence
    int32_t record_count
    uint32_t crc
    int16_t attributes
    int16_t producer_epoch
    uint8_t magic

cdef inline void read_head(const uint8_t* p, BatchHead* head) noexcept nogil:
    """p has at least HEADER_BYTES bytes."""
    head.base_offset = read_be64(p + AT_BASE_OFFSET)
    head.size = <int64_t>read_be32(p + AT_LENGTH) + AFTER_LENGTH
    head.leader_epoch = read_be32(p + AT_LEADER_EPOCH)
    head.magic = p[AT_MAGIC]
    head.crc = <uint32_t>read_be32(p + AT_CRC)
    head.attributes = read_be16(p + AT_ATTRIBUTES)
    head.last_offset = head.base_offset + read_be32(p + AT_LAST_OFFSET_DELTA)
    head.base_timestamp = read_be64(p + AT_BASE_TIMESTAMP)
    head.max_timestamp = read_be64(p + AT_MAX_TIMESTAMP)
    head.producer_id = read_be64(p + AT_PRODUCER_ID)
    head.producer_epoch = read_be16(p + AT_PRODUCER_EPOCH)
    head.base_sequence = read_be32(p + AT_BASE_SEQUENCE)
    head.record_count = read_be32(p + AT_RECORD_COUNT)

# The batch at p, of which `available` bytes are in memory and `limit` in the file.
cdef int check_batch(const uint8_t* p, int64_t available, int64_t limit, BatchHead* head) noexcept nogil
cdef object head_info(int64_t position, BatchHead* head, bint crc_ok)


cdef struct HeaderSpan:
    const uint8_t* key
    const uint8_t* value
    int32_t key_len
    int32_t value_len           # -1: null

cdef struct RecordSpan:
    const uint8_t* key
    const uint8_t* value
    int64_t timestamp           # ms; 0: the time of the append
    int32_t key_len             # -1: null
    int32_t value_len           # -1: null
    uint32_t first_header       # index into RecordSpans.headers
    uint32_t header_count


# Records that somebody else's bytes hold: nothing is copied, and `source` keeps
# those bytes alive. Filled by one thread, then read only.
cdef class RecordSpans:
    cdef object source
    cdef RecordSpan* records
    cdef uint32_t count
    cdef uint32_t capacity
    cdef HeaderSpan* headers
    cdef uint32_t header_count
    cdef uint32_t header_capacity

    # Each gives the new, zeroed span (its lengths -1), or NULL when memory is out.
    # A pointer into the arrays is good until the next call.
    cdef RecordSpan* add_record(self) noexcept nogil
    # The header belongs to the record that was added last.
    cdef HeaderSpan* add_header(self) noexcept nogil


# A framed batch that has no offset yet.
cdef class RecordBatch:
    cdef uint8_t* data
    cdef readonly int64_t size
    cdef readonly int32_t record_count
    cdef readonly int64_t max_timestamp
    cdef readonly int64_t producer_id
    cdef readonly int16_t producer_epoch
    cdef readonly int32_t base_sequence

    cdef void place(self, int64_t base_offset) noexcept nogil


# Whole, checked record batches in one buffer, and how far they have been read.
# One reader at a time.
cdef class Batches:
    cdef object owner           # keeps data alive
    cdef const uint8_t* data
    cdef Py_ssize_t size
    cdef Py_ssize_t batch_position      # of the batch that holds next_offset
    cdef Py_ssize_t record_position     # of the record to look at next; 0: the batch's first
    cdef int32_t record_index           # of that record, in its batch
    cdef readonly int64_t next_offset   # records below it are passed over
    cdef readonly int64_t end_offset    # records from it on are not given (exclusive)
    cdef readonly int64_t following_bytes   # what the batch behind says that it has; 0: nobody has looked
    cdef readonly bint is_compressed    # some batch is, and cannot be walked
