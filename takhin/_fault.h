/* The fault plan of the debug build: which system call of the log fails, and how.
 *
 * Per kind of call: from the `first`-th on, `times` calls fail with `error` (times < 0: all that
 * follow). For writes: `short_every` makes each n-th write transfer about half of what it was asked
 * for; `kill_at_byte` ends the process, as kill -9 does, once so many bytes were written in all.
 */
#ifndef TAKHIN_FAULT_H
#define TAKHIN_FAULT_H

#include <signal.h>
#include <unistd.h>

struct tk_fault_rule {
    int64_t first, times, seen;
    int error;
};

static struct tk_fault_rule tk_fault_rules[TK_CALLS];
static int64_t tk_fault_short_every, tk_fault_kill_at_byte = -1, tk_fault_bytes_written;

static int tk_fault(enum tk_call call) {
    struct tk_fault_rule *rule = &tk_fault_rules[call];
    int64_t n = __atomic_add_fetch(&rule->seen, 1, __ATOMIC_RELAXED);
    if (rule->error == 0 || n < rule->first) return 0;
    return rule->times < 0 || n < rule->first + rule->times ? -rule->error : 0;
}

/* How many of the n bytes the call may write. */
static int64_t tk_fault_write(int fd, const void *data, int64_t n, int64_t position) {
    int64_t call = tk_fault_rules[TK_WRITE].seen;
    if (tk_fault_short_every > 0 && n > 1 && call % tk_fault_short_every == 0) n = (n + 1) / 2;
    int64_t before = __atomic_fetch_add(&tk_fault_bytes_written, n, __ATOMIC_RELAXED);
    if (tk_fault_kill_at_byte >= 0 && before + n >= tk_fault_kill_at_byte) {
        int64_t left = tk_fault_kill_at_byte - before;
        if (left > 0 && pwrite(fd, data, (size_t)left, (off_t)position) < 0) left = 0;
        kill(getpid(), SIGKILL);
        pause();
    }
    return n;
}

#endif
