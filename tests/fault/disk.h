/* disk.h - a disk in memory that fails, forgets and stops as a test says
 *
 * Include it first, before keyring_aws.h. The product calls libc for its files
 * (open, pwrite, fdatasync, rename ...) and has no hook for them, nor should it
 * have one for tests. So this file includes every system header that the
 * product includes, which makes those in the product do nothing, and then
 * defines macros of the libc functions' names: the product, compiled into the
 * test, calls the disk. No linker is asked, so it works with any. Paths below
 * /disk, and descriptors from there, are the disk's; all else goes to libc.
 *
 *     disk_format();                            an empty folder /disk
 *     disk.at = 7, disk.fault = DISK_STOP_AFTER;
 *     kaws_generate(ring, ...);                 its 7th call is the last one
 *     disk_copy(&saved, &disk.image);
 *     for (i = 0; i < disk_survivals(&saved, 256); i++) {
 *         disk_copy(&disk.image, &saved);
 *         disk_survive(i);                      power is back: what is left?
 *         kaws_open(&ring, ...);
 *     }
 *
 * What is modelled: of a file, each sector of 512 bytes and the size become
 * durable one by one, in any order, when and if they like; by fdatasync they
 * must. Of a folder, the changes of names become durable in their order, whole
 * (two names that change places do so in one step), and by fsync of the folder
 * they must: a file's fdatasync does nothing for its name. A sector that was
 * never written reads as zeros; none is written by half, and no process is
 * killed in the middle of one that is there. A failed sync may also forget that
 * it has to write (DISK_FORGET): the next one then succeeds without having
 * written, as on Linux. After a stop every call fails
 * and does nothing; that is as good as dead, and leaks nothing. The disk is for
 * one thread.
 */

#if !defined(KAWS_DISK_H)
#define KAWS_DISK_H

#if defined(KEYRING_AWS_IMPLEMENTED)
#error "disk.h must be included before keyring_aws.h"
#endif
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <bearssl.h>
#include <curl/curl.h>

#include "../unit/renames.h"

#define DISK static __attribute__((unused))

enum {
    DISK_SECTOR = 512, DISK_NODES = 64, DISK_OPEN = 64, DISK_FD = 1000000,
    DISK_NAME = 80, DISK_DIGITS = 256, DISK_JOURNAL = 256
};

#define DISK_SIZE  SIZE_MAX       /* in place of a sector's number: the size  */
#define DISK_NAMES (SIZE_MAX - 1) /* the names of a folder                    */

typedef enum disk_fault {
    DISK_FINE,
    DISK_ERROR,                   /* fails with disk.error, and does nothing  */
    DISK_FORGET,                  /* a sync fails, and the next has no work   */
    DISK_SHORT,                   /* a part is written or read; then fine     */
    DISK_SHORT_ERROR,             /* a part; the next such call fails         */
    DISK_STOP_BEFORE,             /* nothing happens any more                 */
    DISK_STOP_MIDWAY,             /* a part is written, then the same         */
    DISK_STOP_AFTER
} disk_fault;

typedef enum disk_kind {          /* what a call is                           */
    DISK_OPENS, DISK_MAKES, DISK_CLOSES, DISK_LOOKS, DISK_READS, DISK_WRITES,
    DISK_SYNCS, DISK_SYNCS_FOLDER, DISK_CUTS, DISK_RENAMES, DISK_EXCHANGES,
    DISK_LINKS, DISK_REMOVES, DISK_MAKES_FOLDER, DISK_LOCKS, DISK_UNLOCKS,
    DISK_ASKS
} disk_kind;

static const char *const disk_kinds[] = {
    "open", "create", "close", "stat", "pread", "pwrite", "fdatasync",
    "fsync folder", "ftruncate", "rename", "exchange", "link", "unlink",
    "mkdir", "lock", "unlock", "ask"
};

typedef struct disk_version {     /* what a sector, or the size, came to be   */
    size_t  sector;
    size_t  size;
    int     forgotten;
    uint8_t bytes[DISK_SECTOR];
} disk_version;

typedef struct disk_step {        /* a name in a folder means that node now   */
    char name[DISK_NAME];
    char from[DISK_NAME];         /* and this name                            */
    int  from_node;               /* that one, or nothing any more            */
    int  node;                    /* -1: nothing                              */
} disk_step;

typedef struct disk_node {
    int           folder;
    mode_t        mode;
    long          mtime, ctime;   /* by disk.clock                            */
    uint8_t      *now, *firm;     /* what is seen; what is surely on the disk */
    size_t        now_len, firm_len, now_max, firm_max;
    disk_version *versions;       /* since the last sync                      */
    size_t        version_count, version_max;
    disk_step    *steps;          /* a folder is the sum of its changes       */
    size_t        step_count, step_max, firm_steps;
} disk_node;

typedef struct disk_image {
    disk_node nodes[DISK_NODES];
    int       count;
} disk_image;

typedef struct disk_digit {       /* one choice among what may have survived  */
    int      node;
    size_t   sector;
    unsigned radix, pick;
} disk_digit;

static struct {
    disk_image image;
    struct { int used, node, flags; short held[2]; } open[DISK_OPEN];
    unsigned   opened;            /* how many are open                        */

    unsigned   calls;             /* so far                                   */
    unsigned   at, hits;          /* the call that fails, and how many at all */
    disk_fault fault;
    int        error;
    unsigned   portion;           /* of short ones: 0 a byte, 1 half, 2 all
                                   * but a byte, 3 to the first sector's end  */
    disk_fault now;               /* of the call under way                    */
    int        follow_up;         /* the error of the next read or write      */
    int        off;               /* stopped                                  */

