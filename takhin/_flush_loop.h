/* Files that are flushed again and again by one thread without the interpreter: flushes begin as soon as those before
 * have ended, if more was asked for meanwhile, of all files at once that wait.
 *
 * What was asked for is counted. The counts only grow: told <= flushed <= asked. `asked` and `told` are moved by threads
 * that hold the interpreter's lock, `flushed` by the thread in tk_loop_run.
 */
#ifndef TAKHIN_FLUSH_LOOP_H
#define TAKHIN_FLUSH_LOOP_H

#include <linux/futex.h>
#include <time.h>

#include "_io.h"

enum {
    TK_RING = 4096, /* so many are not told of, at most */
    TK_SEVERAL = 4, /* after a flush of so many files the next one waits for company: */
    TK_ENOUGH = 16, /* so many, */
    TK_QUIET_NS = 200000, /* or until nobody came for so long, */
    TK_GATHER_NS = 1000000, /* and no longer than this behind the end of the last */
    TK_LATE_NS = 50000000, /* behind a flush that takes longer nobody waits who can be flushed elsewhere */
};

struct tk_loop {
    int64_t asked, flushed, told;
    int64_t flushes, flush_ns;
    int64_t began_ns; /* of the flush that runs; 0 when none does */
    int64_t ended_ns; /* of the last flush */
    int64_t enough; /* who asks wakes the thread from this count on */
    aio_context_t context;
    int closed;
    int news; /* changes whenever there is something for the thread to look at; it sleeps on this */
    int sleeps;
    int files; /* of the last flush */
    int failed; /* descriptor of the file whose flush failed */
    int ring[TK_RING]; /* descriptors of the files, by count */
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
    if (!__atomic_load_n(&loop->sleeps, __ATOMIC_SEQ_CST)) return;
    if (tk_get(loop->asked) >= tk_get(loop->enough) || tk_get(loop->closed))
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

/* Whether the file will be flushed, by a flush that begins after this. */
static int tk_loop_ask(struct tk_loop *loop, int fd) {
    if (tk_get(loop->closed) || loop->asked - loop->told >= TK_RING) return 0;
    loop->ring[loop->asked % TK_RING] = fd;
    tk_set(loop->asked, loop->asked + 1);
    tk_loop_notify(loop);
    return 1;
}

static int tk_loop_is_late(struct tk_loop *loop) {
    int64_t began = tk_get(loop->began_ns);
    return began && tk_now_ns() - began > TK_LATE_NS;
}

static int tk_loop_has_news(struct tk_loop *loop) { return tk_get(loop->flushed) > tk_get(loop->told); }

/* How many are flushed and were not told of, for the caller to tell of. */
static int64_t tk_loop_tell(struct tk_loop *loop) {
    int64_t flushed = tk_get(loop->flushed), untold = flushed - tk_get(loop->told);
    tk_set(loop->told, flushed);
    return untold;
}

static void tk_loop_close(struct tk_loop *loop) {
    tk_set(loop->closed, 1);
    tk_loop_notify(loop);
}

/* How many flushes of a file since the last time, and how long they took. */
static int64_t tk_loop_take_times(struct tk_loop *loop, int64_t *flush_ns) {
    *flush_ns = __atomic_exchange_n(&loop->flush_ns, 0, __ATOMIC_RELAXED);
    return __atomic_exchange_n(&loop->flushes, 0, __ATOMIC_RELAXED);
}

static int tk_loop_is_done(struct tk_loop *loop) {
    return tk_get(loop->closed) && tk_get(loop->told) >= tk_get(loop->asked);
}

/* Flushes what was asked for first, of as many files as one call takes. */
static int tk_loop_flush(struct tk_loop *loop, int64_t asked) {
    int fds[TK_AT_ONCE], failed = 0, status, n = 0;
    int64_t count = loop->flushed, began = tk_now_ns();
    tk_set(loop->began_ns, began);
    for (; count < asked; count++) {
        int fd = loop->ring[count % TK_RING], i = n;
        while (i > 0 && fds[i - 1] != fd) i--;
        if (i > 0) continue;
        if (n == TK_AT_ONCE) break;
        fds[n++] = fd;
    }
    status = tk_flush_together(loop->context, fds, n, &failed);
    loop->failed = fds[failed];
    if (status < 0) return status;
    loop->files = n;
    loop->ended_ns = tk_now_ns();
    tk_set(loop->began_ns, 0);
    __atomic_add_fetch(&loop->flushes, n, __ATOMIC_RELAXED);
    __atomic_add_fetch(&loop->flush_ns, loop->ended_ns - began, __ATOMIC_RELAXED);
    tk_set(loop->flushed, count);
    return 0;
}

/* TK_LOOP_TELL: something was flushed `patience_ns` ago or longer, or it is closed, and nobody has told of it;
 * TK_LOOP_IDLE: for `idle_ns` there was nothing to do, or it is closed and all is flushed; else -errno of a flush. */
static int tk_loop_run(struct tk_loop *loop, int64_t patience_ns, int64_t idle_ns) {
    int64_t since = tk_now_ns(), waited = 0;
    for (;;) {
        int seen = tk_get(loop->news);
        int64_t asked = tk_get(loop->asked), now = tk_now_ns(), waiting = asked - loop->flushed;
        int untold = loop->flushed > tk_get(loop->told), closed = tk_get(loop->closed);
        if (untold && (now - since >= patience_ns || closed)) return TK_LOOP_TELL;
        if (waiting > waited && waiting < TK_ENOUGH && loop->files >= TK_SEVERAL && !closed &&
            now - loop->ended_ns < TK_GATHER_NS) {
            waited = waiting;
            tk_set(loop->enough, loop->flushed + TK_ENOUGH);
            tk_loop_wait(loop, seen, TK_QUIET_NS);
            tk_set(loop->enough, 0);
        } else if (waiting) {
            int64_t before = loop->flushed;
            int status = tk_loop_flush(loop, asked);
            if (status < 0) return status;
            if (tk_get(loop->told) >= before) since = loop->ended_ns;
            waited = 0;
        } else if (untold) {
            tk_loop_wait(loop, seen, patience_ns - (now - since));
        } else if (closed) {
            return TK_LOOP_IDLE;
        } else {
            tk_loop_wait(loop, seen, idle_ns);
            if (tk_get(loop->news) == seen) return TK_LOOP_IDLE;
            since = tk_now_ns();
        }
    }
}

#endif
