/* A power cut for one process: preloaded, it sees every change to files beneath one folder and, at the operation that
 * it was told, leaves on disk what a machine would find after its power came back. Then the process is gone.
 *
 *     cc -shared -fPIC -O2 -o powercut.so powercut.c -ldl -lpthread        LD_PRELOAD=powercut.so python …
 *     powercut_begin(folder, seed, at, barriers)    powercut_seen(barriers)    powercut_now()
 *
 * Bytes. What fsync or fdatasync returned for is on the platter. Of what was written since, each file keeps nothing,
 * everything, the beginning (torn inside a write), or any subset of its 512- or 4096-byte sectors, older ones beneath
 * newer ones: disks and kernels write back in any order. A truncation is kept or not like a write.
 *
 * Names. A file or folder that was created, renamed or removed is so on the platter once the folder that has its (new)
 * name was fsynced. Until then each such change is kept or undone: none, all, a beginning, or any subset. A rename
 * happens whole or not at all; fsync of a file says nothing about its name (POSIX promises no more).
 *
 * Memory. sqlite maps one file and writes to it unseen: the `-shm` beside a WAL. It is an index that whoever opens the
 * database first throws away and builds again from the WAL, so it is filled with noise here: what depended on it would
 * fail. Any other writable shared mapping, and every call that this file does not know how to undo, ends the process
 * with BLIND rather than let a test pass that saw nothing. The same holds when, at the cut, what was recorded does not
 * add up to what the files contain.
 *
 * Syncs are counted and believed, not passed on, so a thousand of them cost nothing. Fork is fine (begin after it).
 * It refuses to model hard links and the renaming of folders. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* How the process ends. */
enum { CUT = 97, BLIND = 98 };
/* What a name leads to, beside the number of a file. */
enum { ABSENT = -1, FOLDER = -2 };
enum { SMALL_SECTOR = 512, LARGE_SECTOR = 4096 };

typedef struct {
    off_t at; /* where it was written, or the length that was set */
    size_t size;
    uint8_t *bytes; /* NULL: the length was set */
} Write;

typedef struct {
    uint8_t *bytes;
    size_t size;
} Bytes;

typedef struct {
    dev_t device;
    ino_t inode; /* 0 once the kernel gave the number to another file */
    Bytes synced;
    Write *writes; /* since the last sync */
    size_t count, room;
    int mapped;
} File;

typedef struct {
    char *path;
    int synced, now; /* what it leads to on the platter, and as the process sees it */
} Name;

typedef struct {
    int name, becomes;
} Effect;

typedef struct {
    Effect effects[2]; /* the one whose folder must be synced stands first */
    int count;
} Change;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_size;
static uint64_t chance;
static uint64_t seen_all, seen_barriers, cut_at;
static int cut_at_barrier, cut_after;
static File *files;
static int file_count;
static Name *names;
static int name_count;
static Change *changes;
static int change_count;

static void end_blind(const char *what, const char *path) {
    dprintf(2, "powercut: cannot undo %s on %s\n", what, path);
    syscall(SYS_exit_group, BLIND);
    __builtin_unreachable();
}

