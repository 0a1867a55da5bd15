# The system calls of the log. The interface is in _os.pyi, the calls are in _io.h.

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close as posix_close

import errno as _errno
import os
from collections import deque

cdef extern from "_io.h":
    enum:
        TK_CALLS
        TK_WRITE_OR_MAKE "(O_WRONLY | O_CREAT)"
    int tk_open(const char* path, int flags, int mode) nogil
    int tk_write_at(int fd, const void* data, int64_t n, int64_t position) nogil
    int64_t tk_read_at(int fd, void* data, int64_t n, int64_t position) nogil
    int64_t tk_read_cached(int fd, void* data, int64_t n, int64_t position) nogil
    int tk_flush(int fd) nogil
    ctypedef unsigned long aio_context_t
    int TK_AT_ONCE
    aio_context_t tk_open_flushes() nogil
    void tk_close_flushes(aio_context_t context) nogil
    int tk_flush_together(aio_context_t context, const int* fds, int n, int* failed) nogil
    int tk_sync_dir(const char* path) nogil
    int tk_syncfs(int fd) nogil
    int64_t tk_filesystem(int fd) nogil
    int tk_allocate(int fd, int64_t position, int64_t n) nogil
    int tk_truncate(int fd, int64_t size) nogil
    int tk_rename(const char* source, const char* target) nogil
    int tk_unlink(const char* path) nogil
    int tk_mkdir(const char* path, int mode) nogil

cdef extern from "_flush_loop.h":
    ctypedef struct tk_loop "struct tk_loop":
        aio_context_t context
        int failed
    int TK_LOOP_TELL
    bint tk_loop_ask(tk_loop* loop, int fd)
    bint tk_loop_is_late(tk_loop* loop)
    bint tk_loop_has_news(tk_loop* loop)
    int64_t tk_loop_tell(tk_loop* loop)
    void tk_loop_close(tk_loop* loop)
    int64_t tk_loop_take_times(tk_loop* loop, int64_t* flush_ns)
    bint tk_loop_is_done(tk_loop* loop)
    int tk_loop_run(tk_loop* loop, int64_t patience_ns, int64_t idle_ns) nogil
    int64_t tk_now_ns() nogil

cdef extern from *:
    """
    #ifdef TAKHIN_DEBUG
    #define TK_DEBUG 1
    #define tk_rule(call) (&tk_fault_rules[call])
    #else
    #define TK_DEBUG 0
    struct tk_fault_rule { int64_t first, times, seen; int error; };
    static struct tk_fault_rule tk_no_rule;
    static int64_t tk_fault_short_every, tk_fault_kill_at_byte, tk_fault_bytes_written;
    #define tk_rule(call) ((void)(call), &tk_no_rule)
    #endif
    """
    bint TK_DEBUG
    ctypedef struct tk_fault_rule "struct tk_fault_rule":
        int64_t first, times, seen
        int error
    tk_fault_rule* tk_rule(int call)
    int64_t tk_fault_short_every, tk_fault_kill_at_byte, tk_fault_bytes_written

cdef enum:
    # Of a write: below, giving the GIL away costs more than it gives, where others want it.
    HOLD_GIL_BYTES = 131072
    # What takes longer, ns, waited for something: then each write gives the GIL away for so long.
    SLOW_WRITE_NS = 10000000
    WARY_NS = 1000000000

# When writes are believed to be quick again; guarded by the GIL.
cdef int64_t wary_until = 0

DEBUG = bool(TK_DEBUG)
CALLS = ("open", "read", "write", "flush", "sync_dir", "truncate", "rename", "unlink", "mkdir", "syncfs",
         "allocate")


cdef int os_open(const char* path, int flags, int mode) noexcept nogil:
    return tk_open(path, flags, mode)

cdef int timed_write(int fd, const void* data, int64_t n, int64_t position, int64_t* ended_ns) noexcept nogil:
    cdef int status = tk_write_at(fd, data, n, position)
    ended_ns[0] = tk_now_ns()
    return status

