# The system calls of the log, for _segment. All give -errno on failure.

from libc.stdint cimport int64_t

cdef int os_open(const char* path, int flags, int mode) noexcept nogil
# With the GIL, which it gives away while it writes much, or where writes have lately waited for something.
cdef int os_write_at(int fd, const void* data, int64_t n, int64_t position) noexcept
cdef int64_t os_read_at(int fd, void* data, int64_t n, int64_t position) noexcept nogil
cdef int64_t os_read_cached(int fd, void* data, int64_t n, int64_t position) noexcept nogil
cdef int os_flush(int fd) noexcept nogil
cdef int os_allocate(int fd, int64_t position, int64_t n) noexcept nogil
cdef int os_truncate(int fd, int64_t size) noexcept nogil