/* splitmix64 */
static uint64_t draw(void) {
    uint64_t z = (chance += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void *grown(void *list, size_t count, size_t each) {
    if (count & (count - 1)) return list; /* doubled at each power of two */
    void *larger = realloc(list, each * (count ? 2 * count : 1));
    if (!larger) end_blind("want of memory", root);
    return larger;
}

/* -- where a call leads ------------------------------------------------------------------------------------------ */

/* The absolute path of an entry beneath the root, folders resolved; 0 when it lies elsewhere. */
static int beneath(int folder, const char *path, char *out) {
    char joined[2 * PATH_MAX], resolved[PATH_MAX];
    if (!root_size || !path || !*path) return 0;
    if (path[0] == '/' || folder == AT_FDCWD) {
        snprintf(joined, sizeof joined, "%s", path);
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, resolved, sizeof resolved - 1);
        if (size < 0) return 0;
        resolved[size] = 0;
        snprintf(joined, sizeof joined, "%s/%s", resolved, path);
    }
    size_t end = strlen(joined);
    while (end > 1 && joined[end - 1] == '/') joined[--end] = 0;
    char *slash = strrchr(joined, '/');
    const char *last = slash ? slash + 1 : joined;
    char parent[2 * PATH_MAX];
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash == joined ? 1 : slash - joined) : 1, slash ? joined : ".");
    if (!realpath(parent, resolved)) return 0;
    if (strncmp(resolved, root, root_size) || (resolved[root_size] && resolved[root_size] != '/')) return 0;
    return snprintf(out, PATH_MAX, "%s/%s", resolved, last) < PATH_MAX;
}

/* The path of an open file or folder beneath the root; 0 when it lies elsewhere. */
static int beneath_open(int fd, char *out) {
    char link[64];
    if (!root_size) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (size < 0) return 0;
    out[size] = 0;
    return !strncmp(out, root, root_size) && (!out[root_size] || out[root_size] == '/');
}

static Bytes content(const char *path) {
    Bytes all = {NULL, 0};
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    struct stat found;
    if (fd < 0 || fstat(fd, &found)) end_blind("reading", path);
    all.bytes = malloc(found.st_size + 1);
    while (all.size < (size_t)found.st_size) {
        ssize_t got = syscall(SYS_pread64, fd, all.bytes + all.size, found.st_size - all.size, all.size);
        if (got <= 0) end_blind("reading", path);
        all.size += got;
    }
    syscall(SYS_close, fd);
    return all;
}

static int file_of(const struct stat *found) {
    for (int at = 0; at < file_count; at++)
        if (files[at].inode == found->st_ino && files[at].device == found->st_dev) return at;
    return ABSENT;
}

/* A file that begins, now empty, or that was there with these bytes, on the platter. */
static int new_file(const struct stat *found, Bytes synced) {
    int former = file_of(found);
    if (former >= 0) files[former].inode = 0;
    files = grown(files, file_count, sizeof *files);
    files[file_count] = (File){.device = found->st_dev, .inode = found->st_ino, .synced = synced};
    return file_count++;
}

/* The number of a file that may not have been looked at yet. */
static int known_file(const char *path, const struct stat *found) {
    int number = file_of(found);
    return number >= 0 ? number : new_file(found, content(path));
}

/* Call before the name changes: what it leads to for the first time is on the platter. */
static int name_of(const char *path) {
    for (int at = 0; at < name_count; at++)
        if (!strcmp(names[at].path, path)) return at;
    struct stat found;
    int leads = ABSENT;
    if (!syscall(SYS_newfstatat, AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW)) {
        if (!S_ISDIR(found.st_mode) && !S_ISREG(found.st_mode)) end_blind("a special file", path);
        if (S_ISREG(found.st_mode) && found.st_nlink > 1) end_blind("a hard link", path);
        leads = S_ISDIR(found.st_mode) ? FOLDER : known_file(path, &found);
    }
    names = grown(names, name_count, sizeof *names);
    names[name_count] = (Name){strdup(path), leads, leads};
    return name_count++;
}

/* The number of an open file beneath the root, ABSENT for any other descriptor. */
static int file_open_as(int fd) {
    struct stat found;
    char path[PATH_MAX];
    if (!root_size || fstat(fd, &found) || !S_ISREG(found.st_mode)) return ABSENT;
    int number = file_of(&found);
    if (number < 0 && beneath_open(fd, path)) end_blind("a file opened before the beginning", path);
    return number;
}

/* -- what happens ------------------------------------------------------------------------------------------------ */

