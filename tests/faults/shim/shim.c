/* Stands between a process and the system calls with which it changes files below one directory.
 *
 * Loaded with LD_PRELOAD. Two uses, side by side:
 *
 *   FAULTS_ROOT   absolute path of the directory that is watched, SQLite's files in it included
 *   FAULTS_TRACE  file outside of it that every change and every flush is appended to, with the
 *                 bytes written; the process itself may append marks (see trace.py)
 *   FAULTS_FLUSH_DELAY_US  how long each flush takes at least, in microseconds: in memory it takes no
 *                 time, and nothing would happen meanwhile
 *
 * and, by calls to faults_* below (ctypes), calls that fail, come up short, or end the process
 * after a given number of bytes.
 *
 * A change is made and recorded under one lock, so the order in the trace is the true one. A flush
 * is recorded when it begins and when it ends and holds no lock: what was recorded before its
 * beginning is covered by it, what came after is not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 65536

enum event { EV_MARK, EV_OPEN, EV_WRITE, EV_TRUNCATE, EV_ALLOCATE, EV_FLUSH_BEGIN, EV_FLUSH_END, EV_RENAME, EV_UNLINK,
             EV_MKDIR, EV_RMDIR, EV_LINK, EV_SYNCFS_BEGIN, EV_SYNCFS_END };

/* Which files a plan concerns: those of the log, or those of the metadata database. */
enum kind { KIND_LOG, KIND_DATABASE, KINDS };

enum call { CALL_OPEN, CALL_READ, CALL_WRITE, CALL_FLUSH, CALL_TRUNCATE, CALL_RENAME, CALL_UNLINK, CALL_MKDIR,
            CALL_ALLOCATE, CALL_READ_CACHED, CALLS };

struct header {
    uint32_t size; /* of the whole record */
    uint16_t event;
    uint16_t flag; /* created, or the errno of a flush */
    int32_t pid;
    int32_t fd;
    int64_t a, b;
};

struct rule {
    int64_t first, times, seen;
    int error;
};

static char root[PATH_MAX];
static size_t root_len;
static int trace_fd = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char watched[MAX_FD]; /* 0, or 1 + kind */
static int64_t flushes;
static unsigned flush_delay_us, write_delay_us;

static struct rule rules[KINDS][CALLS];
static int64_t kill_at[KINDS] = {-1, -1}, written[KINDS], short_every[KINDS];

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static ssize_t raw_write(int fd, const void *data, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t);
    return real_write(fd, data, n);
}

static ssize_t raw_pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    return real_pwrite(fd, data, n, at);
}