cdef int os_write_at(int fd, const void* data, int64_t n, int64_t position) noexcept:
    global wary_until
    cdef int64_t began = tk_now_ns(), ended
    cdef int status
    if n < HOLD_GIL_BYTES and began >= wary_until:
        status = timed_write(fd, data, n, position, &ended)
    else:
        with nogil:
            status = timed_write(fd, data, n, position, &ended)
    if ended - began > SLOW_WRITE_NS:
        wary_until = ended + WARY_NS
    return status

cdef int64_t os_read_at(int fd, void* data, int64_t n, int64_t position) noexcept nogil:
    return tk_read_at(fd, data, n, position)


cdef int64_t os_read_cached(int fd, void* data, int64_t n, int64_t position) noexcept nogil:
    return tk_read_cached(fd, data, n, position)

cdef int os_flush(int fd) noexcept nogil:
    return tk_flush(fd)

cdef int os_allocate(int fd, int64_t position, int64_t n) noexcept nogil:
    return tk_allocate(fd, position, n)

cdef int os_truncate(int fd, int64_t size) noexcept nogil:
    return tk_truncate(fd, size)


cdef int check(int64_t status, path) except -1:
    if status < 0:
        raise OSError(<int>-status, os.strerror(<int>-status), os.fspath(path))
    return 0


def open_file(path, int flags, int mode=0o640):
    # Without the interpreter's lock, as all that changes names or blocks: it may wait for the file system's journal.
    cdef bytes name = os.fsencode(path)
    cdef const char* p = name
    cdef int fd
    with nogil:
        fd = tk_open(p, flags, mode)
    check(fd, path)
    return fd


def close_file(int fd):
    with nogil:
        posix_close(fd)


def write_at(int fd, const unsigned char[::1] data not None, int64_t position):
    cdef int64_t n = data.shape[0]
    cdef const void* p
    cdef int status
    if not n:
        return
    p = &data[0]
    status = os_write_at(fd, p, n, position)
    check(status, f"descriptor {fd}")


def flush(int fd):
    cdef int status
    with nogil:
        status = tk_flush(fd)
    check(status, f"descriptor {fd}")


cdef enum:
    SPARE_CONTEXTS = 8

# Those that no thread uses: to close one takes the kernel milliseconds. Guarded by the GIL.
cdef aio_context_t[SPARE_CONTEXTS] spare_contexts
cdef int spare_count = 0

cdef aio_context_t take_context() noexcept:
    global spare_count
    if spare_count:
        spare_count -= 1
        return spare_contexts[spare_count]
    return tk_open_flushes()

cdef void give_context(aio_context_t context) noexcept:
    global spare_count
    if context and spare_count < SPARE_CONTEXTS:
        spare_contexts[spare_count] = context
        spare_count += 1
    elif context:
        with nogil:
            tk_close_flushes(context)


def flush_files(list files not None):
    cdef Py_ssize_t first = 0, i, n = len(files)
    cdef int failed = 0, some, status = 0
    cdef int* fds = <int*>malloc(<size_t>(n + 1) * sizeof(int))
    cdef aio_context_t context
    if fds == NULL:
        raise MemoryError
    try:
        for i in range(n):
            fds[i] = files[i].fd
        context = take_context()
        with nogil:
            while first < n and status == 0:
                some = <int>min(n - first, TK_AT_ONCE)
                status = tk_flush_together(context, fds + first, some, &failed)
                first += some
        give_context(context)
    finally:
        free(fds)
    if status < 0:
        check(status, files[first - some + failed].path)