static void note_write(File *file, off_t at, const void *bytes, size_t size) {
    if (file->count == file->room) {
        file->room = file->room ? 2 * file->room : 16;
        file->writes = realloc(file->writes, file->room * sizeof *file->writes);
    }
    Write *made = &file->writes[file->count++];
    *made = (Write){.at = at, .size = size};
    if (bytes) memcpy(made->bytes = malloc(size + 1), bytes, size);
}

static void note_change(Change change) {
    changes = grown(changes, change_count, sizeof *changes);
    changes[change_count++] = change;
    for (int at = 0; at < change.count; at++) names[change.effects[at].name].now = change.effects[at].becomes;
}

static void resize(Bytes *all, size_t size) {
    if (size > all->size) {
        all->bytes = realloc(all->bytes, size + 1);
        memset(all->bytes + all->size, 0, size - all->size);
    }
    all->size = size;
}

static void put(Bytes *all, off_t at, const uint8_t *bytes, size_t size) {
    if (!size) return;
    if (all->size < at + size) resize(all, at + size);
    memcpy(all->bytes + at, bytes, size);
}

static void replay(Bytes *all, const Write *write) {
    if (write->bytes) put(all, write->at, write->bytes, write->size);
    else resize(all, write->at);
}

static void sync_file(File *file) {
    for (size_t at = 0; at < file->count; at++) {
        replay(&file->synced, &file->writes[at]);
        free(file->writes[at].bytes);
    }
    file->count = 0;
}

static int lies_in(const char *path, const char *folder) {
    size_t size = strlen(folder);
    return !strncmp(path, folder, size) && path[size] == '/' && !strchr(path + size + 1, '/');
}

static int share_a_name(const Change *one, const Change *other) {
    for (int a = 0; a < one->count; a++)
        for (int b = 0; b < other->count; b++)
            if (one->effects[a].name == other->effects[b].name) return 1;
    return 0;
}

/* Every change in that folder is on the platter, with whatever came before it to the same names. */
static void sync_folder(const char *folder) {
    char *settled = calloc(change_count + 1, 1);
    for (int at = change_count - 1; at >= 0; at--) {
        settled[at] = lies_in(names[changes[at].effects[0].name].path, folder);
        for (int later = at + 1; later < change_count && !settled[at]; later++)
            settled[at] = settled[later] && share_a_name(&changes[at], &changes[later]);
    }
    int left = 0;
    for (int at = 0; at < change_count; at++) {
        if (!settled[at]) {
            changes[left++] = changes[at];
            continue;
        }
        for (int effect = 0; effect < changes[at].count; effect++)
            names[changes[at].effects[effect].name].synced = changes[at].effects[effect].becomes;
    }
    change_count = left;
    /* `grown` doubles at powers of two only */
    size_t room = 1;
    while (room < (size_t)change_count) room *= 2;
    changes = realloc(changes, (change_count ? 2 * room : 1) * sizeof *changes);
    free(settled);
}

/* -- the cut ----------------------------------------------------------------------------------------------------- */

enum { NOTHING, EVERYTHING, BEGINNING, ANY_SUBSET, MIXED };

/* What of a file's unsynced writes is on the platter. */
static Bytes remains(const File *file, int manner) {
    Bytes all = {malloc(file->synced.size + 1), file->synced.size};
    memcpy(all.bytes, file->synced.bytes ? file->synced.bytes : (uint8_t *)"", file->synced.size);
    if (manner == MIXED) manner = draw() % MIXED;
    if (manner == NOTHING || !file->count) return all;
    size_t sector = draw() % 2 ? SMALL_SECTOR : LARGE_SECTOR;
    uint64_t kept_of_8 = 1 + draw() % 7;
    size_t last = draw() % file->count; /* BEGINNING: the write that is torn */
    for (size_t at = 0; at < file->count; at++) {
        const Write *write = &file->writes[at];
        if (manner == EVERYTHING || (manner == BEGINNING && at < last)) {
            replay(&all, write);
        } else if (manner == BEGINNING) {
            if (write->bytes) put(&all, write->at, write->bytes, draw() % (write->size + 1));
            break;
        } else if (!write->bytes) {
            if (draw() % 8 < kept_of_8) replay(&all, write);
        } else {
            for (size_t from = 0, to; from < write->size; from = to) {
                to = from + sector - (write->at + from) % sector;
                if (to > write->size) to = write->size;
                if (draw() % 8 < kept_of_8) put(&all, write->at + from, write->bytes + from, to - from);
            }
        }
    }
    return all;
}

