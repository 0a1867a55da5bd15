/* One file, flushed again and again by one thread without the interpreter: a flush begins as soon as the one before has
 * ended, if more was asked for meanwhile.
 *
 * Offsets only grow: told <= flushed <= asked. `asked` and `told` are moved by threads that hold the interpreter's lock,
 * `flushed` by the thread in tk_loop_run.
 */
#ifndef TAKHIN_FLUSH_LOOP_H
#define TAKHIN_FLUSH_LOOP_H

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "_io.h"

struct tk_loop {
    int64_t asked, flushed, told;
    int64_t flushes, flush_ns;
    int closed;
    int news; /* changes whenever there is something for the thread to look at; it sleeps on this */
    int sleeps;
};

enum { TK_LOOP_TELL, TK_LOOP_IDLE };

#define tk_get(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define tk_set(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELEASE)

static int64_t tk_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void tk_loop_notify(struct tk_loop *loop) {
    __atomic_add_fetch(&loop->news, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&loop->sleeps, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, &loop->news, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void tk_loop_wait(struct tk_loop *loop, int seen, int64_t ns) {
    struct timespec limit = {ns / 1000000000, ns % 1000000000};
    /* News that come before this is set change what the kernel compares; those that come after it wake. */
    __atomic_store_n(&loop->sleeps, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &loop->news, FUTEX_WAIT_PRIVATE, seen, &limit, NULL, 0);
    __atomic_store_n(&loop->sleeps, 0, __ATOMIC_SEQ_CST);
}

/* For those who hold the interpreter's lock: none of these is interrupted by another. */

/* Whether it will be flushed, by a flush that begins after this. */
static int tk_loop_ask(struct tk_loop *loop, int64_t offset) {
    if (tk_get(loop->closed)) return 0;
    tk_set(loop->asked, offset);
    tk_loop_notify(loop);
    return 1;
}

static int tk_loop_has_news(struct tk_loop *loop) { return tk_get(loop->flushed) > tk_get(loop->told); }

/* What is flushed, for the caller to tell of; -1 when that was told. */
static int64_t tk_loop_tell(struct tk_loop *loop) {
    int64_t flushed = tk_get(loop->flushed);
    if (flushed <= tk_get(loop->told)) return -1;
    tk_set(loop->told, flushed);
    return flushed;
}

static void tk_loop_close(struct tk_loop *loop) {
    tk_set(loop->closed, 1);
    tk_loop_notify(loop);
}

/* How many flushes since the last time, and how long they took. */
static int64_t tk_loop_take_times(struct tk_loop *loop, int64_t *flush_ns) {
    *flush_ns = __atomic_exchange_n(&loop->flush_ns, 0, __ATOMIC_RELAXED);
    return __atomic_exchange_n(&loop->flushes, 0, __ATOMIC_RELAXED);
}

static int tk_loop_is_done(struct tk_loop *loop) {
    return tk_get(loop->closed) && tk_get(loop->told) >= tk_get(loop->asked);
}

/* TK_LOOP_TELL: something was flushed `patience_ns` ago or longer, or it is closed, and nobody has told of it;
 * TK_LOOP_IDLE: for `idle_ns` there was nothing to do, or it is closed and all is flushed; else -errno of a flush. */
static int tk_loop_run(struct tk_loop *loop, int fd, int64_t patience_ns, int64_t idle_ns) {
    int64_t since = tk_now_ns();
    for (;;) {
        int seen = tk_get(loop->news);
        int64_t asked = tk_get(loop->asked), now = tk_now_ns();
        int untold = loop->flushed > tk_get(loop->told);
        if (untold && (now - since >= patience_ns || tk_get(loop->closed))) return TK_LOOP_TELL;
        if (asked > loop->flushed) {
            int status = tk_flush(fd);
            if (status < 0) return status;
            int64_t end = tk_now_ns();
            __atomic_add_fetch(&loop->flushes, 1, __ATOMIC_RELAXED);
            __atomic_add_fetch(&loop->flush_ns, end - now, __ATOMIC_RELAXED);
            if (tk_get(loop->told) >= loop->flushed) since = end;
            tk_set(loop->flushed, asked);
        } else if (untold) {
            tk_loop_wait(loop, seen, patience_ns - (now - since));
        } else if (tk_get(loop->closed)) {
            return TK_LOOP_IDLE;
        } else {
            tk_loop_wait(loop, seen, idle_ns);
            if (tk_get(loop->news) == seen) return TK_LOOP_IDLE;
            since = tk_now_ns();
        }
    }
}

#endif