    int        full;              /* as long as not 0: errno of growing       */
    int        no_room;           /* of all writing: there it takes new room  */
    int        no_nodes;          /* errno of creating                        */
    int        read_only;         /* errno of changing anything               */
    int        denied;            /* errno of changing a name                 */
    int        no_sync;           /* errno of every sync                      */
    int        no_cut;            /* errno of every cut                       */
    int        no_exchange;       /* errno of renames that do more than that  */
    int        no_link;           /* errno of links                           */
    int        mounted;           /* a file that is asked is a mount point    */
    long       clock;             /* goes on with each change                 */
    int        spares_locks;      /* locking does not fail                    */
    unsigned   few;               /* 0, or 1 and how many files may be open   */

    disk_kind  kinds[DISK_JOURNAL];           /* what was done, for reports   */
    char       journal[DISK_JOURNAL][96];

    disk_digit digits[DISK_DIGITS];
    size_t     digit_count;
} disk;


/* ---- images ------------------------------------------------------------- */

/* Makes room for `need` items, the fresh ones zeros. */
DISK void *
disk_grow(void *at, size_t *max, size_t need, size_t size)
{
    size_t more = need + need / 2 + 4;

    if (need <= *max)
        return at;
    at = realloc(at, more * size);
    if (at == NULL)
        abort();
    memset((char *)at + *max * size, 0, (more - *max) * size);
    *max = more;
    return at;
}


static size_t
disk_sectors(size_t len)
{
    return (len + DISK_SECTOR - 1) / DISK_SECTOR;
}


/* The bytes behind the end are kept zeros, to the end of the sector. */
static void
disk_resize(uint8_t **at, size_t *max, size_t *len, size_t to)
{
    *at = disk_grow(*at, max, disk_sectors(to) * DISK_SECTOR, 1);
    if (to < *len)
        memset(*at + to, 0, *len - to);
    *len = to;
}


DISK void
disk_drop_node(disk_node *n)
{
    free(n->now);
    free(n->firm);
    free(n->versions);
    free(n->steps);
    memset(n, 0, sizeof *n);
}


DISK void
disk_drop(disk_image *image)
{
    int i;

    for (i = 0; i < image->count; i++)
        disk_drop_node(&image->nodes[i]);
    image->count = 0;
}


static void
disk_copy_node(disk_node *to, const disk_node *from)
{
    disk_node was = *to;

    *to = *from;
    to->now = was.now, to->now_max = was.now_max;
    to->firm = was.firm, to->firm_max = was.firm_max;
    to->versions = was.versions, to->version_max = was.version_max;
    to->steps = was.steps, to->step_max = was.step_max;
    to->now_len = to->now_max;
    to->firm_len = to->firm_max;
    disk_resize(&to->now, &to->now_max, &to->now_len, from->now_len);
    disk_resize(&to->firm, &to->firm_max, &to->firm_len, from->firm_len);
    to->versions = disk_grow(to->versions, &to->version_max,
                             from->version_count, sizeof *to->versions);
    to->steps = disk_grow(to->steps, &to->step_max, from->step_count,
                          sizeof *to->steps);
    if (from->now_len > 0)
        memcpy(to->now, from->now, from->now_len);
    if (from->firm_len > 0)
        memcpy(to->firm, from->firm, from->firm_len);
    if (from->version_count > 0)
        memcpy(to->versions, from->versions,
               from->version_count * sizeof *to->versions);
    if (from->step_count > 0)
        memcpy(to->steps, from->steps, from->step_count * sizeof *to->steps);
}


DISK void
disk_copy(disk_image *to, const disk_image *from)
{
    int i;

    for (i = 0; i < from->count; i++)
        disk_copy_node(&to->nodes[i], &from->nodes[i]);
    for (; i < to->count; i++)
        disk_drop_node(&to->nodes[i]);
    to->count = from->count;
}


/* ---- names -------------------------------------------------------------- */

/* What the name means after so many steps. */
static int
disk_lookup(const disk_node *folder, size_t steps, const char *name)
{
    while (steps-- > 0) {
        if (strcmp(folder->steps[steps].name, name) == 0)
            return folder->steps[steps].node;
        if (strcmp(folder->steps[steps].from, name) == 0)
            return folder->steps[steps].from_node;
    }
    return -1;
}


DISK int
disk_is_ours(const char *path)
{
    return strncmp(path, "/disk", 5) == 0 && (path[5] == '/' ||
                                              path[5] == '\0');
}


/* The node at the path, or -1. *folder is where its name stands (-1 if there is
 * no such folder), *name that name. */
static int
disk_find(const char *path, int *folder, const char **name)
{
    char part[DISK_NAME];
    int node = 0, above[8] = { 0 };
    size_t len, depth = 0;

    *folder = -1;
    *name = "";
    for (path += 5; *path != '\0'; path += len) {
        path += strspn(path, "/");
        len = strcspn(path, "/");
        if (len == 0)
            break;
        if (len == 2 && memcmp(path, "..", 2) == 0 && node >= 0) {
            node = depth > 0 ? above[--depth] : node;
            continue;
        }
        if (depth == sizeof above / sizeof above[0])
            abort();
        above[depth++] = node;
        *folder = node >= 0 && disk.image.nodes[node].folder ? node : -1;
        *name = path;
        (void)snprintf(part, sizeof part, "%.*s", (int)len, path);
        node = *folder < 0 ? -1
             : disk_lookup(&disk.image.nodes[*folder],
                           disk.image.nodes[*folder].step_count, part);
    }
    return node;
}


static disk_node *
disk_node_of(const char *path)
{
    const char *name;
    int folder, node = disk_find(path, &folder, &name);

    return node < 0 ? NULL : &disk.image.nodes[node];
}


/* The node, of a file or of its name, was changed. */
static void
disk_touch(int node)
{
    if (node >= 0)
        disk.image.nodes[node].ctime = ++disk.clock;
}


