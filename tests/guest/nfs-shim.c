/* Preloaded into the NFS server of the suite: a server that dies at a chosen moment, or whose times are coarse.
 *
 * SHIM_TRIGGER  a file. While it exists, the first link() into a folder whose path contains the file's text (one
 *               line) is done, and then the server kills itself: the client never sees the reply.
 * SHIM_ROUND_NS modification and change times are cut to multiples of this, as coarse file systems give them. The
 *               server derives its change attribute from them.
 *
 * The server loads its back end with RTLD_DEEPBIND, which would pass a preloaded library by: dlopen drops that flag.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void die_if_asked(int folder) {
    const char *trigger = getenv("SHIM_TRIGGER");
    char wanted[256] = "", link[64], path[4096];
    FILE *file = trigger ? fopen(trigger, "r") : NULL;
    if (!file) return;
    if (!fgets(wanted, sizeof wanted, file)) wanted[0] = 0;
    fclose(file);
    wanted[strcspn(wanted, "\n")] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!wanted[0] || length < 0) return;
    path[length] = 0;
    if (strstr(path, wanted)) {
        unlink(trigger);
        kill(getpid(), SIGKILL);
    }
}

int linkat(int from, const char *old, int to, const char *new, int flags) {
    static int (*real)(int, const char *, int, const char *, int);
    if (!real) real = dlsym(RTLD_NEXT, "linkat");
    int result = real(from, old, to, new, flags);
    if (result == 0) die_if_asked(to);
    return result;
}

void *dlopen(const char *path, int flags) {
    static void *(*real)(const char *, int);
    if (!real) real = dlsym(RTLD_NEXT, "dlopen");
    return real(path, flags & ~RTLD_DEEPBIND);
}

static void cut(struct timespec *time, long long step_ns) {
    long long ns = time->tv_sec * 1000000000LL + time->tv_nsec;
    ns -= ns % step_ns;
    time->tv_sec = ns / 1000000000LL;
    time->tv_nsec = ns % 1000000000LL;
}

static int cut_times(int result, struct stat64 *found) {
    const char *step = getenv("SHIM_ROUND_NS");
    long long step_ns = step ? atoll(step) : 0;
    if (result == 0 && step_ns > 0) {
        cut(&found->st_mtim, step_ns);
        cut(&found->st_ctim, step_ns);
    }
    return result;
}

int fstat64(int file, struct stat64 *found) {
    static int (*real)(int, struct stat64 *);
    if (!real) real = dlsym(RTLD_NEXT, "fstat64");
    return cut_times(real(file, found), found);
}

int fstatat64(int folder, const char *restrict path, struct stat64 *restrict found, int flags) {
    static int (*real)(int, const char *, struct stat64 *, int);
    if (!real) real = dlsym(RTLD_NEXT, "fstatat64");
    return cut_times(real(folder, path, found, flags), found);
}