static void store(const char *path, Bytes all, const struct timespec *times) {
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) end_blind("putting back", path);
    for (size_t done = 0; done < all.size;) {
        ssize_t wrote = syscall(SYS_write, fd, all.bytes + done, all.size - done);
        if (wrote <= 0) end_blind("putting back", path);
        done += wrote;
    }
    if (times) syscall(SYS_utimensat, fd, NULL, times, 0);
    syscall(SYS_close, fd);
}

/* Whether what was recorded adds up to what the file contains. */
static void check(const File *file, const char *path) {
    Bytes model = remains(file, EVERYTHING), real = content(path);
    if (model.size != real.size || memcmp(model.bytes, real.bytes, real.size)) end_blind("a change it never saw", path);
    free(model.bytes);
    free(real.bytes);
}

static void noise(Bytes *all) {
    for (size_t at = 0; at < all->size; at++) all->bytes[at] = draw();
}

/* Which changes of names the platter has, in `leads`. */
static void settle_names(int *leads, int manner) {
    int beginning = change_count ? draw() % (change_count + 1) : 0;
    for (int at = 0; at < name_count; at++) leads[at] = names[at].synced;
    for (int at = 0; at < change_count; at++) {
        int kept = manner == EVERYTHING || (manner == BEGINNING && at < beginning) || (manner == ANY_SUBSET && draw() % 2);
        for (int effect = 0; kept && effect < changes[at].count; effect++)
            leads[changes[at].effects[effect].name] = changes[at].effects[effect].becomes;
    }
}

/* Whether a folder on the way to this name, beneath the root, is no more. */
static int is_orphan(const char *path, const int *leads) {
    for (int at = 0; at < name_count; at++) {
        size_t size = strlen(names[at].path);
        if (leads[at] != FOLDER && (names[at].now == FOLDER || names[at].synced == FOLDER) &&
            !strncmp(path, names[at].path, size) && path[size] == '/')
            return 1;
    }
    return 0;
}

static void cut(void) {
    struct timespec(*times)[2] = calloc(file_count + 1, sizeof *times);
    int *leads = calloc(name_count + 1, sizeof *leads);
    /* Every file that has a name and was opened or renamed has its name here. */
    for (int at = 0; at < name_count; at++) {
        struct stat found;
        if (names[at].now < 0 || syscall(SYS_newfstatat, AT_FDCWD, names[at].path, &found, AT_SYMLINK_NOFOLLOW)) continue;
        if (!files[names[at].now].mapped) check(&files[names[at].now], names[at].path);
        times[names[at].now][0] = found.st_atim;
        times[names[at].now][1] = found.st_mtim;
    }
    int keeps_times = draw() % 2, manner = draw() % 6; /* 4 and 5: each file for itself */
    settle_names(leads, draw() % 4);
    for (int at = 0; at < name_count; at++)
        if (names[at].now >= 0) syscall(SYS_unlinkat, AT_FDCWD, names[at].path, 0);
    for (int at = 0; at < name_count; at++)
        if (leads[at] == FOLDER && !is_orphan(names[at].path, leads)) syscall(SYS_mkdirat, AT_FDCWD, names[at].path, 0700);
    for (int at = name_count - 1; at >= 0; at--)
        if (names[at].now == FOLDER && (leads[at] != FOLDER || is_orphan(names[at].path, leads)))
            if (syscall(SYS_unlinkat, AT_FDCWD, names[at].path, AT_REMOVEDIR) && errno != ENOENT)
                end_blind("making a folder that is not empty", names[at].path);
    for (int at = 0; at < name_count; at++) {
        if (leads[at] < 0 || is_orphan(names[at].path, leads)) continue;
        const File *file = &files[leads[at]];
        Bytes all = remains(file, manner > MIXED ? MIXED : manner);
        if (file->mapped) noise(&all);
        store(names[at].path, all, keeps_times && times[leads[at]][1].tv_sec ? times[leads[at]] : NULL);
    }
    syscall(SYS_exit_group, CUT);
}