cdef class FlushLoop:
    cdef tk_loop loop
    # (who, file, goal) of each that was asked for and is not told of, in order.
    cdef object entries

    def __cinit__(self):
        self.entries = deque()

    def run(self, double patience_s, double idle_s):
        cdef int64_t patience_ns = <int64_t>(patience_s * 1e9), idle_ns = <int64_t>(idle_s * 1e9)
        cdef int status
        self.loop.context = take_context()
        with nogil:
            status = tk_loop_run(&self.loop, patience_ns, idle_ns)
        give_context(self.loop.context)
        if status < 0:
            path = "a segment"
            # A copy: others may ask meanwhile, and a failure must come to who called, whatever they do.
            for _, file, _ in list(self.entries):
                if file.fd == self.loop.failed:
                    path = file.path
                    break
            check(status, path)
        return status == TK_LOOP_TELL

    def ask(self, who, file not None, goal):
        cdef int fd = file.fd
        entry = (who, file, goal)
        # The entry is made before both, and they come one right after the other: whatever makes an object may collect
        # garbage and let another thread in between, and then entries were not in the order of the counts.
        self.entries.append(entry)
        if tk_loop_ask(&self.loop, fd):
            return True
        self.entries.pop()
        return False

    @property
    def is_late(self):
        return tk_loop_is_late(&self.loop)

    @property
    def has_news(self):
        return tk_loop_has_news(&self.loop)

    def tell(self):
        cdef int64_t n = tk_loop_tell(&self.loop)
        cdef dict told = {}
        for _ in range(n):
            who, _file, goal = self.entries.popleft()
            told[who] = goal
        return told

    def close(self):
        tk_loop_close(&self.loop)

    @property
    def is_done(self):
        return tk_loop_is_done(&self.loop)

    def take_times(self):
        cdef int64_t flush_ns
        cdef int64_t flushes = tk_loop_take_times(&self.loop, &flush_ns)
        return flushes, flush_ns / 1e9


def sync_dir(path):
    cdef bytes name = os.fsencode(path)
    cdef const char* p = name
    cdef int status
    with nogil:
        status = tk_sync_dir(p)
    check(status, path)


def syncfs(int fd):
    cdef int status
    with nogil:
        status = tk_syncfs(fd)
    check(status, f"descriptor {fd}")


def filesystem(int fd):
    cdef int64_t magic = tk_filesystem(fd)
    check(magic, f"descriptor {fd}")
    return magic


def truncate(int fd, int64_t size):
    cdef int status
    with nogil:
        status = tk_truncate(fd, size)
    check(status, f"descriptor {fd}")


def replace_tail(path, const unsigned char[::1] data not None, int64_t position):
    cdef bytes name = os.fsencode(path)
    cdef const char* p = name
    cdef int64_t n = data.shape[0]
    cdef const void* bytes_ = &data[0] if n else NULL
    cdef int status, fd
    with nogil:
        status = fd = tk_open(p, TK_WRITE_OR_MAKE, 0o640)
        if fd >= 0:
            status = tk_write_at(fd, bytes_, n, position)
            if status == 0:
                status = tk_truncate(fd, position + n)
            posix_close(fd)
    check(status, path)


def rename(source, target):
    cdef bytes old = os.fsencode(source), new = os.fsencode(target)
    cdef const char* p = old
    cdef const char* q = new
    cdef int status
    with nogil:
        status = tk_rename(p, q)
    check(status, source)


def unlink(path):
    cdef bytes name = os.fsencode(path)
    cdef const char* p = name
    cdef int status
    with nogil:
        status = tk_unlink(p)
    check(status, path)


def mkdir(path, int mode=0o750):
    cdef bytes name = os.fsencode(path)
    cdef const char* p = name
    cdef int status
    with nogil:
        status = tk_mkdir(p, mode)
    check(status, path)


def plan_faults(str plan):
    global tk_fault_short_every, tk_fault_kill_at_byte
    cdef tk_fault_rule* rule
    if not DEBUG:
        raise RuntimeError("faults can be planned in the debug build only")
    for call in range(TK_CALLS):
        rule = tk_rule(call)
        rule.first = rule.times = rule.error = 0
        rule.seen = 0
    (&tk_fault_short_every)[0] = 0
    (&tk_fault_kill_at_byte)[0] = -1
    (&tk_fault_bytes_written)[0] = 0
    for part in plan.split(",") if plan else ():
        name, *rest = part.strip().split(":")
        if name == "short":
            (&tk_fault_short_every)[0] = int(rest[0])
        elif name == "kill":
            (&tk_fault_kill_at_byte)[0] = int(rest[0])
        else:
            rule = tk_rule(CALLS.index(name))
            rule.first = int(rest[0])
            rule.error = getattr(_errno, rest[1])
            rule.times = int(rest[2]) if len(rest) > 2 else 1


def fault_counts():
    counts = {name: tk_rule(call).seen for call, name in enumerate(CALLS)}
    counts["bytes_written"] = tk_fault_bytes_written
    return counts


if DEBUG and os.environ.get("TAKHIN_FAULTS"):
    plan_faults(os.environ["TAKHIN_FAULTS"])
