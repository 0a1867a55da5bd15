# Inline C for the two codecs: varints, zigzag, big endian.
#
# Every reader takes the end of the buffer and never looks at or past it; every
# writer trusts that its caller has sized the buffer. Nothing here raises.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from *:
    uint16_t __builtin_bswap16(uint16_t) noexcept nogil
    uint32_t __builtin_bswap32(uint32_t) noexcept nogil
    uint64_t __builtin_bswap64(uint64_t) noexcept nogil
    int __builtin_clzll(unsigned long long) noexcept nogil


# Big endian (Kafka's headers and index files). The machine is little endian:
# setup refuses to build elsewhere through the #error in _crc32c.h.

cdef inline int16_t read_be16(const uint8_t* p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return <int16_t>__builtin_bswap16(v)

cdef inline int32_t read_be32(const uint8_t* p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return <int32_t>__builtin_bswap32(v)

cdef inline int64_t read_be64(const uint8_t* p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return <int64_t>__builtin_bswap64(v)

cdef inline void write_be16(uint8_t* p, int16_t value) noexcept nogil:
    cdef uint16_t v = __builtin_bswap16(<uint16_t>value)
    memcpy(p, &v, 2)

cdef inline void write_be32(uint8_t* p, int32_t value) noexcept nogil:
    cdef uint32_t v = __builtin_bswap32(<uint32_t>value)
    memcpy(p, &v, 4)

cdef inline void write_be64(uint8_t* p, int64_t value) noexcept nogil:
    cdef uint64_t v = __builtin_bswap64(<uint64_t>value)
    memcpy(p, &v, 8)


# Varints, as protobuf and Kafka write them: 7 bits a byte, low bits first.

cdef inline int varint_size(uint64_t v) noexcept nogil:
    """Bytes that v takes: 1 to 10."""
    # Division by 7, for bits 0 to 63.
    return ((63 - __builtin_clzll(v | 1)) * 9 + 73) >> 6

cdef inline uint64_t spread_varint(uint64_t v, int size) noexcept nogil:
    """The varint of v, below 2^56, whose size that is, first byte lowest."""
    # Halves of 28 bits, of those halves of 14, of those halves of 7, each to the beginning of its own room.
    v = (v & 0x0FFFFFFF) | (v & <uint64_t>0xFFFFFFF0000000) << 4
    v = (v & <uint64_t>0x00003FFF00003FFF) | (v & <uint64_t>0x0FFFC0000FFFC000) << 2
    v = (v & <uint64_t>0x007F007F007F007F) | (v & <uint64_t>0x3F803F803F803F80) << 1
    return v | (<uint64_t>0x8080808080808080 & ((<uint64_t>1 << (8 * size - 8)) - 1))

cdef inline uint8_t* write_varint(uint8_t* p, uint64_t v) noexcept nogil:
    """Writes v at p and returns the first byte after it."""
    while v >= 0x80:
        p[0] = <uint8_t>(v | 0x80)
        p += 1
        v >>= 7
    p[0] = <uint8_t>v
    return p + 1

cdef inline const uint8_t* read_varint(const uint8_t* p, const uint8_t* end, uint64_t* out) noexcept nogil:
    """Reads a varint of at most 10 bytes below end. NULL when it is cut or too long.

    Bits past the 64th are dropped, as protobuf's readers do.
    """
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t b
    if p < end and p[0] < 0x80:
        out[0] = p[0]
        return p + 1
    if end - p >= 2 and p[1] < 0x80:
        out[0] = (p[0] & 0x7F) | <uint64_t>p[1] << 7
        return p + 2
    while p < end and shift < 70:
        b = p[0]
        p += 1
        value |= <uint64_t>(b & 0x7F) << shift
        if b < 0x80:
            out[0] = value
            return p
        shift += 7
    return NULL

# Zigzag: how Kafka's records keep small negative numbers small.

cdef inline uint64_t zigzag(int64_t v) noexcept nogil:
    return (<uint64_t>v << 1) ^ <uint64_t>(v >> 63)

cdef inline int64_t unzigzag(uint64_t v) noexcept nogil:
    return <int64_t>(v >> 1) ^ -<int64_t>(v & 1)

cdef inline const uint8_t* read_signed(const uint8_t* p, const uint8_t* end, int64_t* out) noexcept nogil:
    """Reads a zigzag varint below end. NULL when it is cut or too long."""
    cdef uint64_t raw
    p = read_varint(p, end, &raw)
    if p != NULL:
        out[0] = unzigzag(raw)
    return p