/* One operation is about to happen: the power may go before it, or when it was done and nobody was told. */
static void begin_operation(int barrier) {
    seen_all++;
    seen_barriers += barrier;
    if (cut_at && (cut_at_barrier ? barrier && seen_barriers == cut_at : seen_all == cut_at)) {
        if (draw() % 2) cut();
        cut_after = 1;
    }
}

static void end_operation(void) {
    if (cut_after) cut();
}

/* -- for the test ------------------------------------------------------------------------------------------------ */

/* From now on changes beneath `folder` are recorded; the power goes at operation `at` (0: never), of the syncs,
 * renames, removals and truncations alone if `barriers`. */
void powercut_begin(const char *folder, uint64_t seed, uint64_t at, int barriers) {
    if (!realpath(folder, root)) end_blind("beginning", folder);
    root_size = strlen(root);
    chance = seed;
    cut_at = at;
    cut_at_barrier = barriers;
}

/* Operations so far. */
uint64_t powercut_seen(int barriers) { return barriers ? seen_barriers : seen_all; }

/* The power goes. */
void powercut_now(void) {
    pthread_mutex_lock(&lock);
    cut();
}

/* -- the calls --------------------------------------------------------------------------------------------------- */

static long returned(long result, int error) {
    end_operation();
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static int opening(int folder, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    int changes_it = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR);
    if (!changes_it || (flags & O_TMPFILE) == O_TMPFILE || !beneath(folder, path, whole))
        return syscall(SYS_openat, folder, path, flags, mode);
    struct stat found;
    pthread_mutex_lock(&lock);
    int name = name_of(whole), existed = names[name].now != ABSENT;
    int makes = !existed && (flags & O_CREAT), empties = existed && (flags & O_TRUNC);
    if (makes || empties) begin_operation(0);
    int fd = syscall(SYS_openat, folder, path, flags, mode), error = errno;
    if (fd >= 0 && makes) {
        if (fstat(fd, &found)) end_blind("creating", whole);
        note_change((Change){{{name, new_file(&found, (Bytes){NULL, 0})}}, 1});
    }
    if (fd >= 0 && empties && names[name].now >= 0) note_write(&files[names[name].now], 0, NULL, 0);
    return returned(fd, error);
}

#define OPENS(name)                                   \
    int name(const char *path, int flags, ...) {      \
        va_list more;                                 \
        va_start(more, flags);                        \
        mode_t mode = va_arg(more, mode_t);           \
        va_end(more);                                 \
        return opening(AT_FDCWD, path, flags, mode);  \
    }
#define OPENS_AT(name)                                       \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more;                                        \
        va_start(more, flags);                               \
        mode_t mode = va_arg(more, mode_t);                  \
        va_end(more);                                        \
        return opening(folder, path, flags, mode);           \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
