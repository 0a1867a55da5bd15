/* UTF-8 as the Unicode standard defines it (table 3-7 of its chapter 3): no
 * overlong forms, no surrogates, nothing above U+10FFFF. Nothing here looks at
 * or past `end`.
 */
#ifndef TAKHIN_UTF8_H
#define TAKHIN_UTF8_H

#include <stdint.h>
#include <string.h>

/* The end of the character at p (p < end), or NULL when there is none; then
 * *after is the end of the longest piece that begins one, at least one byte:
 * what a reader replaces by a single U+FFFD.
 */
static inline const uint8_t *takhin_utf8_step(const uint8_t *p, const uint8_t *end, const uint8_t **after)
{
    uint8_t lead = p[0], low = 0x80, high = 0xBF;
    int more;

    *after = p + 1;
    if (lead < 0x80)
        return p + 1;
    if (lead < 0xC2)
        return NULL;
    if (lead < 0xE0) {
        more = 1;
    } else if (lead < 0xF0) {
        more = 2;
        if (lead == 0xE0)
            low = 0xA0;         /* below: overlong */
        else if (lead == 0xED)
            high = 0x9F;        /* above: surrogates */
    } else if (lead < 0xF5) {
        more = 3;
        if (lead == 0xF0)
            low = 0x90;         /* below: overlong */
        else if (lead == 0xF4)
            high = 0x8F;        /* above: past U+10FFFF */
    } else {
        return NULL;
    }
    for (p++; more > 0; more--, p++) {
        if (p >= end || p[0] < low || p[0] > high)
            return NULL;
        *after = p + 1;
        low = 0x80;
        high = 0xBF;
    }
    return p;
}

/* The first byte that is not UTF-8, or NULL when all of it is. */
static inline const uint8_t *takhin_utf8_fault(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *next, *after;
    uint64_t word;

    for (;;) {
        while (end - p >= 8) {
            memcpy(&word, p, 8);
            if (word & 0x8080808080808080u)
                break;
            p += 8;
        }
        while (p < end && p[0] < 0x80)
            p++;
        if (p >= end)
            return NULL;
        next = takhin_utf8_step(p, end, &after);
        if (next == NULL)
            return p;
        p = next;
    }
}

/* Bytes of the text when each bad piece is replaced by U+FFFD. */
static inline int64_t takhin_utf8_repaired_size(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *next, *after;
    int64_t size = 0;

    for (; p < end; p = next) {
        next = takhin_utf8_step(p, end, &after);
        if (next != NULL) {
            size += next - p;
        } else {
            size += 3;
            next = after;
        }
    }
    return size;
}

/* Writes that text at `to`, and gives the first byte after it. */
static inline uint8_t *takhin_utf8_repair(uint8_t *to, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *next, *after;

    for (; p < end; p = next) {
        next = takhin_utf8_step(p, end, &after);
        if (next != NULL) {
            memcpy(to, p, (size_t)(next - p));
            to += next - p;
        } else {
            memcpy(to, "\xEF\xBF\xBD", 3);
            to += 3;
            next = after;
        }
    }
    return to;
}

#endif
