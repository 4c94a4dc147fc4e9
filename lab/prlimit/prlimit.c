/*
 * A preloaded library for machines whose root lacks CAP_SYS_RESOURCE.
 *
 * There prlimit(2) on a process of another user fails with EPERM, and CRIU cannot
 * dump that process. Reading another process's limits is all that CRIU wants, and
 * /proc/PID/limits tells them to any reader that may trace it. So: ask the kernel
 * first, and only where it refuses a pure read, answer from /proc.
 *
 * CRIU reaches the call by prlimit(), prlimit64() and syscall(SYS_prlimit64, ...).
 * Changing limits is never imitated: it fails as the kernel says.
 *
 * x86-64 and glibc only. Used by the lab's nodes, never by a real cluster.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Row titles of /proc/PID/limits, indexed by RLIMIT_* (fs/proc/base.c). */
static const char *const row_titles[] = {
    "Max cpu time",      "Max file size",       "Max data size",     "Max stack size",
    "Max core file size", "Max resident set",   "Max processes",     "Max open files",
    "Max locked memory", "Max address space",   "Max file locks",    "Max pending signals",
    "Max msgqueue size", "Max nice priority",   "Max realtime priority", "Max realtime timeout",
};
#define ROWS (sizeof(row_titles) / sizeof(row_titles[0]))

/* The bare system call: glibc's own syscall() is what this library replaces. */
static long bare(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* One column of a row: a number or the word "unlimited". */
static int column(char **cursor, rlim64_t *value)
{
    char word[32];
    int length;

    if (sscanf(*cursor, "%31s%n", word, &length) != 1)
        return -1;
    *cursor += length;
    *value = strcmp(word, "unlimited") ? strtoull(word, NULL, 10) : RLIM64_INFINITY;
    return 0;
}

static int read_from_proc(long pid, unsigned resource, struct rlimit64 *limit)
{
    char path[64], line[256];
    int found = -1;
    size_t title_length = strlen(row_titles[resource]);
    FILE *limits;

    snprintf(path, sizeof(path), "/proc/%ld/limits", pid);
    limits = fopen(path, "re");
    if (!limits)
        return -1;
    while (found && fgets(line, sizeof(line), limits)) {
        char *cursor = line + title_length;

        if (!strncmp(line, row_titles[resource], title_length))
            found = column(&cursor, &limit->rlim_cur) || column(&cursor, &limit->rlim_max);
    }
    fclose(limits);
    return found;
}

static int limits_of(long pid, unsigned resource, const void *new_limit, struct rlimit64 *old_limit)
{
    if (!bare(SYS_prlimit64, pid, resource, (long)new_limit, (long)old_limit, 0, 0))
        return 0;
    if (errno != EPERM || new_limit || !old_limit || !pid || resource >= ROWS)
        return -1;
    if (!read_from_proc(pid, resource, old_limit))
        return 0;
    errno = EPERM;
    return -1;
}

int prlimit64(pid_t pid, enum __rlimit_resource resource, const struct rlimit64 *new_limit,
              struct rlimit64 *old_limit)
{
    return limits_of(pid, resource, new_limit, old_limit);
}

int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *new_limit,
            struct rlimit *old_limit)
{
    /* On x86-64 struct rlimit and struct rlimit64 are the same. */
    return limits_of(pid, resource, new_limit, (struct rlimit64 *)old_limit);
}

long syscall(long number, ...)
{
    va_list arguments;
    long a, b, c, d, e, f;

    va_start(arguments, number);
    a = va_arg(arguments, long);
    b = va_arg(arguments, long);
    c = va_arg(arguments, long);
    d = va_arg(arguments, long);
    e = va_arg(arguments, long);
    f = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_prlimit64)
        return limits_of(a, (unsigned)b, (const void *)c, (struct rlimit64 *)d);
    return bare(number, a, b, c, d, e, f);
}