static void
disk_step_to(int folder, const char *name, const char *from, int node)
{
    disk_node *f = &disk.image.nodes[folder];
    disk_step *s;

    f->steps = disk_grow(f->steps, &f->step_max, f->step_count + 1,
                         sizeof *f->steps);
    s = &f->steps[f->step_count++];
    (void)snprintf(s->name, sizeof s->name, "%.*s", (int)strcspn(name, "/"),
                   name);
    (void)snprintf(s->from, sizeof s->from, "%s", from);
    s->node = node;
    s->from_node = -1;
    disk_touch(node);
}


static int
disk_is_used(int node)
{
    const disk_image *m = &disk.image;
    size_t k;
    int i;

    for (i = 0; i < m->count; i++)
        for (k = 0; k < m->nodes[i].step_count; k++)
            if (m->nodes[i].steps[k].node == node ||
                m->nodes[i].steps[k].from_node == node)
                return 1;
    for (i = 0; i < DISK_OPEN; i++)
        if (disk.open[i].used && disk.open[i].node == node)
            return 1;
    return 0;
}


static int
disk_new_node(int folder, mode_t mode)
{
    int i = 1;

    while (i < disk.image.count && disk_is_used(i))
        i++;
    if (i >= DISK_NODES)
        abort();
    if (i == disk.image.count)
        disk.image.count++;
    disk_drop_node(&disk.image.nodes[i]);
    disk.image.nodes[i].folder = folder;
    disk.image.nodes[i].mode = mode;
    return i;
}


/* Keeps what the i-th step says of the name, unless a later one says more. */
static void
disk_keep(disk_node *f, size_t i, size_t *kept, const char *name, int node)
{
    disk_step s;
    size_t later = i + 1;

    while (later < f->step_count && strcmp(f->steps[later].name, name) != 0 &&
           strcmp(f->steps[later].from, name) != 0)
        later++;
    if (later < f->step_count || node < 0)
        return;
    memset(&s, 0, sizeof s);
    memcpy(s.name, name, strlen(name) + 1);
    s.node = node;
    s.from_node = -1;
    f->steps[(*kept)++] = s;
}


/* Drops steps that no name needs any more; all of them are durable. */
static void
disk_pack(disk_node *f)
{
    size_t i, kept = 0;

    for (i = 0; i < f->step_count; i++) {
        disk_step s = f->steps[i];
        disk_keep(f, i, &kept, s.name, s.node);
        disk_keep(f, i, &kept, s.from, s.from_node);
    }
    f->step_count = f->firm_steps = kept;
}


/* How many names mean the node. */
static unsigned
disk_links(int node)
{
    const disk_image *m = &disk.image;
    unsigned links = 0;
    size_t k, later;
    int i;

    for (i = 0; i < m->count; i++)
        for (k = 0; k < m->nodes[i].step_count; k++) {
            const disk_node *f = &m->nodes[i];
            for (later = k + 1; later < f->step_count; later++)
                if (strcmp(f->steps[later].name, f->steps[k].name) == 0)
                    break;
            links += later == f->step_count &&
                     disk_lookup(f, later, f->steps[k].name) == node;
        }
    return links;
}


/* ---- contents ----------------------------------------------------------- */

static int
disk_is_firm(const disk_node *n, const disk_version *v)
{
    if (v->sector == DISK_SIZE)
        return v->size == n->firm_len;
    return (v->sector + 1) * DISK_SECTOR <= n->firm_max &&
           memcmp(n->firm + v->sector * DISK_SECTOR, v->bytes,
                  DISK_SECTOR) == 0;
}


/* Notes what a sector, or the size, is now, unless that is known. */
static void
disk_note(disk_node *n, size_t sector)
{
    disk_version v;
    size_t i;

    memset(&v, 0, sizeof v);
    v.sector = sector;
    if (sector == DISK_SIZE)
        v.size = n->now_len;
    else
        memcpy(v.bytes, n->now + sector * DISK_SECTOR, DISK_SECTOR);
    for (i = n->version_count; i-- > 0;)
        if (n->versions[i].sector == sector)
            break;
    if (i == SIZE_MAX ? disk_is_firm(n, &v)
                      : !n->versions[i].forgotten &&
                        n->versions[i].size == v.size &&
                        memcmp(n->versions[i].bytes, v.bytes,
                               DISK_SECTOR) == 0)
        return;
    n->versions = disk_grow(n->versions, &n->version_max,
                            n->version_count + 1, sizeof v);
    n->versions[n->version_count++] = v;
}


static void
disk_set_len(disk_node *n, size_t len)
{
    size_t old = n->now_len, sector;

    if (old == len)
        return;
    n->mtime = n->ctime = ++disk.clock;
    disk_resize(&n->now, &n->now_max, &n->now_len, len);
    for (sector = len / DISK_SECTOR; sector < disk_sectors(old); sector++) {
        n->now = disk_grow(n->now, &n->now_max, (sector + 1) * DISK_SECTOR, 1);
        disk_note(n, sector);
    }
    disk_note(n, DISK_SIZE);
}


static void
disk_write(disk_node *n, const uint8_t *data, size_t offset, size_t len)
{
    size_t sector;

    if (len == 0)
        return;
    if (offset + len > n->now_len)
        disk_resize(&n->now, &n->now_max, &n->now_len, offset + len);
    memcpy(n->now + offset, data, len);
    n->mtime = n->ctime = ++disk.clock;
    for (sector = offset / DISK_SECTOR;
         sector < disk_sectors(offset + len); sector++)
        disk_note(n, sector);
    disk_note(n, DISK_SIZE);
}


static void
disk_apply(disk_node *n, const disk_version *v)
{
    size_t end = (v->sector + 1) * DISK_SECTOR;

    if (v->sector == DISK_SIZE) {
        disk_resize(&n->firm, &n->firm_max, &n->firm_len, v->size);
        return;
    }
    n->firm = disk_grow(n->firm, &n->firm_max, end, 1);
    memcpy(n->firm + v->sector * DISK_SECTOR, v->bytes, DISK_SECTOR);
}


