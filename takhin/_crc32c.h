/* CRC-32C (Castagnoli), as RFC 3720 B.4 and Kafka's record batches use it.
 *
 * Three ways, the best that the processor has, chosen at run time:
 * a table of 8 x 256 entries;
 * the processor's own instruction (SSE 4.2). It takes three cycles but one can be
 * started in each: large blocks are cut in three lanes that run side by side, and
 * the lanes are joined by "multiplying" with x^(8 n), which is what a CRC does
 * when it is followed by n zero bytes; tables for the two n in use make that cheap;
 * and, for large blocks, multiplication without carries, four 128-bit lanes at once
 * (VPCLMULQDQ, AVX-512): 256 bytes are multiplied by x^2048 modulo the polynomial and
 * added to the next 256, until 64 bytes are left that have the same CRC as all.
 */
#ifndef TAKHIN_CRC32C_H
#define TAKHIN_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Takhin supports little-endian machines only"
#endif

#define TK_CRC_POLY 0x82f63b78u /* 0x1edc6f41, bits reversed */
#define TK_CRC_LONG 4096
#define TK_CRC_SHORT 256

static uint32_t tk_crc_table[8][256];
static uint32_t tk_crc_long[4][256];
static uint32_t tk_crc_short[4][256];

enum { TK_CRC_TABLE, TK_CRC_INSTRUCTION, TK_CRC_FOLDING };
/* The best of them here. */
static int tk_crc_best;

static uint32_t tk_crc_table_run(uint32_t crc, const uint8_t *p, size_t n) {
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        word ^= crc;
        crc = tk_crc_table[7][word & 255] ^ tk_crc_table[6][(word >> 8) & 255] ^
              tk_crc_table[5][(word >> 16) & 255] ^ tk_crc_table[4][(word >> 24) & 255] ^
              tk_crc_table[3][(word >> 32) & 255] ^ tk_crc_table[2][(word >> 40) & 255] ^
              tk_crc_table[1][(word >> 48) & 255] ^ tk_crc_table[0][word >> 56];
        p += 8;
        n -= 8;
    }
    while (n--) crc = tk_crc_table[0][(crc ^ *p++) & 255] ^ (crc >> 8);
    return crc;
}

/* What n zero bytes do to each byte of a CRC. */
static void tk_crc_zeros(uint32_t out[4][256], size_t n) {
    static const uint8_t zeros[TK_CRC_LONG];
    for (int lane = 0; lane < 4; lane++)
        for (uint32_t b = 0; b < 256; b++)
            out[lane][b] = tk_crc_table_run(b << (8 * lane), zeros, n);
}

