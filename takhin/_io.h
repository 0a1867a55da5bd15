/* The system calls of the log: whole transfers, EINTR retried, -errno on failure.
 *
 * All writing, flushing and cutting of segments goes through these few functions.
 */
#ifndef TAKHIN_IO_H
#define TAKHIN_IO_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

/* All n bytes at `position`, or -errno; then some of them may have been written. */
static int tk_write_at(int fd, const void *data, int64_t n, int64_t position) {
    const char *p = (const char *)data;
    while (n > 0) {
        ssize_t done = pwrite(fd, p, (size_t)n, (off_t)position);
        if (done < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        if (done == 0) return -EIO;
        p += done;
        position += done;
        n -= done;
    }
    return 0;
}

/* As many of n bytes as there are before the end of the file, or -errno. */
static int64_t tk_read_at(int fd, void *data, int64_t n, int64_t position) {
    char *p = (char *)data;
    int64_t total = 0;
    while (total < n) {
        ssize_t done = pread(fd, p + total, (size_t)(n - total), (off_t)(position + total));
        if (done < 0) {
            if (errno == EINTR) continue;
            return -errno;
        }
        if (done == 0) break;
        total += done;
    }
    return total;
}

/* Not retried on EINTR or anything else: a failed flush is never believed later. */
static int tk_flush(int fd) { return fdatasync(fd) == 0 ? 0 : -errno; }

static int tk_truncate(int fd, int64_t size) {
    int rc;
    do rc = ftruncate(fd, (off_t)size);
    while (rc < 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

#endif