/* Bytes of `firm` behind its length are rubbish until the length is known. */
static void
disk_settle(disk_node *n)
{
    if (n->firm_max > n->firm_len)
        memset(n->firm + n->firm_len, 0, n->firm_max - n->firm_len);
}


/* What was not forgotten is durable now. A forgotten version lives on as a
 * possibility, until its sector is written anew. */
static void
disk_flush(disk_node *n)
{
    size_t i, k, kept = 0;

    for (i = 0; i < n->version_count; i++)
        if (!n->versions[i].forgotten)
            disk_apply(n, &n->versions[i]);
    for (i = 0; i < n->version_count; i++) {
        for (k = i + 1; k < n->version_count; k++)
            if (n->versions[k].sector == n->versions[i].sector &&
                !n->versions[k].forgotten)
                break;
        if (n->versions[i].forgotten && k == n->version_count)
            n->versions[kept++] = n->versions[i];
    }
    n->version_count = kept;
    disk_settle(n);
}


static void
disk_forget(disk_node *n)
{
    size_t i;

    for (i = 0; i < n->version_count; i++)
        n->versions[i].forgotten = n->versions[i].sector != DISK_SIZE;
}


/* ---- what survives ------------------------------------------------------ */

static void
disk_add_digit(int node, size_t sector, size_t radix)
{
    disk_digit digit = { node, sector, (unsigned)radix, 0 };

    if (disk.digit_count == DISK_DIGITS)
        abort();
    disk.digits[disk.digit_count++] = digit;
}


static void
disk_file_digits(const disk_image *m, int node)
{
    const disk_node *n = &m->nodes[node];
    size_t i, k, radix;

    for (i = 0; i < n->version_count; i++) {
        radix = 2;
        for (k = 0; k < i; k++)
            if (n->versions[k].sector == n->versions[i].sector)
                break;
        if (k < i)
            continue;
        for (k = i + 1; k < n->version_count; k++)
            radix += n->versions[k].sector == n->versions[i].sector;
        disk_add_digit(node, n->versions[i].sector, radix);
    }
}


/* Whether any of the names that may survive means the node. */
static int
disk_may_survive(const disk_image *m, int node)
{
    const disk_node *f;
    size_t steps, k;
    int i;

    for (i = 0; i < m->count; i++) {
        f = &m->nodes[i];
        for (steps = f->firm_steps; steps <= f->step_count; steps++)
            for (k = 0; k < steps; k++)
                if ((f->steps[k].node == node &&
                     disk_lookup(f, steps, f->steps[k].name) == node) ||
                    (f->steps[k].from_node == node &&
                     disk_lookup(f, steps, f->steps[k].from) == node))
                    return 1;
    }
    return 0;
}


static uint64_t
disk_find_digits(const disk_image *m)
{
    uint64_t all = 1;
    size_t k;
    int i;

    disk.digit_count = 0;
    for (i = 0; i < m->count; i++) {
        const disk_node *n = &m->nodes[i];
        if (n->folder && n->step_count > n->firm_steps)
            disk_add_digit(i, DISK_NAMES, n->step_count - n->firm_steps + 1);
        else if (!n->folder && disk_may_survive(m, i))
            disk_file_digits(m, i);
    }
    for (k = 0; k < disk.digit_count; k++)
        if (all < UINT64_C(1) << 40)
            all *= disk.digits[k].radix;
    return all;
}


/* How many ways to survive are to be tried: all, or if they are more than
 * `limit`, so many: nothing, everything, each thing alone, all but each, and by
 * chance. */
DISK size_t
disk_survivals(const disk_image *m, size_t limit)
{
    uint64_t all = disk_find_digits(m);

    return all < limit ? (size_t)all : limit;
}


static void
disk_choose(size_t number, uint64_t all, size_t limit)
{
    uint64_t left = number, seed = number * UINT64_C(0x9e3779b97f4a7c15) + 1;
    size_t i, single = number - 2, n = disk.digit_count;

    for (i = 0; i < n; i++) {
        disk_digit *d = &disk.digits[i];
        if (all <= limit) {
            d->pick = (unsigned)(left % d->radix);
            left /= d->radix;
        } else if (number < 2) {
            d->pick = number == 0 ? 0 : d->radix - 1;
        } else if (single < 2 * n) {
            d->pick = (single / 2 == i) == (single % 2 == 0) ? d->radix - 1 : 0;
        } else {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            d->pick = (unsigned)((seed >> 20) % d->radix);
        }
    }
}


/* The pick-th version of that sector or size is what the disk has. */
static void
disk_pick(const disk_digit *d)
{
    disk_node *n = &disk.image.nodes[d->node];
    unsigned left = d->pick;
    size_t i;

    if (d->sector == DISK_NAMES) {
        n->step_count = n->firm_steps + d->pick;
        return;
    }
    for (i = 0; left > 0 && i < n->version_count; i++)
        if (n->versions[i].sector == d->sector && --left == 0)
            disk_apply(n, &n->versions[i]);
}


static void
disk_close_all(void)
{
    memset(disk.open, 0, sizeof disk.open);
    disk.opened = 0;
    disk.off = 0;
    disk.follow_up = 0;
    disk.fault = DISK_FINE;
    disk.at = 0;
    disk.hits = 0;
    disk.calls = 0;
}


/* The power was cut, and is back. `limit` as disk_survivals had it. */
DISK void
disk_survive(size_t number, size_t limit)
{
    uint64_t all = disk_find_digits(&disk.image);
    disk_node *n;
    size_t k;
    int i;

    disk_choose(number, all, limit);
    for (k = 0; k < disk.digit_count; k++)
        disk_pick(&disk.digits[k]);
    for (i = 0; i < disk.image.count; i++) {
        n = &disk.image.nodes[i];
        disk_pack(n);
        n->version_count = 0;
        disk_settle(n);
        disk_resize(&n->now, &n->now_max, &n->now_len, n->firm_len);
        if (n->now_len > 0)
            memcpy(n->now, n->firm, disk_sectors(n->now_len) * DISK_SECTOR);
    }
    disk_close_all();
}


