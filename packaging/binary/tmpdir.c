/* Linked into the bootloader of the single executable, which unpacks libraries into $TMPDIR or /tmp.
 *
 * Where that place does not allow execution (mounted noexec) or writing, the loader would end with
 * "failed to map segment". This runs before its main() and, in that case only, points TMPDIR to the first
 * place that will do. When there is none, it says so and what to do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int usable(const char *path) {
    struct statvfs filesystem;
    struct stat entry;
    return path != NULL && path[0] == '/' && stat(path, &entry) == 0 && S_ISDIR(entry.st_mode) &&
           access(path, W_OK | X_OK) == 0 && statvfs(path, &filesystem) == 0 &&
           (filesystem.f_flag & (ST_NOEXEC | ST_RDONLY)) == 0;
}

/* Libraries are executed from the place: nobody else may be able to exchange them. */
static int private_or_sticky(const char *path) {
    struct stat entry;
    if (stat(path, &entry) != 0) return 0;
    if (entry.st_mode & S_ISVTX) return entry.st_uid == 0 || entry.st_uid == geteuid();
    return entry.st_uid == geteuid() && (entry.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/* Room for what is unpacked, twice over. */
static int roomy(const char *path) {
    struct statvfs filesystem;
    return statvfs(path, &filesystem) == 0 && (double)filesystem.f_bavail * filesystem.f_frsize >= 128e6;
}

static int take(const char *path) {
    return usable(path) && private_or_sticky(path) && roomy(path) && setenv("TMPDIR", path, 1) == 0;
}

/* $HOME/.cache, made if need be. */
static int take_below_home(void) {
    char path[4096];
    const char *home = getenv("HOME");
    if (home == NULL || home[0] != '/') return 0;
    int length = snprintf(path, sizeof path, "%s/.cache", home);
    if (length < 0 || (size_t)length >= sizeof path) return 0;
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return 0;
    return take(path);
}

__attribute__((constructor)) static void choose_tmpdir(void) {
    const char *wanted = getenv("TMPDIR");
    if (wanted == NULL) wanted = getenv("TEMP");
    if (wanted == NULL) wanted = getenv("TMP");
    if (usable(wanted == NULL ? "/tmp" : wanted)) return;
    if (take("/tmp") || take(getenv("CACHE_DIRECTORY")) || take("/var/tmp") || take(getenv("XDG_CACHE_HOME")) ||
        take_below_home() || take(getenv("XDG_RUNTIME_DIR")) || take("/dev/shm"))
        return;
    fprintf(stderr, "takhin: no folder to unpack into: set TMPDIR to one that is writable, has 128 MB of room "
                    "and is not mounted noexec\n");
    exit(2);
}