int __open_2(const char *path, int flags) { return opening(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opening(AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return opening(folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return opening(folder, path, flags, 0); }
int creat(const char *path, mode_t mode) { return opening(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* `at` < 0: where the file stands. */
static ssize_t writing(int fd, const struct iovec *pieces, int count, off_t at) {
    int number = file_open_as(fd);
    if (number < 0)
        return at < 0 ? syscall(SYS_writev, fd, pieces, count) : syscall(SYS_pwritev, fd, pieces, count, at, 0);
    pthread_mutex_lock(&lock);
    begin_operation(0);
    File *file = &files[number];
    if (at < 0) {
        struct stat found;
        at = fcntl(fd, F_GETFL) & O_APPEND ? (fstat(fd, &found), found.st_size) : syscall(SYS_lseek, fd, 0, SEEK_CUR);
        /* The position moves as write would move it. */
        ssize_t wrote = syscall(SYS_writev, fd, pieces, count);
        int error = errno;
        ssize_t left = wrote;
        for (int piece = 0; piece < count && left > 0; piece++) {
            size_t size = (size_t)left < pieces[piece].iov_len ? (size_t)left : pieces[piece].iov_len;
            note_write(file, at, pieces[piece].iov_base, size);
            at += size;
            left -= size;
        }
        return returned(wrote, error);
    }
    ssize_t wrote = syscall(SYS_pwrite64, fd, pieces[0].iov_base, pieces[0].iov_len, at);
    int error = errno;
    if (wrote > 0) note_write(file, at, pieces[0].iov_base, wrote);
    return returned(wrote, error);
}

ssize_t write(int fd, const void *bytes, size_t size) {
    struct iovec one = {(void *)bytes, size};
    return root_size ? writing(fd, &one, 1, -1) : syscall(SYS_write, fd, bytes, size);
}
ssize_t writev(int fd, const struct iovec *pieces, int count) { return writing(fd, pieces, count, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    struct iovec one = {(void *)bytes, size};
    return root_size ? writing(fd, &one, 1, at) : syscall(SYS_pwrite64, fd, bytes, size, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) { return pwrite(fd, bytes, size, at); }

static int syncing(int fd, long number) {
    struct stat found;
    char path[PATH_MAX];
    if (!root_size || fstat(fd, &found) || !beneath_open(fd, path)) return syscall(number, fd);
    pthread_mutex_lock(&lock);
    begin_operation(1);
    int file = file_of(&found);
    if (S_ISDIR(found.st_mode)) sync_folder(path);
    else if (file >= 0) sync_file(&files[file]);
    return returned(0, 0);
}
int fsync(int fd) { return syncing(fd, SYS_fsync); }
int fdatasync(int fd) { return syncing(fd, SYS_fdatasync); }
/* Promises nothing that a power cut respects. */
int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags) {
    return root_size ? 0 : syscall(SYS_sync_file_range, fd, at, size, flags);
}

static int resizing(int fd, off_t size) {
    int number = file_open_as(fd);
    if (number < 0) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    begin_operation(1);
    int result = syscall(SYS_ftruncate, fd, size), error = errno;
    if (!result) note_write(&files[number], size, NULL, 0);
    return returned(result, error);
}
int ftruncate(int fd, off_t size) { return resizing(fd, size); }
int ftruncate64(int fd, off64_t size) { return resizing(fd, size); }
int truncate(const char *path, off_t size) {
    int fd = opening(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = resizing(fd, size), error = errno;
    syscall(SYS_close, fd);
    errno = error;
    return result;
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }

static int renaming(int from, const char *path, int to, const char *target, unsigned flags) {
    char source[PATH_MAX], goal[PATH_MAX];
    int leaves = beneath(from, path, source), arrives = beneath(to, target, goal);
    if (!leaves && !arrives) return syscall(SYS_renameat2, from, path, to, target, flags);
    if (!leaves || !arrives || flags) end_blind("renaming", path);
    pthread_mutex_lock(&lock);
    int old = name_of(source), new = name_of(goal);
    if (names[old].now == FOLDER) end_blind("renaming a folder", path);
    begin_operation(1);
    int result = syscall(SYS_renameat2, from, path, to, target, 0), error = errno;
    if (!result) note_change((Change){{{new, names[old].now}, {old, ABSENT}}, 2});
    return returned(result, error);
}
int rename(const char *path, const char *target) { return renaming(AT_FDCWD, path, AT_FDCWD, target, 0); }
int renameat(int from, const char *path, int to, const char *target) { return renaming(from, path, to, target, 0); }
int renameat2(int from, const char *path, int to, const char *target, unsigned flags) {
    return renaming(from, path, to, target, flags);
}

static int removing(int folder, const char *path, int flags) {
    char whole[PATH_MAX];
    if (!beneath(folder, path, whole)) return syscall(SYS_unlinkat, folder, path, flags);
    pthread_mutex_lock(&lock);
    int name = name_of(whole);
    begin_operation(1);
    int result = syscall(SYS_unlinkat, folder, path, flags), error = errno;
    if (!result) note_change((Change){{{name, ABSENT}}, 1});
    return returned(result, error);
}
int unlink(const char *path) { return removing(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return removing(folder, path, flags); }
int remove(const char *path) { return removing(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removing(AT_FDCWD, path, AT_REMOVEDIR); }

static int making(int folder, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    if (!beneath(folder, path, whole)) return syscall(SYS_mkdirat, folder, path, mode);
    pthread_mutex_lock(&lock);
    int name = name_of(whole);
    begin_operation(0);
    int result = syscall(SYS_mkdirat, folder, path, mode), error = errno;
    if (!result) note_change((Change){{{name, FOLDER}}, 1});
    return returned(result, error);
}
int mkdir(const char *path, mode_t mode) { return making(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return making(folder, path, mode); }

static void *mapping(void *at, size_t size, int may, int flags, int fd, off_t from) {
    char path[PATH_MAX];
    if (root_size && fd >= 0 && (may & PROT_WRITE) && (flags & MAP_SHARED) && beneath_open(fd, path)) {
        size_t length = strlen(path);
        int number = file_open_as(fd);
        if (number < 0 || length < 4 || strcmp(path + length - 4, "-shm")) end_blind("a mapping", path);
        files[number].mapped = 1;
    }
    return (void *)syscall(SYS_mmap, at, size, may, flags, fd, from);
}
void *mmap(void *at, size_t size, int may, int flags, int fd, off_t from) {
    return mapping(at, size, may, flags, fd, from);
}
void *mmap64(void *at, size_t size, int may, int flags, int fd, off64_t from) {
    return mapping(at, size, may, flags, fd, from);
}

/* What changes files in ways not modelled here: elsewhere it is none of our business, beneath the root it is the end. */
static void refuse(int fd, const char *what) {
    char path[PATH_MAX];
    if (beneath_open(fd, path)) end_blind(what, path);
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    refuse(fd, "fallocate");
    return syscall(SYS_fallocate, fd, mode, at, size);
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) { return fallocate(fd, mode, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return fallocate(fd, 0, at, size) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t size) { return posix_fallocate(fd, at, size); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    refuse(to, "sendfile");
    return syscall(SYS_sendfile, to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sendfile(to, from, at, size); }
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *goal, size_t size, unsigned flags) {
    refuse(to, "copy_file_range");
    return syscall(SYS_copy_file_range, from, at, to, goal, size, flags);
}
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
    refuse(fd, "pwritev");
    return syscall(SYS_pwritev, fd, pieces, count, at, 0);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at) { return pwritev(fd, pieces, count, at); }
int linkat(int from, const char *path, int to, const char *target, int flags) {
    char goal[PATH_MAX];
    if (beneath(to, target, goal)) end_blind("linking", goal);
    return syscall(SYS_linkat, from, path, to, target, flags);
}
int link(const char *path, const char *target) { return linkat(AT_FDCWD, path, AT_FDCWD, target, 0); }
int symlinkat(const char *path, int to, const char *target) {
    char goal[PATH_MAX];
    if (beneath(to, target, goal)) end_blind("linking", goal);
    return syscall(SYS_symlinkat, path, to, target);
}
int symlink(const char *path, const char *target) { return symlinkat(path, AT_FDCWD, target); }