/* The process was killed; the system goes on. */
DISK void
disk_restart(void)
{
    disk_close_all();
}


/* All that is there becomes durable. */
DISK void
disk_sync_all(void)
{
    disk_node *n;
    int i;

    for (i = 0; i < disk.image.count; i++) {
        n = &disk.image.nodes[i];
        disk_pack(n);
        disk_flush(n);
        n->version_count = 0;
    }
}


/* Whether all files' bytes are durable as they are. */
DISK int
disk_is_settled(void)
{
    int i = 0;

    while (i < disk.image.count && disk.image.nodes[i].version_count == 0)
        i++;
    return i == disk.image.count;
}


DISK void
disk_format(void)
{
    disk_drop(&disk.image);
    memset(&disk, 0, sizeof disk);
    disk.image.count = 1;
    disk.image.nodes[0].folder = 1;
    disk.image.nodes[0].mode = S_IFDIR | 0755;
}


/* ---- for tests to look and to put --------------------------------------- */

/* The bytes of a file as a process sees them, or NULL. */
DISK const uint8_t *
disk_bytes(const char *path, size_t *len)
{
    static const uint8_t none[1];
    disk_node *n = disk_node_of(path);

    *len = n == NULL ? 0 : n->now_len;
    return n == NULL ? NULL : n->now_len > 0 ? n->now : none;
}


/* Makes or replaces a file's bytes, durably. */
DISK void
disk_put(const char *path, const void *data, size_t len)
{
    const char *name;
    int folder, node = disk_find(path, &folder, &name);

    if (node < 0) {
        node = disk_new_node(0, S_IFREG | 0600);
        disk_step_to(folder, name, "", node);
    }
    disk_set_len(&disk.image.nodes[node], 0);
    disk_write(&disk.image.nodes[node], data, 0, len);
    disk_sync_all();
}


/* The n-th name in a folder that begins so, or NULL. */
DISK const char *
disk_name(const char *folder, const char *begin, size_t number)
{
    const disk_node *f = disk_node_of(folder);
    size_t i, k;

    for (i = 0; f != NULL && i < f->step_count; i++) {
        const disk_step *s = &f->steps[i];
        for (k = i + 1; k < f->step_count; k++)
            if (strcmp(f->steps[k].name, s->name) == 0)
                break;
        if (k == f->step_count && strncmp(s->name, begin, strlen(begin)) == 0 &&
            disk_lookup(f, f->step_count, s->name) >= 0 && number-- == 0)
            return s->name;
    }
    return NULL;
}


static uint64_t
disk_hash_more(uint64_t h, const void *data, size_t len)
{
    const uint8_t *at = data;
    size_t i;

    h ^= len;
    for (i = 0; i < len; i++)
        h = (h ^ at[i]) * UINT64_C(0x100000001b3);
    return h ^ h >> 29;
}


static uint64_t
disk_hash_node(uint64_t h, const disk_node *n)
{
    const disk_version *v = n->versions;
    size_t i;

    h = disk_hash_more(h, n->now, n->now_len);
    for (i = 0; i < n->version_count; i++, v++) {
        h = disk_hash_more(h ^ v->sector ^ (unsigned)v->forgotten << 20,
                           v->bytes, DISK_SECTOR);
        h ^= v->size;
    }
    if (n->version_count > 0)
        h = disk_hash_more(h, n->firm, n->firm_len);
    for (i = 0; i < n->step_count; i++) {
        h = disk_hash_more(h, n->steps[i].name, strlen(n->steps[i].name));
        h = disk_hash_more(h, n->steps[i].from, strlen(n->steps[i].from));
        h ^= (unsigned)n->steps[i].node ^
             (unsigned)n->steps[i].from_node << 12;
    }
    return h ^ n->firm_steps << 8;
}


/* Tells two disks apart, by what is seen and by what may survive. */
DISK uint64_t
disk_hash(void)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    int i;

    for (i = 0; i < disk.image.count; i++)
        if (i == 0 || disk_may_survive(&disk.image, i))
            h = disk_hash_node(h ^ (unsigned)i, &disk.image.nodes[i]);
    return h;
}


/* What was done, and what survived: for a report. */
DISK void
disk_report(FILE *out)
{
    unsigned i = disk.calls > DISK_JOURNAL ? disk.calls - DISK_JOURNAL : 0;
    size_t k;

    for (; i < disk.calls; i++)
        fprintf(out, "    %s\n", disk.journal[i % DISK_JOURNAL]);
    for (k = 0; k < disk.digit_count; k++) {
        const disk_digit *d = &disk.digits[k];
        fprintf(out, "    node %d ", d->node);
        if (d->sector == DISK_SIZE)
            fprintf(out, "size");
        else if (d->sector == DISK_NAMES)
            fprintf(out, "names");
        else
            fprintf(out, "sector %lu", (unsigned long)d->sector);
        fprintf(out, ": %u of 0..%u survived\n", d->pick, d->radix - 1);
    }
}


/* ---- the calls ---------------------------------------------------------- */

/* Begins a call: 0, or the errno that it fails with at once. */
static int
disk_enter(disk_kind kind, const char *what, size_t offset, size_t len)
{
    char *line = disk.journal[disk.calls % DISK_JOURNAL];
    const char *name = strrchr(what, '/');

    disk.now = DISK_FINE;
    if (disk.off)
        return EIO;
    disk.kinds[disk.calls % DISK_JOURNAL] = kind;
    disk.calls++;
    if (disk.at > 0 && disk.calls >= disk.at &&
        disk.calls < disk.at + (disk.hits > 0 ? disk.hits : 1))
        disk.now = disk.fault;
    (void)snprintf(line, sizeof disk.journal[0], "%u %s %.30s %lu+%lu%s",
                   disk.calls, disk_kinds[kind],
                   name != NULL ? name + 1 : what, (unsigned long)offset,
                   (unsigned long)len, disk.now != DISK_FINE ? " <-" : "");
    if (disk.follow_up != 0 && (kind == DISK_READS || kind == DISK_WRITES)) {
        int error = disk.follow_up;
        disk.follow_up = 0;
        return error;
    }
    if (disk.now == DISK_ERROR)
        return disk.error;
    disk.off = disk.now == DISK_STOP_BEFORE;
    return disk.off ? EIO : 0;
}