static unsigned microseconds(const char *name) {
    const char *value = getenv(name);
    return value ? (unsigned)atoi(value) : 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("FAULTS_ROOT"), *trace = getenv("FAULTS_TRACE");
    if (where) {
        snprintf(root, sizeof root, "%s", where);
        root_len = strlen(root);
    }
    flush_delay_us = microseconds("FAULTS_FLUSH_DELAY_US");
    write_delay_us = microseconds("FAULTS_WRITE_DELAY_US");
    if (trace) {
        REAL(int, open, const char *, int, ...);
        int fd = real_open(trace, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        trace_fd = fcntl(fd, F_DUPFD_CLOEXEC, 700);
        if (trace_fd < 0) trace_fd = fd;
        else close(fd);
    }
}

static void record(enum event event, int flag, int fd, int64_t a, int64_t b, const void *data, size_t n) {
    if (trace_fd < 0) return;
    struct header *header = malloc(sizeof *header + n);
    *header = (struct header){sizeof *header + n, event, flag, getpid(), fd, a, b};
    memcpy(header + 1, data, n);
    if (raw_write(trace_fd, header, header->size) != (ssize_t)header->size) abort();
    free(header);
}

/* The absolute path, in `out`; whether it lies below the root (or is the root). */
static int resolve(int dir, const char *path, char *out) {
    if (!root_len || !path) return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char at[PATH_MAX], link[64];
        ssize_t n;
        if (dir == AT_FDCWD) {
            if (!getcwd(at, sizeof at)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            if ((n = readlink(link, at, sizeof at - 1)) < 0) return 0;
            at[n] = 0;
        }
        if (snprintf(out, PATH_MAX, "%s/%s", at, path) >= PATH_MAX) return 0;
    }
    return strncmp(out, root, root_len) == 0 && (out[root_len] == '/' || out[root_len] == 0);
}

static enum kind kind_of(const char *path) {
    return strstr(path, "metadata.db") ? KIND_DATABASE : KIND_LOG;
}

static int fault(enum kind kind, enum call call) {
    struct rule *rule = &rules[kind][call];
    int64_t n = __atomic_add_fetch(&rule->seen, 1, __ATOMIC_RELAXED);
    if (!rule->error || n < rule->first) return 0;
    if (rule->times >= 0 && n >= rule->first + rule->times) return 0;
    errno = rule->error;
    return 1;
}

/* -- plans, for ctypes ------------------------------------------------------------------------ */

void faults_clear(void) {
    memset(rules, 0, sizeof rules);
    for (int k = 0; k < KINDS; k++) kill_at[k] = -1, written[k] = short_every[k] = 0;
}

/* From the `first`-th call on (from 1), `times` calls fail (-1: all that follow). */
void faults_fail(int kind, int call, int64_t first, int64_t times, int error) {
    rules[kind][call] = (struct rule){first, times, 0, error};
}

void faults_kill_at(int kind, int64_t bytes) { kill_at[kind] = bytes; }
void faults_short_every(int kind, int64_t n) { short_every[kind] = n; }
int64_t faults_written(int kind) { return written[kind]; }
int64_t faults_seen(int kind, int call) { return rules[kind][call].seen; }

/* -- files ------------------------------------------------------------------------------------ */

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    REAL(int, openat, int, const char *, int, ...);
    char full[PATH_MAX];
    if (!resolve(dir, path, full)) {
        int fd = real_openat(dir, path, flags, mode);
        if (fd >= 0 && fd < MAX_FD) watched[fd] = 0;
        return fd;
    }
    enum kind kind = kind_of(full);
    if (fault(kind, CALL_OPEN)) return -1;
    pthread_mutex_lock(&lock);
    struct stat before;
    int was_there = fstatat(AT_FDCWD, full, &before, 0) == 0;
    int fd = real_openat(dir, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < MAX_FD) {
        watched[fd] = 1 + kind;
        record(EV_OPEN, !was_there, fd, flags, 0, full, strlen(full));
        if (was_there && (flags & O_TRUNC) && before.st_size) record(EV_TRUNCATE, 0, fd, 0, 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define WITH_MODE(last) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, last); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { WITH_MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { WITH_MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { WITH_MODE(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { WITH_MODE(flags) return open_at(dir, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }

int close(int fd) {
    REAL(int, close, int);
    if (fd >= 0 && fd < MAX_FD) watched[fd] = 0;
    return real_close(fd);
}

static int is_watched(int fd) { return fd >= 0 && fd < MAX_FD && watched[fd]; }

static ssize_t write_at(int fd, const void *data, size_t n, off_t at, int sequential) {
    enum kind kind = watched[fd] - 1;
    if (write_delay_us) usleep(write_delay_us);
    if (fault(kind, CALL_WRITE)) return -1;
    pthread_mutex_lock(&lock);
    if (sequential) at = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    if (short_every[kind] && n > 1 && rules[kind][CALL_WRITE].seen % short_every[kind] == 0) n = (n + 1) / 2;
    if (kill_at[kind] >= 0 && written[kind] + (int64_t)n >= kill_at[kind]) {
        int64_t left = kill_at[kind] - written[kind];
        if (left > 0 && (sequential ? raw_write(fd, data, left) : raw_pwrite(fd, data, left, at)) < 0) left = 0;
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    ssize_t done = sequential ? raw_write(fd, data, n) : raw_pwrite(fd, data, n, at);
    int error = errno;
    if (done > 0) {
        written[kind] += done;
        record(EV_WRITE, 0, fd, at, done, data, done);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t n) {
    return is_watched(fd) ? write_at(fd, data, n, 0, 1) : raw_write(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return is_watched(fd) ? write_at(fd, data, n, at, 0) : raw_pwrite(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return pwrite(fd, data, n, at); }

ssize_t pread(int fd, void *data, size_t n, off_t at) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    if (is_watched(fd) && fault(watched[fd] - 1, CALL_READ)) return -1;
    return real_pread(fd, data, n, at);
}

ssize_t pread64(int fd, void *data, size_t n, off64_t at) { return pread(fd, data, n, at); }

/* One that may not wait for the disk is a call of its own: in memory or not is for the plan to say. */
ssize_t preadv2(int fd, const struct iovec *into, int n, off_t at, int flags) {
    REAL(ssize_t, preadv2, int, const struct iovec *, int, off_t, int);
    enum call call = flags & RWF_NOWAIT ? CALL_READ_CACHED : CALL_READ;
    if (is_watched(fd) && fault(watched[fd] - 1, call)) return -1;
    return real_preadv2(fd, into, n, at, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *into, int n, off64_t at, int flags) {
    return preadv2(fd, into, n, at, flags);
}

int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t);
    if (!is_watched(fd)) return real_ftruncate(fd, size);
    if (fault(watched[fd] - 1, CALL_TRUNCATE)) return -1;
    pthread_mutex_lock(&lock);
    int rc = real_ftruncate(fd, size), error = errno;
    if (rc == 0) record(EV_TRUNCATE, 0, fd, size, 0, "", 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return rc;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int posix_fallocate(int fd, off_t at, off_t n) {
    REAL(int, posix_fallocate, int, off_t, off_t);
    if (!is_watched(fd)) return real_posix_fallocate(fd, at, n);
    if (fault(watched[fd] - 1, CALL_ALLOCATE)) return errno;
    pthread_mutex_lock(&lock);
    int rc = real_posix_fallocate(fd, at, n);
    if (rc == 0) record(EV_ALLOCATE, 0, fd, at, n, "", 0);
    pthread_mutex_unlock(&lock);
    return rc;
}

int posix_fallocate64(int fd, off64_t at, off64_t n) { return posix_fallocate(fd, at, n); }

static int flush(int fd, int (*real)(int), enum event begin, enum event end) {
    if (!is_watched(fd)) return real(fd);
    int64_t id = __atomic_add_fetch(&flushes, 1, __ATOMIC_RELAXED);
    record(begin, 0, fd, id, 0, "", 0);
    if (flush_delay_us) usleep(flush_delay_us);
    int rc = fault(watched[fd] - 1, CALL_FLUSH) ? -1 : real(fd), error = errno;
    record(end, rc == 0 ? 0 : error, fd, id, 0, "", 0);
    errno = error;
    return rc;
}

int fsync(int fd) {
    REAL(int, fsync, int);
    return flush(fd, real_fsync, EV_FLUSH_BEGIN, EV_FLUSH_END);
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    return flush(fd, real_fdatasync, EV_FLUSH_BEGIN, EV_FLUSH_END);
}

/* Flushes side by side: all of them begin before the first ends. Who submits them takes their results, in the same
 * thread. Everything else that is called by its number goes to the kernel. */
static __thread struct io_event results[1024];
static __thread long result_count;

static long submit(long n, struct iocb **calls) {
    REAL(int, fdatasync, int);
    int64_t ids[1024];
    for (long i = 0; i < n; i++) {
        if (calls[i]->aio_lio_opcode != IOCB_CMD_FDSYNC) abort();
        ids[i] = __atomic_add_fetch(&flushes, 1, __ATOMIC_RELAXED);
        int fd = (int)calls[i]->aio_fildes;
        if (is_watched(fd)) record(EV_FLUSH_BEGIN, 0, fd, ids[i], 0, "", 0);
    }
    if (flush_delay_us) usleep(flush_delay_us);
    for (long i = n - 1; i >= 0; i--) {
        int fd = (int)calls[i]->aio_fildes;
        int failed = (is_watched(fd) && fault(watched[fd] - 1, CALL_FLUSH)) || real_fdatasync(fd) != 0, error = errno;
        if (is_watched(fd)) record(EV_FLUSH_END, failed ? error : 0, fd, ids[i], 0, "", 0);
        results[result_count++] = (struct io_event){.data = calls[i]->aio_data, .res = failed ? -error : 0};
    }
    return n;
}

long syscall(long number, ...) {
    REAL(long, syscall, long, ...);
    va_list more;
    va_start(more, number);
    long a = va_arg(more, long), b = va_arg(more, long), c = va_arg(more, long), d = va_arg(more, long);
    long e = va_arg(more, long), f = va_arg(more, long);
    va_end(more);
    if (number == SYS_io_submit && root_len && b <= 1024) return submit(b, (struct iocb **)c);
    if (number == SYS_io_getevents && result_count) {
        long n = result_count < c ? result_count : c;
        result_count -= n;
        memcpy((struct io_event *)d, results + result_count, (size_t)n * sizeof results[0]);
        return n;
    }
    return real_syscall(number, a, b, c, d, e, f);
}

/* Of all that is watched: it lies on one filesystem. */
int syncfs(int fd) {
    REAL(int, syncfs, int);
    return flush(fd, real_syncfs, EV_SYNCFS_BEGIN, EV_SYNCFS_END);
}

/* -- directories ------------------------------------------------------------------------------ */

/* Two paths are recorded one behind the other, with the length of the first in `a`. */
static void record_paths(enum event event, const char *first, const char *second) {
    char both[2 * PATH_MAX];
    size_t a = strlen(first), b = second ? strlen(second) : 0;
    memcpy(both, first, a);
    if (b) memcpy(both + a, second, b);
    record(event, 0, -1, a, b, both, a + b);
}

#define CHANGE(event, call_kind, from, to, real_call) \
    do { \
        if (fault(kind_of(from), call_kind)) return -1; \
        pthread_mutex_lock(&lock); \
        int rc = (real_call), error = errno; \
        if (rc == 0) record_paths(event, from, to); \
        pthread_mutex_unlock(&lock); \
        errno = error; \
        return rc; \
    } while (0)

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    char a[PATH_MAX], b[PATH_MAX];
    if (!resolve(from_dir, from, a) || !resolve(to_dir, to, b)) return real_renameat(from_dir, from, to_dir, to);
    CHANGE(EV_RENAME, CALL_RENAME, a, b, real_renameat(from_dir, from, to_dir, to));
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char full[PATH_MAX];
    if (!resolve(dir, path, full)) return real_unlinkat(dir, path, flags);
    CHANGE(flags & AT_REMOVEDIR ? EV_RMDIR : EV_UNLINK, CALL_UNLINK, full, NULL, real_unlinkat(dir, path, flags));
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char full[PATH_MAX];
    if (!resolve(dir, path, full)) return real_mkdirat(dir, path, mode);
    CHANGE(EV_MKDIR, CALL_MKDIR, full, NULL, real_mkdirat(dir, path, mode));
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    char a[PATH_MAX], b[PATH_MAX];
    if (!resolve(from_dir, from, a) || !resolve(to_dir, to, b)) return real_linkat(from_dir, from, to_dir, to, flags);
    CHANGE(EV_LINK, CALL_RENAME, a, b, real_linkat(from_dir, from, to_dir, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