static inline uint32_t tk_crc_shift(uint32_t t[4][256], uint32_t crc) {
    return t[0][crc & 255] ^ t[1][(crc >> 8) & 255] ^ t[2][(crc >> 16) & 255] ^ t[3][crc >> 24];
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t tk_crc_hardware_run(uint32_t crc, const uint8_t *p, size_t n) {
    uint64_t a = crc, b, c, w0, w1, w2;
#define TK_CRC_LANES(SIZE, TABLE)                                      \
    while (n >= 3 * SIZE) {                                            \
        const uint8_t *stop = p + SIZE;                                \
        b = c = 0;                                                     \
        do {                                                           \
            memcpy(&w0, p, 8);                                         \
            memcpy(&w1, p + SIZE, 8);                                  \
            memcpy(&w2, p + 2 * SIZE, 8);                              \
            a = __builtin_ia32_crc32di(a, w0);                         \
            b = __builtin_ia32_crc32di(b, w1);                         \
            c = __builtin_ia32_crc32di(c, w2);                         \
            p += 8;                                                    \
        } while (p < stop);                                            \
        a = tk_crc_shift(TABLE, (uint32_t)a) ^ b;                      \
        a = tk_crc_shift(TABLE, (uint32_t)a) ^ c;                      \
        p += 2 * SIZE;                                                 \
        n -= 3 * SIZE;                                                 \
    }
    TK_CRC_LANES(TK_CRC_LONG, tk_crc_long)
    TK_CRC_LANES(TK_CRC_SHORT, tk_crc_short)
#undef TK_CRC_LANES
    while (n >= 8) {
        memcpy(&w0, p, 8);
        a = __builtin_ia32_crc32di(a, w0);
        p += 8;
        n -= 8;
    }
    while (n--) a = __builtin_ia32_crc32qi((uint32_t)a, *p++);
    return (uint32_t)a;
}

/* From here on folding pays. */
#define TK_CRC_FOLD_FROM 1024

/* Multipliers of the low and the high half of 128 bits, to move them 2048 bits on, and 512. */
static uint64_t tk_crc_by_2048[2], tk_crc_by_512[2];

/* x^n modulo the polynomial, bits reversed, and shifted by the one bit that the product of two such numbers lacks. */
static uint64_t tk_crc_power(unsigned n) {
    uint32_t power = 0x80000000u;
    while (n--) power = (power >> 1) ^ (TK_CRC_POLY & (0u - (power & 1)));
    return (uint64_t)power << 1;
}

#define TK_CRC_WIDE __attribute__((target("avx512f,vpclmulqdq")))

TK_CRC_WIDE static inline __m512i tk_crc_fold(__m512i sum, __m512i by, __m512i next) {
    __m512i low = _mm512_clmulepi64_epi128(sum, by, 0x00), high = _mm512_clmulepi64_epi128(sum, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96); /* exclusive or of the three */
}

TK_CRC_WIDE static inline __m512i tk_crc_multipliers(const uint64_t by[2]) {
    return _mm512_broadcast_i32x4(_mm_set_epi64x((long long)by[1], (long long)by[0]));
}

TK_CRC_WIDE static uint32_t tk_crc_fold_run(uint32_t crc, const uint8_t *p, size_t n) {
    __m512i by_2048 = tk_crc_multipliers(tk_crc_by_2048), by_512 = tk_crc_multipliers(tk_crc_by_512);
    __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64);
    __m512i c = _mm512_loadu_si512(p + 128), d = _mm512_loadu_si512(p + 192);
    uint8_t rest[64];
    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        a = tk_crc_fold(a, by_2048, _mm512_loadu_si512(p));
        b = tk_crc_fold(b, by_2048, _mm512_loadu_si512(p + 64));
        c = tk_crc_fold(c, by_2048, _mm512_loadu_si512(p + 128));
        d = tk_crc_fold(d, by_2048, _mm512_loadu_si512(p + 192));
    }
    b = tk_crc_fold(a, by_512, b);
    c = tk_crc_fold(b, by_512, c);
    _mm512_storeu_si512(rest, tk_crc_fold(c, by_512, d));
    return tk_crc_hardware_run(tk_crc_hardware_run(0, rest, sizeof rest), p, n);
}
#endif

/* Once, before any other use; the module's import does it. */
static void tk_crc32c_setup(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (TK_CRC_POLY & (0u - (crc & 1)));
        tk_crc_table[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; b++)
        for (int t = 1; t < 8; t++)
            tk_crc_table[t][b] = tk_crc_table[0][tk_crc_table[t - 1][b] & 255] ^ (tk_crc_table[t - 1][b] >> 8);
    tk_crc_zeros(tk_crc_long, TK_CRC_LONG);
    tk_crc_zeros(tk_crc_short, TK_CRC_SHORT);
#if defined(__x86_64__)
    /* The bits between the places, and 32 more or less for those that a CRC is behind. */
    tk_crc_by_2048[0] = tk_crc_power(2048 + 32);
    tk_crc_by_2048[1] = tk_crc_power(2048 - 32);
    tk_crc_by_512[0] = tk_crc_power(512 + 32);
    tk_crc_by_512[1] = tk_crc_power(512 - 32);
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
        tk_crc_best = wide ? TK_CRC_FOLDING : TK_CRC_INSTRUCTION;
    }
#endif
}

/* Goes on from `crc`, which is 0 at the start. `way` is one that is there. */
static inline uint32_t tk_crc32c(uint32_t crc, const void *data, size_t n, int way) {
    const uint8_t *p = (const uint8_t *)data;
#if defined(__x86_64__)
    if (way == TK_CRC_FOLDING && n >= TK_CRC_FOLD_FROM) return ~tk_crc_fold_run(~crc, p, n);
    if (way != TK_CRC_TABLE) return ~tk_crc_hardware_run(~crc, p, n);
#else
    (void)way;
#endif
    return ~tk_crc_table_run(~crc, p, n);
}

#endif