/* Ends a call, for better or for worse. */
static int
disk_leave(int error, int result)
{
    if (disk.now == DISK_STOP_AFTER)
        disk.off = 1;
    disk.now = DISK_FINE;
    if (error == 0)
        return result;
    errno = error;
    return -1;
}


/* How much of a read or write is done. */
static size_t
disk_part(size_t offset, size_t len)
{
    size_t first = DISK_SECTOR - offset % DISK_SECTOR;

    if ((disk.now != DISK_SHORT && disk.now != DISK_SHORT_ERROR &&
         disk.now != DISK_STOP_MIDWAY) || len < 2)
        return len;
    if (disk.now == DISK_SHORT_ERROR)
        disk.follow_up = disk.error;
    switch (disk.portion) {
    case 0:
        return 1;
    case 1:
        return len / 2;
    case 2:
        return len - 1;
    default:
        return first < len ? first : len - 1;
    }
}


static disk_node *
disk_fd(int fd)
{
    int i = fd - DISK_FD;

    if (i < 0 || i >= DISK_OPEN || !disk.open[i].used)
        return NULL;
    return &disk.image.nodes[disk.open[i].node];
}


static int
disk_new_fd(int node, int flags)
{
    int i = 0;

    while (i < DISK_OPEN && disk.open[i].used)
        i++;
    if (i == DISK_OPEN)
        abort();
    memset(&disk.open[i], 0, sizeof disk.open[i]);
    disk.open[i].used = 1;
    disk.open[i].node = node;
    disk.open[i].flags = flags;
    disk.open[i].held[0] = disk.open[i].held[1] = F_UNLCK;
    disk.opened++;
    return DISK_FD + i;
}


/* Why the file cannot be opened so. */
static int
disk_open_error(int folder, int node, int flags)
{
    int writes = (flags & O_ACCMODE) != O_RDONLY;

    if (node < 0 && (folder < 0 || !(flags & O_CREAT)))
        return ENOENT;
    if (node >= 0 && (flags & O_CREAT) && (flags & O_EXCL))
        return EEXIST;
    if (node >= 0 && disk.image.nodes[node].folder && writes)
        return EISDIR;
    if (node >= 0 && !disk.image.nodes[node].folder && (flags & O_DIRECTORY))
        return ENOTDIR;
    if (writes && disk.read_only != 0)
        return disk.read_only;
    if (node < 0 && disk.denied != 0)
        return disk.denied;
    if (node < 0 && disk.no_nodes != 0)
        return disk.no_nodes;
    return disk.few > 0 && disk.opened + 1 >= disk.few ? EMFILE : 0;
}


DISK int
disk_open(const char *path, int flags, ...)
{
    const char *name;
    int folder, node, error;
    mode_t mode = 0;
    va_list args;

    va_start(args, flags);
    if (flags & O_CREAT)
        mode = (mode_t)va_arg(args, int);
    va_end(args);
    if (!disk_is_ours(path))
        return open(path, flags, mode);
    node = disk_find(path, &folder, &name);
    error = disk_enter(node < 0 && (flags & O_CREAT) ? DISK_MAKES : DISK_OPENS,
                       path, 0, 0);
    if (error == 0)
        error = disk_open_error(folder, node, flags);
    if (error == 0 && node < 0) {
        node = disk_new_node(0, S_IFREG | mode);
        disk_step_to(folder, name, "", node);
    }
    return disk_leave(error, error == 0 ? disk_new_fd(node, flags) : -1);
}


DISK int
disk_close(int fd)
{
    int error, i = fd - DISK_FD;

    if (i < 0)
        return close(fd);
    error = disk_enter(DISK_CLOSES, "", 0, 0);
    if (disk_fd(fd) == NULL)
        return disk_leave(disk.off ? EIO : EBADF, -1);
    disk.open[i].used = 0;                /* whatever it answers              */
    disk.opened--;
    return disk_leave(error, 0);
}


static void
disk_stat(const disk_node *n, struct stat *st)
{
    int node = (int)(n - disk.image.nodes);

    memset(st, 0, sizeof *st);
    st->st_dev = 4711;
    st->st_ino = (ino_t)(node + 1);
    st->st_mode = n->mode;
    st->st_uid = geteuid();
    st->st_nlink = disk_links(node);
    st->st_size = (off_t)n->now_len;
    st->st_mtim.tv_sec = n->mtime;
    st->st_ctim.tv_sec = n->ctime;
}


DISK int
disk_fstat(int fd, struct stat *st)
{
    disk_node *n = disk_fd(fd);
    int error;

    if (fd < DISK_FD)
        return fstat(fd, st);
    error = disk_enter(DISK_LOOKS, "", 0, 0);
    if (error == 0 && n == NULL)
        error = EBADF;
    if (error == 0)
        disk_stat(n, st);
    return disk_leave(error, 0);
}


DISK int
disk_lstat(const char *path, struct stat *st)
{
    int error;

    if (!disk_is_ours(path))
        return lstat(path, st);
    error = disk_enter(DISK_LOOKS, path, 0, 0);
    if (error == 0 && disk_node_of(path) == NULL)
        error = ENOENT;
    if (error == 0)
        disk_stat(disk_node_of(path), st);
    return disk_leave(error, 0);
}


