/* The system calls of the log: whole transfers, EINTR retried, -errno on failure.
 *
 * Everything that writes, flushes, cuts, renames or removes files of the log comes through here;
 * SQLite alone has calls of its own. In the debug build each call first asks the fault plan.
 */
#ifndef TAKHIN_IO_H
#define TAKHIN_IO_H

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum tk_call { TK_OPEN, TK_READ, TK_WRITE, TK_FLUSH, TK_SYNC_DIR, TK_TRUNCATE, TK_RENAME, TK_UNLINK, TK_MKDIR, TK_SYNCFS,
               TK_ALLOCATE, TK_CALLS };

#ifdef TAKHIN_DEBUG
#include "_fault.h"
#else
#define tk_fault(call) 0
#define tk_fault_write(fd, data, n, position) (n)
#endif

static int tk_open(const char *path, int flags, int mode) {
    int fd, fault = tk_fault(TK_OPEN);
    if (fault) return fault;
    do fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

/* All n bytes at `position`, or -errno; then some of them may have been written. */
static int tk_write_at(int fd, const void *data, int64_t n, int64_t position) {
    const char *p = (const char *)data;
    while (n > 0) {
        int fault = tk_fault(TK_WRITE);
        if (fault) return fault;
        /* The fault plan may shorten the call, or end the process within it. */
        ssize_t done = pwrite(fd, p, (size_t)tk_fault_write(fd, p, n, position), (off_t)position);
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
    int fault = tk_fault(TK_READ);
    if (fault) return fault;
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

/* All n bytes, from memory; -EAGAIN where there might be a wait for the disk, or fewer bytes. */
static int64_t tk_read_cached(int fd, void *data, int64_t n, int64_t position) {
    struct iovec into = {data, (size_t)n};
    int fault = tk_fault(TK_READ);
    if (fault) return fault;
    return preadv2(fd, &into, 1, (off_t)position, RWF_NOWAIT) == (ssize_t)n ? n : -EAGAIN;
}

/* Lets the disk begin with what a flush will wait for. Not a write that counts, so its failure is not one either: the
 * flush tells of it. */
static void tk_begin_flush(int fd) {
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

#define TK_WRITTEN (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)

/* Not tried again, whatever the failure: a failed flush is never believed later. */
static int tk_flush(int fd) {
    int fault = tk_fault(TK_FLUSH);
    if (fault) return fault;
    return fdatasync(fd) == 0 ? 0 : -errno;
}

enum { TK_AT_ONCE = 64 };

/* What the kernel needs for flushes side by side; 0 where it has no such thing, or none to spare. */
static aio_context_t tk_open_flushes(void) {
    aio_context_t context = 0;
    return syscall(SYS_io_setup, TK_AT_ONCE, &context) == 0 ? context : 0;
}

static void tk_close_flushes(aio_context_t context) { syscall(SYS_io_destroy, context); }

static int tk_flush_each(const int *fds, int first, int n, int *failed) {
    for (int i = first; i < n; i++) {
        int status = tk_flush(fds[i]);
        if (status < 0) {
            *failed = i;
            return status;
        }
    }
    return 0;
}

/* The same of up to TK_AT_ONCE files, one beside the other, so that they share commits of the file system and flushes of
 * the disk; where that cannot be (`context` is 0, or the kernel does not want it), one after the other. *failed: the
 * place of the one whose failure is given. */
static int tk_flush_together(aio_context_t context, const int *fds, int n, int *failed) {
    struct iocb calls[TK_AT_ONCE], *list[TK_AT_ONCE];
    struct io_event done[TK_AT_ONCE];
    int submitted, came = 0, status = 0;
    for (int i = 0; i < n && n > 1; i++) tk_begin_flush(fds[i]);
    if (!context || n == 1) return tk_flush_each(fds, 0, n, failed);
    for (int i = 0; i < n; i++) {
        *failed = i;
        status = tk_fault(TK_FLUSH);
        if (status < 0) return status;
        /* Until the bytes are there, so that the kernel's threads wait for the file system alone. It tells of a write
         * that failed, and then nothing else will. */
        if (sync_file_range(fds[i], 0, 0, TK_WRITTEN) < 0 && errno != ENOSYS) return -errno;
        calls[i] = (struct iocb){.aio_data = (uint64_t)i, .aio_lio_opcode = IOCB_CMD_FDSYNC, .aio_fildes = (uint32_t)fds[i]};
        list[i] = &calls[i];
    }
    submitted = (int)syscall(SYS_io_submit, context, (long)n, list);
    if (submitted < 0) submitted = 0;
    while (came < submitted) {
        long more = (long)(submitted - came);
        long got = syscall(SYS_io_getevents, context, more, more, done + came, NULL);
        if (got < 0 && errno != EINTR) return -errno;
        if (got > 0) came += (int)got;
    }
    for (int i = 0; i < submitted; i++) {
        if (done[i].res == 0) continue;
        *failed = (int)done[i].data;
        status = done[i].res < 0 ? (int)done[i].res : -EIO;
    }
    return status < 0 ? status : tk_flush_each(fds, submitted, n, failed);
}

/* The entries of a directory: what was made, renamed or removed in it. */
static int tk_sync_dir(const char *path) {
    int fd, rc, fault = tk_fault(TK_SYNC_DIR);
    if (fault) return fault;
    do fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return -errno;
    rc = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return rc;
}

/* Everything that was written to the filesystem of `fd`, by whomever, names included. Not tried again either. */
static int tk_syncfs(int fd) {
    int fault = tk_fault(TK_SYNCFS);
    if (fault) return fault;
    return syncfs(fd) == 0 ? 0 : -errno;
}

/* The magic number of the filesystem of `fd` (statfs(2)), or -errno. */
static int64_t tk_filesystem(int fd) {
    struct statfs found;
    return fstatfs(fd, &found) == 0 ? (int64_t)found.f_type : -errno;
}

/* Blocks for n bytes at `position`, for what is to be written there: the size of the file stays. */
static int tk_allocate(int fd, int64_t position, int64_t n) {
    int fault = tk_fault(TK_ALLOCATE);
    if (fault) return fault;
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)position, (off_t)n) == 0 ? 0 : -errno;
}

static int tk_truncate(int fd, int64_t size) {
    int rc, fault = tk_fault(TK_TRUNCATE);
    if (fault) return fault;
    do rc = ftruncate(fd, (off_t)size);
    while (rc < 0 && errno == EINTR);
    return rc == 0 ? 0 : -errno;
}

static int tk_rename(const char *from, const char *to) {
    int fault = tk_fault(TK_RENAME);
    if (fault) return fault;
    return rename(from, to) == 0 ? 0 : -errno;
}

static int tk_unlink(const char *path) {
    int fault = tk_fault(TK_UNLINK);
    if (fault) return fault;
    return unlink(path) == 0 ? 0 : -errno;
}

static int tk_mkdir(const char *path, int mode) {
    int fault = tk_fault(TK_MKDIR);
    if (fault) return fault;
    return mkdir(path, (mode_t)mode) == 0 ? 0 : -errno;
}

#endif
