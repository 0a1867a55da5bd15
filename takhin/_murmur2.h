/* Murmur2 with Kafka's seed: what its default partitioner makes of a key. */
#ifndef TAKHIN_MURMUR2_H
#define TAKHIN_MURMUR2_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t tk_murmur2(const uint8_t *key, size_t n) {
    const uint32_t m = 0x5bd1e995u;
    uint32_t h = 0x9747b28cu ^ (uint32_t)n, k;
    for (; n >= 4; key += 4, n -= 4) {
        memcpy(&k, key, 4);
        k *= m;
        k ^= k >> 24;
        h = (h * m) ^ (k * m);
    }
    switch (n) {
    case 3: h ^= (uint32_t)key[2] << 16; /* fall through */
    case 2: h ^= (uint32_t)key[1] << 8;  /* fall through */
    case 1: h = (h ^ key[0]) * m;
    }
    h = (h ^ (h >> 13)) * m;
    return h ^ (h >> 15);
}

#endif