#if defined(STATX_ATTR_MOUNT_ROOT)        /* a libc may know no such thing    */

#define DISK_MOUNTS 1


/* Whether it is a mount point, and no more. */
DISK int
disk_statx(int dir, const char *path, int flags, unsigned mask,
           struct statx *out)
{
    int error;

    if (!disk_is_ours(path))
        return statx(dir, path, flags, mask, out);
    error = disk_enter(DISK_ASKS, path, 0, 0);
    memset(out, 0, sizeof *out);
    out->stx_attributes = disk.mounted ? STATX_ATTR_MOUNT_ROOT : 0;
    return disk_leave(error, 0);
}

#define statx(d, p, f, m, x)  disk_statx(d, p, f, m, x)

#else
#define DISK_MOUNTS 0
#endif


DISK ssize_t
disk_pread(int fd, void *out, size_t len, off_t offset)
{
    disk_node *n = disk_fd(fd);
    size_t at = (size_t)offset;
    int error;

    if (fd < DISK_FD)
        return pread(fd, out, len, offset);
    error = disk_enter(DISK_READS, "", at, len);
    if (error == 0 && n == NULL)
        error = EBADF;
    if (error == 0) {
        len = at >= n->now_len ? 0 : len < n->now_len - at ? len
                                                           : n->now_len - at;
        len = disk_part(at, len);
        if (len > 0)
            memcpy(out, n->now + at, len);
    }
    return disk_leave(error, (int)len);
}


/* On a full disk a write fills the sectors that the file has, and fails where
 * it needs another. */
static int
disk_fit(const disk_node *n, size_t at, size_t *len)
{
    size_t room = disk_sectors(n->now_len) * DISK_SECTOR;

    if (disk.no_room != 0 || disk.full == 0 || at + *len <= room)
        return disk.no_room;
    if (at >= room)
        return disk.full;
    *len = room - at;
    return 0;
}


DISK ssize_t
disk_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    disk_node *n = disk_fd(fd);
    size_t at = (size_t)offset;
    int error;

    if (fd < DISK_FD)
        return pwrite(fd, data, len, offset);
    error = disk_enter(DISK_WRITES, "", at, len);
    if (error == 0 && (n == NULL || !(disk.open[fd - DISK_FD].flags & O_RDWR)))
        error = EBADF;
    if (error == 0)
        error = disk.read_only;
    if (error == 0)
        error = disk_fit(n, at, &len);
    if (error == 0 && disk.now == DISK_STOP_MIDWAY && at + len <= n->now_len &&
        at / DISK_SECTOR == (at + len - 1) / DISK_SECTOR)
        len = 0;
    if (error == 0) {
        len = disk_part(at, len);
        disk_write(n, data, at, len);
    }
    if (error == 0 && disk.now == DISK_STOP_MIDWAY) {
        disk.off = 1;
        error = EIO;
    }
    return disk_leave(error, (int)len);
}


DISK int
disk_fdatasync(int fd)
{
    disk_node *n = disk_fd(fd);
    int error;

    if (fd < DISK_FD)
        return fdatasync(fd);
    error = disk_enter(DISK_SYNCS, "", 0, 0);
    if (error == 0)
        error = n == NULL ? EBADF : disk.no_sync;
    if (error == 0 && disk.now == DISK_FORGET) {
        disk_forget(n);
        error = disk.error;
    }
    if (error == 0)
        disk_flush(n);
    return disk_leave(error, 0);
}


DISK int
disk_fsync(int fd)
{
    disk_node *n = disk_fd(fd);
    int error;

    if (fd < DISK_FD)
        return fsync(fd);
    error = disk_enter(DISK_SYNCS_FOLDER, "", 0, 0);
    if (error == 0)
        error = n == NULL || !n->folder ? EBADF : disk.no_sync;
    if (error == 0)
        disk_pack(n);
    return disk_leave(error, 0);
}


DISK int
disk_ftruncate(int fd, off_t len)
{
    disk_node *n = disk_fd(fd);
    int error;

    if (fd < DISK_FD)
        return ftruncate(fd, len);
    error = disk_enter(DISK_CUTS, "", 0, (size_t)len);
    if (error == 0)
        error = n == NULL ? EBADF
              : disk.read_only != 0 ? disk.read_only : disk.no_cut;
    if (error == 0)
        disk_set_len(n, (size_t)len);
    return disk_leave(error, 0);
}


/* Why a name cannot be changed. */
static int
disk_names_error(void)
{
    return disk.read_only != 0 ? disk.read_only : disk.denied;
}


DISK int
disk_faccessat(int dir, const char *path, int mode, int flags)
{
    int error;

    if (!disk_is_ours(path))
        return faccessat(dir, path, mode, flags);
    error = disk_enter(DISK_ASKS, path, 0, 0);
    return disk_leave(error != 0 ? error : disk_names_error(), 0);
}


/* From one name to another; both in one folder. `how` as renameat2 has it, and
 * `link` leaves the old name. */
static int
disk_move(disk_kind kind, const char *from, const char *to, unsigned how)
{
    const char *old_name, *new_name;
    int old_folder, new_folder, node, other;
    int error = disk_enter(kind, to, 0, how);

    node = disk_find(from, &old_folder, &old_name);
    other = disk_find(to, &new_folder, &new_name);
    if (error == 0 && (node < 0 || old_folder != new_folder))
        error = ENOENT;
    if (error == 0)
        error = disk_names_error();
    if (error == 0 && how != 0)
        error = kind == DISK_LINKS ? disk.no_link : disk.no_exchange;
    if (error == 0 && how == RENAME_NOREPLACE && other >= 0)
        error = EEXIST;
    if (error == 0 && how == RENAME_EXCHANGE && other < 0)
        error = ENOENT;
    if (error == 0) {
        disk_step_to(new_folder, new_name, kind == DISK_LINKS ? "" : old_name,
                     node);
        disk_touch(other);
        if (how == RENAME_EXCHANGE)
            disk.image.nodes[new_folder].steps[
                disk.image.nodes[new_folder].step_count - 1].from_node = other;
    }
    return disk_leave(error, 0);
}


DISK int
disk_rename(const char *from, const char *to)
{
    return disk_is_ours(from) ? disk_move(DISK_RENAMES, from, to, 0)
                              : rename(from, to);
}


DISK int
disk_renameat2(int a, const char *from, int b, const char *to, unsigned how)
{
    return disk_is_ours(from)
         ? disk_move(how == RENAME_EXCHANGE ? DISK_EXCHANGES : DISK_RENAMES,
                     from, to, how)
         : renameat2(a, from, b, to, how);
}


DISK int
disk_link(const char *from, const char *to)
{
    return disk_is_ours(from)
         ? disk_move(DISK_LINKS, from, to, RENAME_NOREPLACE) : link(from, to);
}


DISK int
disk_unlink(const char *path)
{
    const char *name;
    int folder, node, error;

    if (!disk_is_ours(path))
        return unlink(path);
    error = disk_enter(DISK_REMOVES, path, 0, 0);
    node = disk_find(path, &folder, &name);
    if (error == 0 && node < 0)
        error = ENOENT;
    if (error == 0 && disk.image.nodes[node].folder)
        error = EISDIR;
    if (error == 0)
        error = disk_names_error();
    if (error == 0) {
        disk_step_to(folder, name, "", -1);
        disk_touch(node);
    }
    return disk_leave(error, 0);
}


DISK int
disk_mkdir(const char *path, mode_t mode)
{
    const char *name;
    int folder, node, error;

    if (!disk_is_ours(path))
        return mkdir(path, mode);
    error = disk_enter(DISK_MAKES_FOLDER, path, 0, 0);
    node = disk_find(path, &folder, &name);
    if (error == 0 && node >= 0)
        error = EEXIST;
    else if (error == 0 && folder < 0)
        error = ENOENT;
    else if (error == 0)
        error = disk_names_error() != 0 ? disk_names_error() : disk.no_nodes;
    if (error == 0) {
        node = disk_new_node(1, S_IFDIR | mode);
        disk_step_to(folder, name, "", node);
    }
    return disk_leave(error, 0);
}


/* Whether another open file holds byte `slot` of the node in a way that `type`
 * cannot be beside. */
static int
disk_is_held(int fd, int slot, short type)
{
    int i, self = fd - DISK_FD;

    for (i = 0; i < DISK_OPEN; i++)
        if (i != self && disk.open[i].used &&
            disk.open[i].node == disk.open[self].node &&
            disk.open[i].held[slot] != F_UNLCK &&
            (type == F_WRLCK || disk.open[i].held[slot] == F_WRLCK))
            return 1;
    return 0;
}


/* Locks that belong to the open file (F_OFD_SETLK and F_OFD_GETLK). Letting go
 * of one does not fail: no local file system's does. */
DISK int
disk_fcntl(int fd, int call, struct flock *range)
{
    int error, slot = (int)range->l_start;
    disk_fault fault = disk.fault;
    disk_kind kind = call == F_OFD_GETLK ? DISK_ASKS
                   : range->l_type == F_UNLCK ? DISK_UNLOCKS : DISK_LOCKS;

    if (fd < DISK_FD)
        return fcntl(fd, call, range);
    if (fault == DISK_ERROR && (kind == DISK_UNLOCKS || disk.spares_locks))
        disk.fault = DISK_FINE;
    error = disk_enter(kind, "", (size_t)slot, (size_t)range->l_type);
    disk.fault = fault;
    if (error == 0 && (disk_fd(fd) == NULL || slot < 0 || slot > 1))
        error = EBADF;
    if (error == 0 && call == F_OFD_GETLK) {
        if (!disk_is_held(fd, slot, range->l_type))
            range->l_type = F_UNLCK;
    } else if (error == 0 && disk_is_held(fd, slot, range->l_type)) {
        if (range->l_type != F_UNLCK)
            error = EAGAIN;
    }
    if (error == 0 && call == F_OFD_SETLK)
        disk.open[fd - DISK_FD].held[slot] = range->l_type;
    return disk_leave(error, 0);
}


DISK void *
disk_pages(size_t len)
{
    void *at = calloc(1, len);

    return at != NULL ? at : MAP_FAILED;
}


/* From here on these names mean the disk. */
#define open(...)             disk_open(__VA_ARGS__)
#define close(fd)             disk_close(fd)
#define fstat(fd, st)         disk_fstat(fd, st)
#define lstat(path, st)       disk_lstat(path, st)
#define faccessat(d, p, m, f) disk_faccessat(d, p, m, f)
#define pread(fd, p, n, at)   disk_pread(fd, p, n, at)
#define pwrite(fd, p, n, at)  disk_pwrite(fd, p, n, at)
#define fdatasync(fd)         disk_fdatasync(fd)
#define fsync(fd)             disk_fsync(fd)
#define ftruncate(fd, n)      disk_ftruncate(fd, n)
#define rename(from, to)      disk_rename(from, to)
#define renameat2(a, f, b, t, how) disk_renameat2(a, f, b, t, how)
#define link(from, to)        disk_link(from, to)
#define unlink(path)          disk_unlink(path)
#define mkdir(path, mode)     disk_mkdir(path, mode)
#define fcntl(...)            disk_fcntl(__VA_ARGS__)

/* The creds' pages come from malloc here: a test that opens a keyring a hundred
 * thousand times would spend most of its time on them, and so a sanitizer sees
 * to them, too. */
#define mmap(at, len, prot, flags, fd, offset) disk_pages(len)
#define munmap(at, len)       ((void)(len), free(at))
#define mlock(at, len)        ((void)(len), 0)
#define madvise(at, len, how) ((void)(len), 0)

#endif /* KAWS_DISK_H */
