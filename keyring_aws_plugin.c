/* keyring_aws_plugin.c - MySQL's keyring_aws plugin, open - BSD-2-Clause
 *
 * Protects a MySQL server's keys with AWS KMS: InnoDB's master keys, the binary
 * log's keys, and the keys that keyring_udf stores. One binary serves MySQL
 * 5.7, 8.0, 8.4 and 9.x, and does what MySQL's manual says of keyring_aws.
 *
 * COMPILE    keyring_aws.h lies beside this file; no MySQL headers are needed.
 *
 *     cc -O2 -shared -fPIC -o keyring_aws.so keyring_aws_plugin.c \
 *        -lbearssl -lcurl
 *
 * LOAD       Copy keyring_aws.so into the server's plugin_dir. Put the access
 *            key id on line 1 and the secret access key on line 2 of
 *            /var/lib/mysql-keyring/keyring_aws_conf (owner mysql, mode 0600).
 *
 *     [mysqld]
 *     early-plugin-load  = keyring_aws.so
 *     keyring_aws_cmk_id = alias/mysql
 *     keyring_aws_region = eu-west-1
 *
 *            After the first start, which makes the data file, add the line
 *            keyring_aws_create = OFF: from then on a missing file is refused.
 *
 * ROTATE     Run the first two statements once, and the last one whenever the
 *            KMS key is to be rotated.
 *
 *     CREATE FUNCTION keyring_aws_rotate_cmk
 *         RETURNS INTEGER SONAME 'keyring_aws.so';
 *     CREATE FUNCTION keyring_aws_rotate_keys
 *         RETURNS INTEGER SONAME 'keyring_aws.so';
 *     SELECT keyring_aws_rotate_cmk(), keyring_aws_rotate_keys();
 *
 * CONTENTS   lobby       what is included, and how symbols are exported
 *            abi         the part of MySQL's binary interface that we use
 *            lines       every line for the log, and how repeats are thinned
 *            guard       the open keyring, who uses it, what SET GLOBAL wants
 *            server      the host: services, log, errors, who is calling
 *            status      the status variables: a table, a row each
 *            settings    the system variables: a table, a row each
 *            keyring     what the server calls: store, fetch, ...
 *            functions   the SQL functions: a table, a row each
 *            life        start, end, and which server this is
 *
 * Rooms call only rooms above them. KMS, the data file and credentials are the
 * library's, in keyring_aws.h; this file makes a MySQL plugin of it. The room
 * guard does not know its server: it calls its host through four functions. So
 * a second entry point (a keyring component) could have its own guard in this
 * file.
 */


/* ==========================================================================
 * ROOM  lobby       what is included, and how symbols are exported
 * ==========================================================================
 * Uses: nothing
 * Gives: PLUG__EXPORT PLUG__CONSTRUCTOR PLUG__FORMAT PLUG__STORE PLUG__LOAD
 *
 * The library is compiled in, and all of it is static: this file exports only
 * the symbols that the server looks up, with or without -fvisibility=hidden.
 */

#define KEYRING_AWS_STATIC
#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PLUG__EXPORT        __attribute__((visibility("default")))
#define PLUG__CONSTRUCTOR   __attribute__((constructor))
#define PLUG__FORMAT(f, a)  __attribute__((format(printf, f, a)))

/* Two threads may access these values without a common lock: the server reads
 * a status variable while we write it. No thread may see half a value. */
#define PLUG__STORE(at, value)  __atomic_store_n(at, value, __ATOMIC_RELAXED)
#define PLUG__LOAD(at)          __atomic_load_n(at, __ATOMIC_RELAXED)


/* ==========================================================================
 * ROOM  abi         the part of MySQL's binary interface that we use
 * ==========================================================================
 * Uses: nothing
 * Gives: abi_log abi_malloc abi_alloc abi_parser abi_security | abi_var
 *        abi_show | abi_keyring abi_plugins | abi_udf
 *
 * The interface is the same from 5.7 to 9.x with one exception: 8.0 inserted
 * check_uninstall into the middle of a plugin's description. So there are two
 * descriptions, and room life chooses one. THD and the other C++ objects are
 * opaque pointers here. Members that we do not use are called skipped.
 */

enum {
    PLUG__ABI_INTERFACE   = 0x0100,     /* no server has this version, so each
                                         * copies our description by its size */
    PLUG__ABI_KEYRING     = 10,         /* plugin type                       */
    PLUG__ABI_KEYRING_API = 0x0101,
    PLUG__ABI_LICENCE_BSD = 2,
    PLUG__ABI_ALLOW_EARLY = 4,          /* 8.0+ needs it for an early load   */
    PLUG__ABI_MY_WME      = 16,         /* my_malloc: report it when it fails */
    PLUG__ABI_ERRMSG_SIZE = 512         /* bytes of a client's error message */
};

/* ---- services: pointers that the server sets when it loads a plugin ------ */

typedef struct plug__abi_log {
    int (*message)(void **plugin, int level, const char *format, ...);
} plug__abi_log;

typedef struct plug__abi_malloc {
    void  (*skipped[3])(void);
    void  (*my_free)(void *at);
    void *(*my_memdup)(unsigned memory_key, const void *from, size_t len,
                       int flags);
    char *(*my_strdup)(unsigned memory_key, const char *from, int flags);
} plug__abi_malloc;

typedef struct plug__abi_alloc {
    void  (*skipped[3])(void);
    char *(*thd_strmake)(void *thd, const char *text, size_t len);
} plug__abi_alloc;

typedef struct plug__abi_text {
    const char *at;
    size_t      len;
} plug__abi_text;

typedef struct plug__abi_parser {
    void *(*current_session)(void);
    void  (*skipped[12])(void);
    plug__abi_text (*get_query)(void *thd);
} plug__abi_parser;

typedef struct plug__abi_security {
    char (*get_context)(void *thd, void **context);      /* 0 is ok          */
    void (*skipped[5])(void);
    char (*get_option)(void *context, const char *name, void *value);
} plug__abi_security;

/* ---- system and status variables ----------------------------------------- */

enum {
    PLUG__ABI_BOOL      = 0x0001,
    PLUG__ABI_INT       = 0x0002,
    PLUG__ABI_STR       = 0x0005,
    PLUG__ABI_READONLY  = 0x0200,
    PLUG__ABI_NODEFAULT = 0x4000,       /* SET ... = DEFAULT is refused      */
    PLUG__ABI_MEMALLOC  = 0x8000,       /* the server owns the string        */
    PLUG__ABI_NOPERSIST = 0x10000,      /* no SET PERSIST_ONLY; not in 5.7   */
    PLUG__ABI_INVISIBLE = 0x40000,      /* unknown to 5.7, which ignores it  */

    PLUG__ABI_SHOW_LONGLONG = 4,     /* from 5 on, servers number differently */
    PLUG__ABI_SHOW_GLOBAL   = 1
};

typedef struct plug__abi_value plug__abi_value;

struct plug__abi_value {
    int         (*value_type)(plug__abi_value *value);
    const char *(*val_str)(plug__abi_value *value, char *buf, int *len);
};

typedef union plug__abi_default {
    const char *text;
    int         number[4];              /* default, least, most, step        */
    char        flag;
} plug__abi_default;

typedef struct plug__abi_var plug__abi_var;

struct plug__abi_var {                  /* the server writes into it         */
    int               flags;
    const char       *name, *comment;
    int             (*check)(void *thd, plug__abi_var *var, void *save,
                             plug__abi_value *value);    /* NULL: server's   */
    void            (*update)(void *thd, plug__abi_var *var, void *at,
                              const void *save);
    void             *at;               /* of the value                      */
    plug__abi_default def;
};

typedef struct plug__abi_show {
    const char *name;
    char       *value;
    int         type, scope;
} plug__abi_show;

/* ---- the keyring, and the plugin that has it ----------------------------- */

typedef struct plug__abi_keyring {
    int    version;
    bool (*store)(const char *key_id, const char *type, const char *user_id,
                  const void *key, size_t len);
    bool (*fetch)(const char *key_id, char **type, const char *user_id,
                  void **key, size_t *len);
    bool (*remove)(const char *key_id, const char *user_id);
    bool (*generate)(const char *key_id, const char *type, const char *user_id,
                     size_t len);
    void (*walk_begin)(void **walk);
    void (*walk_end)(void *walk);
    bool (*walk_next)(void *walk, char *key_id, char *user_id);
} plug__abi_keyring;

typedef struct plug__abi_head {         /* what a description begins with    */
    int             type;
    void           *info;
    const char     *name, *author, *descr;
    int             license;
    int           (*init)(void *plugin);
} plug__abi_head;

typedef struct plug__abi_tail {
    int           (*deinit)(void *plugin);
    unsigned        version;
    plug__abi_show *status_vars;
    plug__abi_var **system_vars;
    void           *reserved;
    unsigned long   flags;
} plug__abi_tail;

typedef union plug__abi_plugins {       /* the second element ends the list  */
    struct {
        plug__abi_head  head;
        plug__abi_tail  tail;
    } v57[2];
    struct {
        plug__abi_head  head;
        int           (*check_uninstall)(void *plugin);
        plug__abi_tail  tail;
    } v80[2];
} plug__abi_plugins;

/* ---- loadable functions -------------------------------------------------- */

typedef struct plug__abi_udf {
    bool          maybe_null;
    unsigned      decimals;
    unsigned long max_length;
    char         *ptr;
    bool          const_item;
    void         *extension;
} plug__abi_udf;

typedef struct plug__abi_udf_args {
    unsigned count;                     /* and more that we do not use       */
} plug__abi_udf_args;


/* ==========================================================================
 * ROOM  lines       every line for the log, and how repeats are thinned
 * ==========================================================================
 * Uses: nothing
 * Gives: lines | lines_now_ms lines_log lines_say lines_well
 *
 * Each line that the plugin itself can log is a row of the table below. (Those
 * of the library are in its room err.) All lines, the library's too, go through
 * lines_log.
 *
 * An outage or a missing permission in IAM can make thousands of equal lines.
 * So an error or a warning is logged the first time, and then at most once a
 * minute, with a count of those that were left out. Two lines are equal if they
 * are about the same thing (the same key, say) and their texts differ in
 * request ids and measured times only: a line with a different key or cause
 * differs. When a thing that failed works again, its lines are forgotten,
 * because the next failure is news. A count that is still due is logged in
 * three cases: a line of any kind is logged after the minute, its own line is
 * forgotten, or the plugin ends. Notes are never left out, because the last one
 * has to show how the file is now.
 */

enum { PLUG__ERROR, PLUG__WARNING, PLUG__NOTE,    /* levels of a log line    */
       PLUG__ONCE = 4 };                /* log one line about a thing only   */

/* Ends each line that an administrator may read because the server did not
 * start. InnoDB's own lines then give advice that loses rows. */
#define PLUG__AGAIN                                                            \
    "start the server again: that loses nothing. Do not set"                   \
    " innodb_force_recovery, and remove no log files: that loses rows"

/* name, number, level, format. A number is given once: it never changes its
 * meaning, and is not used again if its line goes. The library has 101 to 299.
 * README.md explains every error and warning. */
#define PLUG__LOG_NO_HOST       301, PLUG__ERROR, "cannot start: this program" \
    " does not look like MySQL 5.7, 8.0 or newer: load the plugin into one of" \
    " these"
#define PLUG__LOG_NO_START      302, PLUG__ERROR, "cannot start: %s. The"      \
    " server has no keyring: correct that, and %s"
#define PLUG__LOG_NO_KMS_KEY    303, PLUG__WARNING, "keyring_aws_cmk_id has to"\
    " be set: until then keys can only be fetched. Set it in my.cnf (a value"  \
    " of SET PERSIST is applied later in the start)"
#define PLUG__LOG_WAITS         304, PLUG__WARNING, "the server is starting,"  \
    " and waits for KMS for up to %d s (keyring_aws_start_seconds): %s"
#define PLUG__LOG_WITHOUT_KMS   305, PLUG__WARNING, "starting without KMS: %s;"\
    " if the server does not start, or tables stay closed, bring KMS back, and"\
    " " PLUG__AGAIN
#define PLUG__LOG_SET           306, PLUG__NOTE, "keyring_aws_%s is '%s' now," \
    " and was '%s'%s"
#define PLUG__LOG_UNCHANGED     307, PLUG__ERROR, "keyring_aws_%s is"          \
    " unchanged, because '%s' was refused: %s"
#define PLUG__LOG_FAILED        308, PLUG__ERROR, "cannot %s key '%s%s%s%s:"   \
    " %s"
#define PLUG__LOG_NAME          309, PLUG__WARNING, "cannot %s key '%s%s%s%s:" \
    " %s"
#define PLUG__LOG_FETCH         310, PLUG__ERROR | PLUG__ONCE, "if the server" \
    " does not start without this key, bring KMS back, or correct the cause"   \
    " that the line above names, and " PLUG__AGAIN
#define PLUG__LOG_MISSING       311, PLUG__ERROR | PLUG__ONCE, "the server"    \
    " asked for the key '%s', and the data file %s does not have it (%s): is"  \
    " the file an older copy, or another server's? Until the right file is"    \
    " back, encrypt nothing and do not rotate the master key. Put it back,"    \
    " keep this one, and " PLUG__AGAIN
#define PLUG__LOG_MADE_AGAIN    312, PLUG__ERROR, "the key '%s' was missing,"  \
    " and the server has made a new one of that name: what was encrypted with" \
    " the missing one needs the data file that has it, and what is encrypted"  \
    " from now on needs %s. Keep both files"
#define PLUG__LOG_LEFT_OUT      313, PLUG__ERROR, "key '%s' of '%s' is left"   \
    " out of the list: this server takes user ids of at most %d bytes here"
#define PLUG__LOG_NO_LIST       314, PLUG__ERROR, "cannot list the keys: %s"
#define PLUG__LOG_FUNCTION      315, PLUG__ERROR, "%s() failed: %s"
#define PLUG__LOG_START_TIME    316, PLUG__WARNING, "keyring_aws_timeout is"   \
    " %d ms, more than keyring_aws_start_seconds, %d: a starting server may"   \
    " wait for KMS longer than these seconds"
#define PLUG__LOG_BACK          322, PLUG__WARNING, "KMS answers again; while" \
    " it did not, the server asked in vain for the key of %s%s%s"

enum {
    PLUG__LINE      = 1280,             /* bytes of a log line, with its NUL */
    PLUG__ABOUT     = 528,              /* of what it is about, with NUL     */
    PLUG__SHOWN     = 256,              /* of a name in it, with NUL         */
    PLUG__KEPT      = 32,               /* lines; more push out the oldest   */
    PLUG__QUIET_MS  = 60 * 1000
};

typedef struct plug__lines_kept {
    int      level;
    unsigned more;                      /* how often it was left out         */
    int64_t  said_ms;                   /* 0: no line is kept here           */
    char     about[PLUG__ABOUT], line[PLUG__LINE];
} plug__lines_kept;

typedef struct plug__lines {
    void           (*write)(int level, const char *line);   /* to the host  */
    pthread_mutex_t  lock;              /* for all below                     */
    int              used;              /* also read without the lock        */
    plug__lines_kept *kept;             /* PLUG__KEPT of them, apart, so that
                                         * keyring_aws.so stores no zeros    */
} plug__lines;


/* Milliseconds of a clock that nobody sets; never 0. */
static int64_t
plug__lines_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + 1;
}


/* How many bytes at `at` may differ between two equal lines: a request id, a
 * time as AWS writes it, or a number that was measured, such as libcurl's
 * "after 1001 ms". A setting in milliseconds counts as a difference. The line
 * begins with its tag, so it has bytes before `at`. */
static size_t
plug__lines_varies(const char *at)
{
    static const char id[] = "request id ";
    static const char *const units[] = { " s", " seconds", " bytes",
                                         " attempts" };
    const size_t n = strspn(at, "0123456789");

    if (strncmp(at, id, sizeof id - 1) == 0)
        return strcspn(at, "),;");
    if (n == 8 && at[8] == 'T' && strspn(at + 9, "0123456789") == 6)
        return 15;
    if (n > 0 && strncmp(at - 6, "after ", 6) == 0)
        return n;
    for (size_t i = 0; n > 0 && i < sizeof units / sizeof *units; i++) {
        const size_t len = strlen(units[i]);
        if (strncmp(at + n, units[i], len) == 0
            && strchr(" ,;:.)", at[n + len]) != NULL)
            return n;
    }
    return 0;
}


static bool
plug__lines_alike(const char *a, const char *b)
{
    for (;; a++, b++) {
        a += plug__lines_varies(a);
        b += plug__lines_varies(b);
        if (*a != *b || *a == '\0')
            return *a == *b;
    }
}


/* Writes the line, with the count of those that were left out since. */
static void
plug__lines_write(plug__lines *l, plug__lines_kept *at, int64_t now)
{
    char text[PLUG__LINE + 64];

    snprintf(text, sizeof text, at->more == 0 ? "%s"
             : "%s (this happened %u more time%s in the last %lld s)", at->line,
             at->more, at->more == 1 ? "" : "s",
             (long long)((now - at->said_ms) / 1000));
    at->said_ms = now;
    at->more    = 0;
    l->write(at->level & ~PLUG__ONCE, text);
}


/* With the lock held: logs a count that is due, and forgets the line. */
static void
plug__lines_forget(plug__lines *l, plug__lines_kept *at, int64_t now)
{
    if (at->more > 0)
        plug__lines_write(l, at, now);
    at->said_ms = 0;
    PLUG__STORE(&l->used, l->used - 1);
}


/* With the lock held: returns the place of an equal line, or else a place for a
 * new one. A line of PLUG__ONCE is pushed out last, because it must not be
 * logged again. */
static plug__lines_kept *
plug__lines_find(plug__lines *l, const char *about, int level,
                 const char *line, int64_t now)
{
    plug__lines_kept *oldest = l->kept;
    const size_t tag = strcspn(line, " ");
    int64_t first = INT64_MAX, rank;

    for (plug__lines_kept *at = l->kept; at < l->kept + PLUG__KEPT; at++) {
        if (at->said_ms != 0 && strcmp(at->about, about) == 0
            && strncmp(at->line, line, tag) == 0
            && ((level & PLUG__ONCE) || plug__lines_alike(at->line, line)))
            return at;
        rank = at->said_ms == 0 || !(at->level & PLUG__ONCE) ? at->said_ms
             : INT64_MAX / 2 + at->said_ms;
        if (rank < first) {
            first  = rank;
            oldest = at;
        }
    }
    if (oldest->said_ms != 0)
        plug__lines_forget(l, oldest, now);
    return oldest;
}


/* Logs a line, which begins with its tag; or only counts it. `about` names the
 * thing that may work again; "": there is none. */
static void
plug__lines_log(plug__lines *l, const char *about, int level, const char *line)
{
    const int64_t now = plug__lines_now_ms();
    plug__lines_kept *at;

    pthread_mutex_lock(&l->lock);
    for (at = l->kept; at < l->kept + PLUG__KEPT; at++) {
        if (at->more > 0 && now - at->said_ms >= PLUG__QUIET_MS
            && !(at->level & PLUG__ONCE) && !plug__lines_alike(at->line, line))
            plug__lines_write(l, at, now);
    }
    if (level == PLUG__NOTE) {
        l->write(level, line);
    } else {
        at = plug__lines_find(l, about, level, line, now);
        if (at->said_ms != 0 && ((level & PLUG__ONCE)
                                 || now - at->said_ms < PLUG__QUIET_MS)) {
            at->more++;
        } else {
            if (at->said_ms == 0)
                PLUG__STORE(&l->used, l->used + 1);
            at->level = level;
            snprintf(at->about, sizeof at->about, "%s", about);
            snprintf(at->line, sizeof at->line, "%s", line);
            plug__lines_write(l, at, now);
        }
    }
    pthread_mutex_unlock(&l->lock);
}


/* Logs a row of the table: plug__lines_say(l, about, PLUG__LOG_SET, ...). Every
 * name in it must have passed kaws_show(), here or in the library, so that the
 * line stays one line whatever the name contains. */
PLUG__FORMAT(5, 6)
static void
plug__lines_say(plug__lines *l, const char *about, int number, int level,
                const char *format, ...)
{
    char      line[PLUG__LINE];
    const int tag = snprintf(line, sizeof line, "[KAWS-%d] ", number);
    va_list   args;

    va_start(args, format);
    if (vsnprintf(line + tag, sizeof line - (size_t)tag, format, args) < 0)
        line[tag] = '\0';
    va_end(args);
    plug__lines_log(l, about, level, line);
}


/* Forgets the lines about a thing, because it works again; or (NULL) all lines,
 * because the plugin ends. Returns whether there were any. */
static bool
plug__lines_well(plug__lines *l, const char *about)
{
    const int64_t now = plug__lines_now_ms();
    bool were = false;

    if (PLUG__LOAD(&l->used) == 0)
        return false;
    pthread_mutex_lock(&l->lock);
    for (plug__lines_kept *at = l->kept; at < l->kept + PLUG__KEPT; at++) {
        if (at->said_ms != 0
            && (about == NULL || strcmp(at->about, about) == 0)) {
            plug__lines_forget(l, at, now);
            were = true;
        }
    }
    pthread_mutex_unlock(&l->lock);
    return were;
}


/* ==========================================================================
 * ROOM  guard       the open keyring, who uses it, what SET GLOBAL wants
 * ==========================================================================
 * Uses: lines
 * Gives: guard_host guard_config guard_values guard | guard_hear guard_raise
 *        guard_fail guard_admits | guard_merge guard_want guard_wanted |
 *        guard_open guard_publish guard_take guard_take_to_seal guard_drop |
 *        guard_try guard_refresh
 *
 * A guard keeps one ring (the library's open keyring) for one host. UNINSTALL
 * PLUGIN does not wait for an SQL function that is still running, so a ring
 * counts its users, and the last user closes it. INSTALL PLUGIN waits up to 30
 * seconds until an earlier ring is closed. If the earlier ring stays open,
 * INSTALL PLUGIN is refused, because two rings in one process would write the
 * same data file, and each would find that the other had changed the file.
 *
 * SET GLOBAL has two steps. The check has the library try the value, and may
 * wait for KMS. Trying a value changes nothing in the ring, because the
 * statement may still fail because of another variable, and must then change
 * nothing. The update makes the value count. The server holds a server-wide
 * lock during the update, so the update must not wait for the network, a file
 * or the ring. It only stores the wanted value, under a lock that is held for a
 * copy only. The next thread that seals a key makes the ring adopt the wanted
 * values. If the library tried the same values last, adopting them takes no KMS
 * call. If it did not, the thread asks KMS. Only the cache is changed by the
 * update itself, because that waits for nothing, and because an administrator
 * who turns the cache off, or sets another KMS key, wants it emptied now.
 * UNINSTALL PLUGIN empties it, too.
 *
 * The KMS key and the region are tried and adopted as a pair, because a KMS key
 * is looked up in a region and may exist in no other region.
 */

enum { PLUG__VALUE_MAX = 512 };         /* bytes of a text to SET, with NUL  */

/* All that a guard asks of its host, but for its log (see lines). */
typedef struct plug__guard_host {
    void        (*raise)(unsigned number, const char *text);    /* SQL error */
    const char *(*refusal)(void);       /* why this caller may not call SQL
                                         * functions; NULL: it may           */
    void        (*called)(void);        /* a thread calls the guard         */
    int         (*cancelled)(void *ctx);        /* 1: this thread's statement
                                         * was killed                        */
} plug__guard_host;

/* The settings that SET GLOBAL can change. */
enum {
    PLUG__CMK_ID, PLUG__REGION, PLUG__CONNECT_TIMEOUT, PLUG__TIMEOUT,
    PLUG__CACHE_SECONDS,
    PLUG__VALUES
};

typedef struct plug__guard_values {
    struct {
        char text[PLUG__VALUE_MAX];     /* "": none                          */
        int  number;
        bool has_number;
    } of[PLUG__VALUES];
} plug__guard_values;

/* All settings, as a host reads them. */
typedef struct plug__guard_config {
    kaws_config        kaws;
    int                create, start_seconds;
    plug__guard_values values;          /* those that SET GLOBAL can change  */
} plug__guard_config;

typedef struct plug__guard_ring {
    kaws              *kaws;
    char               file[PLUG__SHOWN];   /* the data file's name          */
    bool               read_only;
    int                users;           /* one of them is the guard itself   */
    bool               adopting;        /* a thread is asking KMS            */
    unsigned           asked;           /* how often KMS was asked           */
    plug__guard_values tried;           /* the values that KMS was asked for */
    kaws_error         answer;          /* of KMS; OK: the ring uses them    */
} plug__guard_ring;

typedef struct plug__guard {
    const plug__guard_host *host;
    plug__lines        lines;           /* its lock is taken after all others */
    pthread_mutex_t    lock;            /* for the ring, its users and values */
    pthread_cond_t     adopted;
    plug__guard_ring  *ring;            /* NULL: the plugin is not up        */
    int                open;            /* rings that are not closed yet     */
    pthread_mutex_t    wanted_lock;     /* innermost: held for a copy only   */
    plug__guard_values wanted;
    pthread_mutex_t    stats_lock;      /* taken before lock                 */
    kaws_stats         stats;           /* the host reads it at any time     */
} plug__guard;


/* The library's log hook. */
static void
plug__guard_hear(void *ctx, int level, const char *line)
{
    plug__guard *const g = ctx;

    plug__lines_log(&g->lines, "", level, line);
}


/* Raises an SQL error in the session that runs in this thread. */
PLUG__FORMAT(3, 4)
static void
plug__guard_raise(const plug__guard *g, unsigned number, const char *format,
                  ...)
{
    char    text[PLUG__LINE];
    va_list args;

    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) >= 0)
        g->host->raise(number, text);
    va_end(args);
}


PLUG__FORMAT(3, 4)
static kaws_status
plug__guard_fail(kaws_error *err, kaws_status status, const char *format, ...)
{
    va_list args;

    memset(err, 0, sizeof *err);
    err->status = status;
    va_start(args, format);
    if (vsnprintf(err->text, sizeof err->text, format, args) < 0)
        err->text[0] = '\0';
    va_end(args);
    return status;
}


/* Whether this caller may call SQL functions. */
static bool
plug__guard_admits(const plug__guard *g, kaws_error *err)
{
    const char *const why = g->host->refusal();

    if (why != NULL)
        plug__guard_fail(err, KAWS_DENIED, "%s", why);
    return why == NULL;
}


/* ---- what SET GLOBAL wants ----------------------------------------------- */

/* Copies each value that is there, and leaves the others in `to`. */
static void
plug__guard_merge(plug__guard_values *to, const plug__guard_values *from)
{
    for (int i = 0; i < PLUG__VALUES; i++) {
        if (from->of[i].text[0] != '\0' || from->of[i].has_number)
            to->of[i] = from->of[i];
    }
}


static plug__guard_values
plug__guard_wanted(plug__guard *g)
{
    plug__guard_values wanted;

    pthread_mutex_lock(&g->wanted_lock);
    wanted = g->wanted;
    pthread_mutex_unlock(&g->wanted_lock);
    return wanted;
}


static void
plug__guard_want(plug__guard *g, const plug__guard_values *change)
{
    pthread_mutex_lock(&g->wanted_lock);
    plug__guard_merge(&g->wanted, change);
    pthread_mutex_unlock(&g->wanted_lock);
    pthread_mutex_lock(&g->lock);
    if (change->of[PLUG__CMK_ID].text[0] != '\0'
        || change->of[PLUG__REGION].text[0] != '\0')
        kaws_use_cache(g->ring != NULL ? g->ring->kaws : NULL, 0);
    if (g->ring != NULL)
        kaws_use_cache(g->ring->kaws,
                       plug__guard_wanted(g).of[PLUG__CACHE_SECONDS].number);
    pthread_mutex_unlock(&g->lock);
}


/* ---- the ring and its users ---------------------------------------------- */

/* Releases a ring that guard_take has returned, or NULL. The last user of a
 * ring closes the ring. */
static void
plug__guard_drop(plug__guard *g, plug__guard_ring *ring)
{
    bool last;

    if (ring == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    last = --ring->users == 0;
    pthread_mutex_unlock(&g->lock);
    if (!last)
        return;
    kaws_close(ring->kaws);
    free(ring);
    __atomic_sub_fetch(&g->open, 1, __ATOMIC_RELEASE);
}


/* From now on callers take this ring; if it is NULL, they get none. Callers
 * that have already taken the earlier ring may finish with it, but no key is
 * kept for them. */
static void
plug__guard_publish(plug__guard *g, plug__guard_ring *ring)
{
    plug__guard_ring *old;

    pthread_mutex_lock(&g->lock);
    old     = g->ring;
    g->ring = ring;
    if (old != NULL)
        kaws_use_cache(old->kaws, 0);
    pthread_mutex_unlock(&g->lock);
    plug__guard_drop(g, old);
}


/* Returns the ring, and counts this caller as its user until guard_drop.
 * Returns NULL if there is no ring. Each caller makes the ring adopt the wanted
 * timeouts, because that needs no network. */
static plug__guard_ring *
plug__guard_take(plug__guard *g, kaws_error *err)
{
    plug__guard_ring  *ring;
    plug__guard_values wanted;

    g->host->called();
    pthread_mutex_lock(&g->lock);
    ring = g->ring;
    if (ring == NULL) {
        plug__guard_fail(err, KAWS_CONFIG,
                         "the plugin keyring_aws is not loaded");
    } else {
        ring->users++;
        wanted = plug__guard_wanted(g);
        kaws_use_timeouts(ring->kaws, wanted.of[PLUG__CONNECT_TIMEOUT].number,
                          wanted.of[PLUG__TIMEOUT].number);
    }
    pthread_mutex_unlock(&g->lock);
    return ring;
}


/* Opens a ring, which is not published yet; NULL on failure. The values that
 * SET GLOBAL wanted for an earlier ring are dropped. */
static plug__guard_ring *
plug__guard_open(plug__guard *g, plug__guard_config *cfg, kaws_error *err)
{
    const struct timespec pause = { 0, 20 * 1000 * 1000 };
    plug__guard_ring *const ring = calloc(1, sizeof *ring);

    for (int i = 0; i < 1500            /* up to 30 s                        */
                    && __atomic_load_n(&g->open, __ATOMIC_ACQUIRE) != 0
                    && !g->host->cancelled(NULL); i++)
        nanosleep(&pause, NULL);
    cfg->kaws.hooks.ctx = g;
    cfg->kaws.hooks.log = plug__guard_hear;
    cfg->kaws.hooks.cancelled = g->host->cancelled;
    if (__atomic_load_n(&g->open, __ATOMIC_ACQUIRE) != 0) {
        plug__guard_fail(err, KAWS_RUNNING, "an SQL function that began before"
                         " UNINSTALL PLUGIN is still changing the data file:"
                         " install the plugin again when it has ended");
    } else if (ring == NULL) {
        plug__guard_fail(err, KAWS_MEMORY, "out of memory");
    } else if (kaws_open(&ring->kaws, &cfg->kaws, err) == KAWS_OK) {
        kaws_show(ring->file, sizeof ring->file, cfg->kaws.data_file);
        ring->users     = 1;
        ring->read_only = cfg->kaws.read_only != 0;
        ring->tried     = cfg->values;
        pthread_mutex_lock(&g->wanted_lock);
        g->wanted = cfg->values;
        pthread_mutex_unlock(&g->wanted_lock);
        __atomic_add_fetch(&g->open, 1, __ATOMIC_RELAXED);
        return ring;
    }
    free(ring);
    return NULL;
}


/* ---- the KMS key and region that are wanted ------------------------------ */

/* Asks KMS whether it accepts values that a session wants to SET. If `ask` is
 * false, judges them by what is known without asking KMS. The ring does not
 * change. */
static kaws_status
plug__guard_try(plug__guard *g, const plug__guard_values *values, bool ask,
                kaws_error *err)
{
    plug__guard_ring *const ring = plug__guard_take(g, err);
    const char *const cmk_id = values->of[PLUG__CMK_ID].text;

    if (ring != NULL)
        (void)(ask ? kaws_try : kaws_could_use)(
            ring->kaws, cmk_id[0] != '\0' ? cmk_id : NULL,
            values->of[PLUG__REGION].text, err);
    plug__guard_drop(g, ring);
    return err->status;
}


/* Waits until another thread has adopted its values, or for 100 ms. */
static void
plug__guard_wait_a_little(plug__guard *g)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);      /* the condition's clock     */
    until.tv_nsec += 100 * 1000 * 1000;
    until.tv_sec  += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&g->adopted, &g->lock, &until);
}


/* Makes the ring use the KMS key and region that were last SET. Only one thread
 * at a time asks KMS. Threads that want the same values wait, and share the
 * answer. A SET that waits for KMS delays no thread here. */
static kaws_status
plug__guard_adopt(plug__guard *g, plug__guard_ring *ring, kaws_error *err)
{
    const char *cmk_id, *region;
    plug__guard_values wanted;
    unsigned asked;
    bool     killed = false;

    pthread_mutex_lock(&g->lock);
    asked = ring->asked;
    while (ring->adopting && !killed) {
        plug__guard_wait_a_little(g);
        killed = g->host->cancelled(NULL) != 0;
    }
    wanted = plug__guard_wanted(g);
    cmk_id = wanted.of[PLUG__CMK_ID].text;
    region = wanted.of[PLUG__REGION].text;
    if (killed) {
        plug__guard_fail(err, KAWS_CANCELLED, "the call was cancelled while it"
                         " waited for another thread, and nothing was changed");
    } else if (cmk_id[0] == '\0') {
        plug__guard_fail(err, KAWS_CONFIG, "keyring_aws_cmk_id has to be set");
    } else if ((ring->answer.status == KAWS_OK || ring->asked != asked)
               && strcmp(ring->tried.of[PLUG__CMK_ID].text, cmk_id) == 0
               && strcmp(ring->tried.of[PLUG__REGION].text, region) == 0) {
        *err = ring->answer;
    } else {
        ring->adopting = true;
        pthread_mutex_unlock(&g->lock);
        (void)kaws_use(ring->kaws, cmk_id, region, err);
        pthread_mutex_lock(&g->lock);
        ring->adopting = false;
        if (err->status != KAWS_CANCELLED) {    /* that is no answer of KMS  */
            ring->tried  = wanted;
            ring->answer = *err;
            ring->asked++;
        }
        pthread_cond_broadcast(&g->adopted);
    }
    pthread_mutex_unlock(&g->lock);
    return err->status;
}


/* Takes the ring, and makes it seal with the KMS key that was last SET. */
static plug__guard_ring *
plug__guard_take_to_seal(plug__guard *g, kaws_error *err)
{
    plug__guard_ring *const ring = plug__guard_take(g, err);

    if (ring == NULL || plug__guard_adopt(g, ring, err) == KAWS_OK)
        return ring;
    plug__guard_drop(g, ring);
    return NULL;
}


/* ---- status figures ------------------------------------------------------ */

/* Copies the ring's figures to where the server reads them; without a ring, all
 * are 0. The lock is held from reading the ring until all figures are stored,
 * because otherwise an older reading could overwrite a newer one. */
static void
plug__guard_refresh(plug__guard *g)
{
    kaws_stats stats = { 0 };           /* numbers, before the checksum      */
    const uint64_t *const fresh = (const void *)&stats;
    plug__guard_ring *ring;
    kaws_error        err;

    pthread_mutex_lock(&g->stats_lock);
    ring = plug__guard_take(g, &err);
    if (ring != NULL)
        kaws_get_stats(ring->kaws, &stats);
    for (size_t i = 0; i < offsetof(kaws_stats, checksum) / sizeof *fresh; i++)
        PLUG__STORE((uint64_t *)(void *)&g->stats + i, fresh[i]);
    plug__guard_drop(g, ring);
    pthread_mutex_unlock(&g->stats_lock);
}


/* ==========================================================================
 * ROOM  server      the host: services, log, errors, who is calling
 * ==========================================================================
 * Uses: abi lines guard
 * Gives: server_guard server_lines | server_has server_session
 *        server_statement | server_remember server_starting server_restores
 *        server_ending server_log | server_stopped server_replays
 *        server_killed
 *
 * A service is a symbol of this file. The symbol holds the version that this
 * file was written for, until the server loads this file as a plugin and stores
 * the address of its own table in the symbol. CREATE FUNCTION maps this file,
 * but stores nothing. So each use of a service first asks server_has().
 *
 * The log's first argument is the handle that init was given; the server frees
 * what the handle points to after deinit. SQL functions may outlive the plugin,
 * so the handle is used and removed under a lock. Without a handle, lines go to
 * stderr, which is the server's error log unless stderr was redirected.
 */

#define PLUG__SERVICE ((const void *)0x0100)

PLUG__EXPORT const plug__abi_log      *my_plugin_log_service    = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_malloc   *mysql_malloc_service     = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_alloc    *thd_alloc_service        = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_parser   *mysql_parser_service     = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_security *security_context_service = PLUG__SERVICE;

static struct {
    pthread_mutex_t lock;
    void           *handle;             /* NULL: not loaded, or not any more */
    bool            is_57;              /* room life finds out, at load      */
    bool           *started;            /* the server's own flag, or NULL    */
    pthread_t       starter;            /* the thread that called init       */
    bool            heard;              /* a connection's thread has called  */
    uint64_t        install;            /* the statement that called init, or
                                         * 0: none                           */

    /* Functions of the server, or NULL. */
    void          (*printf_error)(unsigned number, const char *format,
                                  int flags, ...);
    bool          (*access_test)(void);
    int           (*slave_thread)(const void *thd);
    int           (*thd_killed)(const void *thd);
} plug__server = { .lock = PTHREAD_MUTEX_INITIALIZER };


/* A value in the first 64 KiB is still a version number, because no table lies
 * there. */
static bool
plug__server_has(const void *service)
{
    return (uintptr_t)service > 0xffff;
}


/* This thread's session, or NULL. A connection has one session for life,
 * whichever of the server's threads it runs in (thread pools move it). */
static void *
plug__server_session(void)
{
    return plug__server_has(mysql_parser_service)
           ? mysql_parser_service->current_session() : NULL;
}


/* The statement that this session runs; of no bytes if it runs none. */
static plug__abi_text
plug__server_text(void *thd)
{
    static const plug__abi_text none = { NULL, 0 };

    return plug__server_has(mysql_parser_service)
           ? mysql_parser_service->get_query(thd) : none;
}


/* A number for the statement that this session runs; never 0. The server has no
 * such number, so it is a hash of the session and the text (FNV-1a). If the
 * session runs the same text again, the number is the same. */
static uint64_t
plug__server_statement(void *thd)
{
    const plug__abi_text text = plug__server_text(thd);
    uint64_t hash = 14695981039346656037u ^ (uintptr_t)thd;

    for (size_t i = 0; i < text.len; i++)
        hash = (hash ^ (unsigned char)text.at[i]) * 1099511628211u;
    return hash | 1;
}


static void
plug__server_remember(void *handle)
{
    void *const thd = plug__server_session();

    pthread_mutex_lock(&plug__server.lock);
    plug__server.handle = handle;
    pthread_mutex_unlock(&plug__server.lock);
    PLUG__STORE(&plug__server.starter, pthread_self());
    PLUG__STORE(&plug__server.heard, thd != NULL);
    PLUG__STORE(&plug__server.install, handle != NULL && thd != NULL
                                       ? plug__server_statement(thd) : 0);
}


/* Whether the server is still starting. A server without a flag that says so
 * counts as starting until a thread of a connection has called. */
static bool
plug__server_starting(void)
{
    return plug__server.started != NULL ? !PLUG__LOAD(plug__server.started)
                                        : !PLUG__LOAD(&plug__server.heard);
}


/* Records that a thread of a connection has called. The thread that starts the
 * server does not count, although it may have a session. */
static void
plug__server_called(void)
{
    if (plug__server.started == NULL && plug__server_starting()
        && !pthread_equal(PLUG__LOAD(&plug__server.starter), pthread_self())
        && plug__server_session() != NULL)
        PLUG__STORE(&plug__server.heard, true);
}


/* Whether the server itself sets a variable now, to a value of SET PERSIST. It
 * does so after init: in the statement INSTALL PLUGIN, or while it starts, and
 * then outside any statement (a statement at that time comes from init_file).
 * 5.7 has no SET PERSIST. */
static bool
plug__server_restores(void *thd)
{
    plug__server_called();
    return !plug__server.is_57
           && ((plug__server_starting() && plug__server_text(thd).len == 0)
               || plug__server_statement(thd)
                  == PLUG__LOAD(&plug__server.install));
}


/* Whether the server was asked to end while it starts. The server blocks these
 * signals until it is up, so until then they are pending. */
static bool
plug__server_ending(void)
{
    sigset_t pending;

    return sigpending(&pending) == 0
           && (sigismember(&pending, SIGTERM) == 1
               || sigismember(&pending, SIGQUIT) == 1);
}


static void
plug__server_log(int level, const char *line)
{
    pthread_mutex_lock(&plug__server.lock);
    if (plug__server.handle != NULL && plug__server_has(my_plugin_log_service))
        my_plugin_log_service->message(&plug__server.handle, level, "%s", line);
    else
        fprintf(stderr, "keyring_aws: %s\n", line);
    pthread_mutex_unlock(&plug__server.lock);
}


/* Raises an SQL error. A client gets only so many bytes of its text. A longer
 * text is cut in the middle, where AWS's own words are, because its end says
 * what to do. */
static void
plug__server_raise(unsigned number, const char *text)
{
    enum { TAIL = 160, HEAD = PLUG__ABI_ERRMSG_SIZE - TAIL - 4 };
    const size_t len = strlen(text);
    char fits[PLUG__ABI_ERRMSG_SIZE];

    if (len < sizeof fits)
        snprintf(fits, sizeof fits, "%s", text);
    else
        snprintf(fits, sizeof fits, "%.*s...%s", HEAD, text, text + len - TAIL);
    if (plug__server.printf_error != NULL)
        plug__server.printf_error(number, "%s", 0, fits);
}


/* Why this thread's session may not call SQL functions; NULL: it may. Without a
 * session there is no privilege. */
static const char *
plug__server_refusal(void)
{
    void *const thd = plug__server_session();
    void *context = NULL;
    char  super   = 0;

    if (!plug__server_has(mysql_parser_service))
        return "the plugin keyring_aws is not loaded";
    if (thd == NULL || !plug__server_has(security_context_service)
        || security_context_service->get_context(thd, &context) != 0
        || context == NULL
        || security_context_service->get_option(context, "privilege_super",
                                                &super) != 0
        || super == 0)
        return "it needs the SUPER privilege";
    return NULL;
}


/* Whether keyring_operations is OFF, which stops all changes of the keyring.
 * The server makes the same test before it calls a keyring. */
static bool
plug__server_stopped(void)
{
    return plug__server.access_test != NULL && plug__server.access_test();
}


/* Whether this thread applies changes of another server. */
static bool
plug__server_replays(void)
{
    void *const thd = plug__server_session();

    return thd != NULL && plug__server.slave_thread != NULL
           && plug__server.slave_thread(thd) != 0;
}


/* Whether KILL, KILL QUERY or the server's shutdown has ended this thread's
 * statement. A thread without a session has none. */
static int
plug__server_killed(void *ctx)
{
    void *const thd = plug__server_session();

    (void)ctx;
    return thd != NULL && plug__server.thd_killed != NULL
           && plug__server.thd_killed(thd) != 0;
}


static const plug__guard_host plug__server_host = {
    plug__server_raise, plug__server_refusal, plug__server_called,
    plug__server_killed
};

static plug__lines_kept plug__server_kept[PLUG__KEPT];

static plug__guard plug__server_guard = {
    .host = &plug__server_host,
    .lines = { plug__server_log, PTHREAD_MUTEX_INITIALIZER, 0,
               plug__server_kept },
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .adopted = PTHREAD_COND_INITIALIZER,
    .wanted_lock = PTHREAD_MUTEX_INITIALIZER,
    .stats_lock = PTHREAD_MUTEX_INITIALIZER
};

static plug__lines *const plug__server_lines = &plug__server_guard.lines;


/* ==========================================================================
 * ROOM  status      the status variables: a table, a row each
 * ==========================================================================
 * Uses: abi guard server
 * Gives: status_table | status_ticker status_tick status_untick
 *
 * SHOW_FUNC would compute a figure when it is asked for, but its number differs
 * between MySQL 5.7, Percona's 5.7 and 8.0; SHOW_LONGLONG has the same number
 * in all of them. So the server reads the guard's figures straight out of
 * memory, at any time and without a lock. They are refreshed after each
 * operation. While an SQL function runs, a thread refreshes them every 10 ms,
 * so that a long rotation shows its progress. The thread ends with the
 * function. An idle plugin has no thread and does nothing.
 */

#define ROW(name, figure)                                                      \
    { "Keyring_aws_" name, (char *)&plug__server_guard.stats.figure,           \
      PLUG__ABI_SHOW_LONGLONG, PLUG__ABI_SHOW_GLOBAL }

static plug__abi_show plug__status_table[] = {
    ROW("keys",         keys),
    ROW("kms_requests", kms_requests),
    ROW("kms_errors",   kms_errors),
    ROW("kms_retries",  kms_retries),
    ROW("kms_time",     kms_time_us),
    ROW("cache_hits",   cache_hits),
    ROW("rewrap_done",  rewrap_done),
    ROW("rewrap_total", rewrap_total),
    { NULL, NULL, 0, 0 }
};

#undef ROW

typedef struct plug__status_ticker {
    plug__guard *guard;
    pthread_t    thread;
    bool         runs, stop;
} plug__status_ticker;


static void *
plug__status_run(void *arg)
{
    plug__status_ticker *const ticker = arg;
    const struct timespec pause = { 0, 10 * 1000 * 1000 };

    while (!PLUG__LOAD(&ticker->stop)) {
        plug__guard_refresh(ticker->guard);
        nanosleep(&pause, NULL);
    }
    return NULL;
}


/* The thread blocks all signals, because a thread of the server's own waits for
 * them. If no thread can be created, the figures do not change until the work
 * is done. */
static void
plug__status_tick(plug__status_ticker *ticker, plug__guard *g)
{
    sigset_t all, before;

    ticker->guard = g;
    ticker->stop  = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ticker->runs = pthread_create(&ticker->thread, NULL, plug__status_run,
                                  ticker) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}


static void
plug__status_untick(plug__status_ticker *ticker)
{
    PLUG__STORE(&ticker->stop, true);
    if (ticker->runs)
        pthread_join(ticker->thread, NULL);
}


/* ==========================================================================
 * ROOM  settings    the system variables: a table, a row each
 * ==========================================================================
 * Uses: abi lines guard server
 * Gives: settings_table | settings_describe settings_read
 *
 * A new setting is a new row: settings_describe turns it into a variable of
 * MySQL, and settings_read fills its member of the configuration.
 *
 * The server fills in the values from my.cnf before init, and at run time by a
 * check and an update (room guard says why there are two). The server owns all
 * strings (MEMALLOC): it frees them at UNINSTALL and leaves NULL, so that an
 * INSTALL into the same mapping of this file finds nothing stale. SET ... =
 * DEFAULT would skip the check, so the variables that are checked refuse it.
 *
 * A statement may SET both the KMS key and its region, in either order. The
 * server makes all checks before the first update. So each check tries its
 * value together with the values that the same statement had checked before.
 */

enum { PLUG__TEXT, PLUG__NUMBER, PLUG__FLAG };          /* kinds             */

enum {                                  /* from where it may be set          */
    PLUG__MY_CNF,                       /* my.cnf only                       */
    PLUG__HIDDEN,                       /* by the server itself only         */
    PLUG__SET,                          /* SET GLOBAL as well                */
    PLUG__SET_CHECKED                   /* the same, if KMS accepts it       */
};

enum { PLUG__NONE, PLUG__DEFAULT, PLUG__REFUSED };      /* an empty text     */

typedef struct plug__settings_row {
    const char *name;                   /* without keyring_aws_              */
    int         kind, from;
    size_t      member;                 /* of the configuration              */
    int         wanted;                 /* if SET, its place in guard_values */
    plug__abi_default def;
    int         empty;                  /* what an empty text means          */
    const char *help;
} plug__settings_row;

#define MEMBER(name) offsetof(plug__guard_config, name)

static const plug__settings_row plug__settings_rows[] = {
    { "cmk_id", PLUG__TEXT, PLUG__SET_CHECKED, MEMBER(kaws.kms_key_id),
      .wanted = PLUG__CMK_ID,
      .help = "KMS key that seals: its key id, ARN or alias." },
    { "region", PLUG__TEXT, PLUG__SET_CHECKED, MEMBER(kaws.region),
      .wanted = PLUG__REGION, .def.text = "us-east-1", .empty = PLUG__DEFAULT,
      .help = "AWS region of the KMS key, if keyring_aws_cmk_id is no ARN." },
    { "conf_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.conf_file),
      .def.text = "/var/lib/mysql-keyring/keyring_aws_conf",
      .empty = PLUG__REFUSED,
      .help = "File of AWS credentials: id, secret, token, a line each." },
    { "auth", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.auth),
      .def.text = "file", .empty = PLUG__DEFAULT,
      .help = "Where AWS credentials come from: file (conf_file) or native." },
    { "profile", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.profile),
      .help = "native: the profile to use. Else that of AWS_PROFILE." },
    { "config_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.config_file),
      .help = "native: file of profiles. Else that of AWS_CONFIG_FILE." },
    { "credentials_file", PLUG__TEXT, PLUG__MY_CNF,
      MEMBER(kaws.credentials_file),
      .help = "native: file of keys. Else AWS_SHARED_CREDENTIALS_FILE's." },
    { "data_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.data_file),
      .def.text = "/var/lib/mysql-keyring/keyring_aws_data",
      .empty = PLUG__REFUSED,
      .help = "File of the sealed keys." },
    { "create", PLUG__FLAG, PLUG__MY_CNF, MEMBER(create), .def.flag = 1,
      .help = "OFF: if the data file is missing, no new one is made." },
    { "accounts", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.accounts),
      .help = "AWS accounts to trust, with commas. Else the KMS key's own." },
    { "endpoint", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.endpoint),
      .help = "URL of KMS, for VPC endpoints. Else that of the region." },
    { "sts_endpoint", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.sts_endpoint),
      .help = "URL of AWS STS, for VPC endpoints. Else that of the region." },
    { "ca_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.ca_file),
      .help = "File of CA certificates that vouch for KMS. Else libcurl's." },
    { "connect_timeout", PLUG__NUMBER, PLUG__SET,
      MEMBER(kaws.connect_timeout_ms), .wanted = PLUG__CONNECT_TIMEOUT,
      .def.number = { 1000, 100, 3600 * 1000, 1 },
      .help = "Milliseconds that connecting to KMS may take." },
    { "timeout", PLUG__NUMBER, PLUG__SET, MEMBER(kaws.timeout_ms),
      .wanted = PLUG__TIMEOUT, .def.number = { 10000, 100, 3600 * 1000, 1 },
      .help = "Milliseconds that one call to KMS may take, with retries." },
    { "cache_seconds", PLUG__NUMBER, PLUG__SET, MEMBER(kaws.cache_seconds),
      .wanted = PLUG__CACHE_SECONDS, .def.number = { 0, 0, 86400, 1 },
      .help = "Seconds that a fetched key is kept, encrypted. 0: not at all." },
    { "start_seconds", PLUG__NUMBER, PLUG__MY_CNF, MEMBER(start_seconds),
      .def.number = { 30, 0, 240, 1 },
      .help = "Seconds that a starting server waits for KMS, in total." },
    { "open_mode", PLUG__FLAG, PLUG__HIDDEN, MEMBER(kaws.read_only),
      .help = "1: read only. The server sets it when it migrates keys." }
};

#undef MEMBER

enum { PLUG__SETTINGS = sizeof plug__settings_rows
                      / sizeof *plug__settings_rows };

static union {
    char *text;
    int   number;
    char  flag;
} plug__settings_values[PLUG__SETTINGS];

static plug__abi_var  plug__settings_vars[PLUG__SETTINGS];
static plug__abi_var *plug__settings_table[PLUG__SETTINGS + 1];

enum {
    PLUG__ER_WRONG_VALUE_FOR_VAR = 1231,
    PLUG__STATEMENTS = 8                /* that may SET at the same time     */
};

typedef struct plug__settings_statement {
    uint64_t           number;          /* 0: none                           */
    plug__guard_values checked;
} plug__settings_statement;

static struct {
    pthread_mutex_t          lock;
    unsigned                 next;
    plug__settings_statement of[PLUG__STATEMENTS];
} plug__settings_known = { .lock = PTHREAD_MUTEX_INITIALIZER };


/* Logs and raises why a value is refused. Returns 1, which tells the server
 * that the check failed. */
static int
plug__settings_refuse(const char *name, const char *value, const char *why)
{
    char shown[128];

    kaws_show(shown, sizeof shown, value);
    plug__lines_say(plug__server_lines, value, PLUG__LOG_UNCHANGED, name, shown,
                    why);
    plug__guard_raise(&plug__server_guard, PLUG__ER_WRONG_VALUE_FOR_VAR,
                      "Variable 'keyring_aws_%s' can't be set to the value of"
                      " '%s': %s", name, shown, why);
    return 1;
}


/* Returns the values that this statement has checked so far, and adds `more` to
 * them. If `more` is NULL, they are dropped: the statement was refused or has
 * begun to update, so no more checks follow. If the statement is refused
 * because of a variable of the server's own, its values stay here until the
 * session runs the same text again. That run checks, and so replaces, each of
 * them. */
static plug__guard_values
plug__settings_checked(void *thd, const plug__guard_values *more)
{
    const uint64_t number = plug__server_statement(thd);
    plug__settings_statement *at = NULL;
    plug__guard_values        checked = { .of = { { "", 0, false } } };

    pthread_mutex_lock(&plug__settings_known.lock);
    for (int i = 0; i < PLUG__STATEMENTS; i++) {
        if (plug__settings_known.of[i].number == number)
            at = &plug__settings_known.of[i];
    }
    if (at == NULL && more != NULL) {
        at = &plug__settings_known.of[plug__settings_known.next++
                                      % PLUG__STATEMENTS];
        memset(at, 0, sizeof *at);
    }
    if (at != NULL && more != NULL)
        plug__guard_merge(&at->checked, more);
    if (at != NULL) {
        checked    = at->checked;
        at->number = more != NULL ? number : 0;
    }
    pthread_mutex_unlock(&plug__settings_known.lock);
    return checked;
}


/* Asks KMS about the new value, together with the other values that the
 * statement SETs. If the server itself sets the value (SET PERSIST), KMS is
 * asked only when the value is used. KMS may be unreachable now, and the server
 * would then drop this value and those that follow it. Also, the server sets
 * the KMS key and the region one by one. */
static int
plug__settings_check(void *thd, plug__abi_var *var, void *save,
                     plug__abi_value *value)
{
    const plug__settings_row *const row =
        &plug__settings_rows[var - plug__settings_vars];
    char        buf[PLUG__VALUE_MAX];
    int         len  = (int)sizeof buf;
    const char *text = value->val_str(value, buf, &len);
    const char *copy = NULL, *why = NULL;   /* the statement owns the copy   */
    plug__guard_values tried, change = { .of = { { "", 0, false } } };
    kaws_error  err;

    if (text == NULL || len == 0)
        why = "it has to have a value";
    else if (len >= PLUG__VALUE_MAX)
        why = "it is too long";
    else if (memchr(text, '\0', (size_t)len) != NULL)
        why = "there is a zero byte in it";
    else if (!plug__server_has(thd_alloc_service)
             || (copy = thd_alloc_service->thd_strmake(thd, text, (size_t)len))
                == NULL)
        why = "out of memory";
    if (why == NULL) {
        snprintf(change.of[row->wanted].text, PLUG__VALUE_MAX, "%s", copy);
        change = plug__settings_checked(thd, &change);
        tried  = plug__guard_wanted(&plug__server_guard);
        plug__guard_merge(&tried, &change);
        if (plug__guard_try(&plug__server_guard, &tried,
                            !plug__server_restores(thd), &err) != KAWS_OK)
            why = err.text;
        plug__guard_refresh(&plug__server_guard);
    }
    if (why != NULL) {
        (void)plug__settings_checked(thd, NULL);
        return plug__settings_refuse(row->name, text != NULL ? text : "NULL",
                                     why);
    }
    (void)plug__lines_well(plug__server_lines, copy);
    *(const char **)save = copy;
    return 0;
}


static void
plug__settings_show(const plug__settings_row *row, const void *at,
                    char out[PLUG__SHOWN])
{
    const char *const text = row->kind == PLUG__TEXT ? *(char *const *)at : "";

    kaws_show(out, PLUG__SHOWN, text != NULL ? text : "");
    if (row->kind == PLUG__NUMBER)
        snprintf(out, PLUG__SHOWN, "%d", *(const int *)at);
}


/* Stores the new value. The server made this copy of a text, and frees the one
 * that it replaces. The first update of a statement makes all values count that
 * the statement checked, because a key that is made before the second update
 * must not be sealed with half of a pair. */
static void
plug__settings_update(void *thd, plug__abi_var *var, void *at, const void *save)
{
    const plug__settings_row *const row =
        &plug__settings_rows[var - plug__settings_vars];
    static const char persisted[] = ", a value of SET PERSIST", later[] = ", a"
        " value of SET PERSIST: KMS is asked when the next key is made";
    const bool restores = plug__server_restores(thd);
    const plug__guard_values checked = plug__settings_checked(thd, NULL);
    plug__guard_values change = { .of = { { "", 0, false } } };
    char was[PLUG__SHOWN], is[PLUG__SHOWN];

    plug__settings_show(row, at, was);
    if (row->kind == PLUG__TEXT) {
        char *const text = *(char **)at = *(char *const *)save;
        snprintf(change.of[row->wanted].text, PLUG__VALUE_MAX, "%s",
                 text != NULL ? text : "");
    } else {
        change.of[row->wanted].number = *(int *)at = *(const int *)save;
        change.of[row->wanted].has_number = true;
    }
    plug__settings_show(row, at, is);
    if (strcmp(was, is) != 0)
        plug__lines_say(plug__server_lines, "", PLUG__LOG_SET, row->name, is,
                        was, !restores ? "" : row->from == PLUG__SET ? persisted
                                                                : later);
    plug__guard_merge(&change, &checked);
    plug__guard_want(&plug__server_guard, &change);
}


/* Turns the rows into MySQL's variables. */
static void
plug__settings_describe(void)
{
    static const int kinds[] = { PLUG__ABI_STR | PLUG__ABI_MEMALLOC,
                                 PLUG__ABI_INT, PLUG__ABI_BOOL };
    static const int from[] = { PLUG__ABI_READONLY | PLUG__ABI_NOPERSIST,
                                PLUG__ABI_READONLY | PLUG__ABI_INVISIBLE,
                                0, PLUG__ABI_NODEFAULT };

    for (int i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];
        plug__abi_var *const var = plug__settings_table[i]
                                 = &plug__settings_vars[i];

        var->flags   = kinds[row->kind] | from[row->from];
        var->name    = row->name;
        var->comment = row->help;
        var->check   = row->from == PLUG__SET_CHECKED ? plug__settings_check
                                                      : NULL;
        var->update  = row->from >= PLUG__SET ? plug__settings_update : NULL;
        var->at      = &plug__settings_values[i];
        var->def     = row->def;
    }
}


/* Fills the configuration from the variables. A text without a value is NULL.
 */
static kaws_status
plug__settings_read(plug__guard_config *cfg, kaws_error *err)
{
    memset(cfg, 0, sizeof *cfg);
    for (int i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];
        void *const member = (char *)cfg + row->member;
        const char *text;

        if (row->kind != PLUG__TEXT) {
            *(int *)member = row->kind == PLUG__FLAG
                             ? plug__settings_values[i].flag
                             : plug__settings_values[i].number;
            if (row->from >= PLUG__SET) {
                cfg->values.of[row->wanted].number = *(int *)member;
                cfg->values.of[row->wanted].has_number = true;
            }
            continue;
        }
        text = plug__settings_values[i].text;
        if (text == NULL || text[0] == '\0')
            text = row->empty == PLUG__DEFAULT ? row->def.text : NULL;
        if (text == NULL && row->empty == PLUG__REFUSED)
            return plug__guard_fail(err, KAWS_CONFIG,
                                    "keyring_aws_%s has to be set", row->name);
        if (text != NULL && row->from >= PLUG__SET
            && snprintf(cfg->values.of[row->wanted].text, PLUG__VALUE_MAX, "%s",
                        text) >= PLUG__VALUE_MAX)
            return plug__guard_fail(err, KAWS_CONFIG,
                                    "keyring_aws_%s is too long", row->name);
        *(const char **)member = text;
    }
    return KAWS_OK;
}


/* ==========================================================================
 * ROOM  keyring     what the server calls: store, fetch, ...
 * ==========================================================================
 * Uses: abi lines guard server
 * Gives: keyring_calls keyring_begin keyring_in_vain keyring_throttled
 *
 * Every call of a host for one key comes to keyring_do. The functions below it
 * have MySQL's plugin interface, in which false is success. A fetch of a key
 * that does not exist succeeds, and answers with NULLs. The server frees what a
 * fetch gives it with my_free, so the memory has to come from the server's
 * my_malloc. All three outputs are written in every case, because the migration
 * tool frees what they hold after a failure.
 *
 * If the server asks for a key of its own that has to be there, and the key is
 * missing, the data file is an older copy, or another server's: an error line
 * says so. InnoDB asks for INNODBKey-... only after it has made the key, or has
 * read the key's name in a tablespace. So the key has to be there, unless the
 * last try to make it failed, or keyring_operations is OFF. But if InnoDB
 * cannot get a key, it also asks for the name that 5.7.11 would have given it,
 * with numbers only: that name may always be missing. The binary log has a few
 * keys without a number, which may all be missing, and keys with a number. It
 * asks for the key with the next number before it makes that key, but only in
 * two cases. Either a rotation runs: then there is a key whose id ends in _old
 * or _new. Or it makes its first key: then it has just asked for its own entry,
 * which was missing.
 *
 * For a walk the server gives fixed buffers, and does not say how large they
 * are. The buffer of a user id has 96 bytes in 5.7 and in migration mode, and
 * 256 or more elsewhere. A walk is a list of names in plain memory, which is
 * made when the walk begins. So the walk survives the ring and the mapping of
 * this file.
 */

enum { PLUG__SHORT_USER = 95 };         /* bytes, without the NUL            */

enum { PLUG__STORE_KEY, PLUG__GENERATE_KEY, PLUG__FETCH_KEY, PLUG__REMOVE_KEY };

static const struct {
    const char *name;
    size_t      most;                   /* bytes of a key; 0: nothing sealed */
} plug__keyring_verbs[] = {
    { "store", KAWS_PLAIN_MAX }, { "generate", KAWS_GENERATE_MAX },
    { "fetch", 0 }, { "remove", 0 }
};

static struct {
    pthread_mutex_t lock;
    char unmade[PLUG__SHOWN];           /* key that could not be made        */
    char begun[PLUG__SHOWN];            /* log whose first key is being made  */
    unsigned unread;                    /* kinds of keys that KMS did not give,
                                         * a bit each, and THROTTLED; no lock */
    uint64_t answers;                   /* KMS's answers until then; no lock */
} plug__keyring_seen = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* One call for one key. */
typedef struct plug__keyring_job plug__keyring_job;

struct plug__keyring_job {
    int         verb;
    const char *key_id, *user_id;       /* NULL: empty                       */
    const char *type;                   /* of a key to store or generate     */
    kaws_bytes  plain;                  /* of a key to generate, the length  */

    /* Gives a fetched key to the host. */
    kaws_status (*give)(const plug__keyring_job *job, const kaws_key *key,
                        kaws_error *err);
    char **type_out;
    void **key_out;
    size_t *len_out;
};


/* Returns the key's type in upper case, as the library stores it. If KMS or
 * MySQL's manual does not allow such a key, returns NULL and fills *err. */
static const char *
plug__keyring_accept(const plug__keyring_job *job, kaws_error *err)
{
    static const char *const types[] = { "AES", "SECRET", "RSA", "DSA" };
    const size_t most = plug__keyring_verbs[job->verb].most;
    const size_t len  = job->plain.len;
    const char *type = NULL;
    char shown[PLUG__SHOWN];

    for (int i = 0; job->type != NULL && i < 4; i++) {
        size_t n = 0;                   /* letters that agree, in any case   */
        while (types[i][n] != '\0' && (job->type[n] & 0xdf) == types[i][n])
            n++;
        if (types[i][n] == job->type[n])
            type = types[i];
    }
    if (type == NULL)
        plug__guard_fail(err, KAWS_ARGUMENT, "its type has to be AES, SECRET,"
                         " RSA or DSA, and is '%s'",
                         kaws_show(shown, sizeof shown, job->type));
    else if (len < 1 || len > most)
        plug__guard_fail(err, KAWS_ARGUMENT, "it has to have 1 to %zu bytes,"
                         " and has %zu", most, len);
    else if (type == types[0] && len != 16 && len != 24 && len != 32)
        plug__guard_fail(err, KAWS_ARGUMENT, "an AES key has to have 16, 24 or"
                         " 32 bytes, and it has %zu", len);
    else
        return type;
    return NULL;
}


/* Calls the library, which fills *err on failure and empties it on success. */
static void
plug__keyring_call(plug__guard_ring *ring, const plug__keyring_job *job,
                   const char *type, kaws_error *err)
{
    const kaws_name name = { job->key_id != NULL ? job->key_id : "",
                             job->user_id };
    kaws_key key;

    if (job->verb == PLUG__STORE_KEY) {
        (void)kaws_store(ring->kaws, name, type, job->plain, err);
    } else if (job->verb == PLUG__GENERATE_KEY) {
        (void)kaws_generate(ring->kaws, name, type, job->plain.len, err);
    } else if (job->verb == PLUG__REMOVE_KEY) {
        (void)kaws_remove(ring->kaws, name, err);
    } else if (kaws_fetch(ring->kaws, name, &key, err) == KAWS_OK) {
        (void)job->give(job, &key, err);
        kaws_key_free(ring->kaws, &key);
    }
}


/* ---- keys that have to be there ------------------------------------------ */

/* Whether the ring has a key of the server's own whose id is `log` with _old or
 * _new after it. */
static bool
plug__keyring_rotates(plug__guard_ring *ring, const char *log, size_t len)
{
    kaws_walk *walk = NULL;
    kaws_entry_info info;
    bool has = false;

    (void)kaws_walk_begin(ring->kaws, &walk, NULL);
    while (!has && kaws_walk_next(walk, &info)) {
        const char *const id = info.name.key_id;
        has = info.name.user_id[0] == '\0' && strncmp(id, log, len) == 0
              && (strcmp(id + len, "_old") == 0
                  || strcmp(id + len, "_new") == 0);
    }
    kaws_walk_end(walk);
    return has;
}


/* With the lock held: whether this key of the server's own may be missing. */
static bool
plug__keyring_may_lack(plug__guard_ring *ring, const char *id)
{
    static const char table[] = "INNODBKey-", log[] = "MySQLReplicationKey_";
    char *const begun = plug__keyring_seen.begun;
    const char *number;

    if (strncmp(id, table, sizeof table - 1) == 0) {
        number = id + sizeof table - 1;
        number += strspn(number, "0123456789");
        return (*number == '-' && number[1 + strspn(number + 1, "0123456789")]
                                  == '\0')
               || strcmp(id, plug__keyring_seen.unmade) == 0
               || plug__server_stopped();
    }
    if (strncmp(id, log, sizeof log - 1) != 0)
        return true;
    number = strchr(id + sizeof log - 1, '_');
    if (number == NULL)
        snprintf(begun, PLUG__SHOWN, "%s", id);
    if (number == NULL || number[1 + strspn(number + 1, "0123456789")] != '\0')
        return true;
    return (strncmp(begun, id, (size_t)(number - id)) == 0
            && begun[number - id] == '\0')
           || plug__keyring_rotates(ring, id, (size_t)(number - id));
}


/* Logs that a key is missing. Nobody here can know why. */
static void
plug__keyring_say_missing(plug__guard *g, plug__guard_ring *ring,
                          const char *about, const char *id)
{
    kaws_stats s;
    struct tm  at = { 0 };
    time_t     newest;
    char       shown[PLUG__SHOWN], state[128], made[48] = "";

    kaws_get_stats(ring->kaws, &s);
    newest = (time_t)s.newest;
    if (s.keys > 0 && gmtime_r(&newest, &at) != NULL)
        strftime(made, sizeof made, ", the newest of %Y-%m-%d %H:%M:%S UTC",
                 &at);
    snprintf(state, sizeof state, "%llu %s%s, checksum begins with"
             " %02x%02x%02x%02x", (unsigned long long)s.keys,
             s.keys == 1 ? "key" : "keys", made, s.checksum[0], s.checksum[1],
             s.checksum[2], s.checksum[3]);
    plug__lines_say(&g->lines, about, PLUG__LOG_MISSING,
                    kaws_show(shown, sizeof shown, id), ring->file, state);
}


/* Records how a call for a key of the server's own ended. Logs if the key is
 * missing and must not be, or if the server has made a missing key again. */
static void
plug__keyring_watch(plug__guard *g, plug__guard_ring *ring,
                    const plug__keyring_job *job, kaws_status status)
{
    const char *const id = job->key_id != NULL ? job->key_id : "";
    char *const unmade = plug__keyring_seen.unmade;
    char *const begun  = plug__keyring_seen.begun;
    char about[PLUG__ABOUT], shown[PLUG__SHOWN];
    bool allowed = true;

    pthread_mutex_lock(&plug__keyring_seen.lock);
    if (ring != NULL && job->verb == PLUG__FETCH_KEY
        && status == KAWS_NOT_FOUND)
        allowed = plug__keyring_may_lack(ring, id);
    else if (job->verb == PLUG__GENERATE_KEY && status != KAWS_OK)
        snprintf(unmade, PLUG__SHOWN, "%s", id);
    else if (job->verb == PLUG__GENERATE_KEY && strcmp(unmade, id) == 0)
        unmade[0] = '\0';
    else if (job->verb == PLUG__STORE_KEY && strcmp(begun, id) == 0)
        begun[0] = '\0';
    pthread_mutex_unlock(&plug__keyring_seen.lock);
    if (allowed && (status != KAWS_OK || PLUG__LOAD(&g->lines.used) == 0))
        return;
    snprintf(about, sizeof about, "miss\n%s", id);
    if (!allowed)
        plug__keyring_say_missing(g, ring, about, id);
    else if (plug__lines_well(&g->lines, about)
             && job->verb == PLUG__GENERATE_KEY)
        plug__lines_say(&g->lines, "", PLUG__LOG_MADE_AGAIN,
                        kaws_show(shown, sizeof shown, id), ring->file);
}


/* How often KMS has answered without an error. A fetch from the cache adds no
 * answer. */
static uint64_t
plug__keyring_answers(plug__guard_ring *ring)
{
    kaws_stats s;

    kaws_get_stats(ring->kaws, &s);
    return s.kms_requests - s.kms_errors;
}


enum { PLUG__KEYRING_THROTTLED = 4 };   /* until its time was up             */


/* Records that KMS failed to do something of these kinds (bits of unread). */
static void
plug__keyring_in_vain(plug__guard_ring *ring, unsigned kinds)
{
    PLUG__STORE(&plug__keyring_seen.answers, plug__keyring_answers(ring));
    __atomic_or_fetch(&plug__keyring_seen.unread, kinds, __ATOMIC_RELAXED);
}


/* Whether AWS throttled something until its time was up, and KMS has done
 * nothing since then. */
static bool
plug__keyring_throttled(void)
{
    return PLUG__LOAD(&plug__keyring_seen.unread) & PLUG__KEYRING_THROTTLED;
}


/* If KMS does not answer, the server closes what it wanted the key for, and a
 * later fetch of that key does not open it. So when KMS is back, one line says
 * what may be closed, and what opens it. */
static void
plug__keyring_recall(plug__guard *g, plug__guard_ring *ring,
                     const plug__keyring_job *job, kaws_status status)
{
    static const struct { const char *begins, *says; } kinds[] = {
        { "INNODBKey-", "InnoDB: what answers with error 3185 or 1146, though"
          " KMS is back, opens after a restart of the server" },
        { "MySQLReplicationKey_", "the binary log: repeat what failed (on a"
          " replica, START REPLICA)" }
    };
    unsigned kind = 0, were;

    for (unsigned i = 0; i < 2; i++) {
        if (job->verb == PLUG__FETCH_KEY && job->key_id != NULL
            && strncmp(job->key_id, kinds[i].begins, strlen(kinds[i].begins))
               == 0)
            kind = 1u << i;
    }
    if (status == KAWS_THROTTLED)
        kind |= PLUG__KEYRING_THROTTLED;
    if (status == KAWS_NETWORK || status == KAWS_SERVICE
        || status == KAWS_THROTTLED) {
        if (ring != NULL && kind != 0)
            plug__keyring_in_vain(ring, kind);
        return;
    }
    if (status != KAWS_OK || ring == NULL
        || PLUG__LOAD(&plug__keyring_seen.unread) == 0
        || plug__keyring_answers(ring)
           == PLUG__LOAD(&plug__keyring_seen.answers))
        return;
    were = __atomic_exchange_n(&plug__keyring_seen.unread, 0, __ATOMIC_RELAXED)
         & 3;
    if (were != 0)
        plug__lines_say(&g->lines, "", PLUG__LOG_BACK,
                        kinds[(were & 1) == 0].says,
                        were == 3 ? "; and for that of " : "",
                        were == 3 ? kinds[1].says : "");
}


static void
plug__keyring_begin(void)
{
    PLUG__STORE(&plug__keyring_seen.unread, 0);
    pthread_mutex_lock(&plug__keyring_seen.lock);
    plug__keyring_seen.unmade[0] = plug__keyring_seen.begun[0] = '\0';
    pthread_mutex_unlock(&plug__keyring_seen.lock);
}


/* ---- one call ------------------------------------------------------------ */


/* Does the job. If the job fails, logs a line and returns true. That a key
 * exists already is only a warning, because InnoDB generates a key that may
 * exist, and then fetches it. */
static bool
plug__keyring_do(plug__guard *g, const plug__keyring_job *job)
{
    const bool  seals = plug__keyring_verbs[job->verb].most > 0;
    const bool  owned = job->user_id != NULL && job->user_id[0] != '\0';
    const char *const id_of = job->key_id != NULL ? job->key_id : "";
    const char *type  = NULL;
    plug__guard_ring *ring = NULL;
    kaws_error  err;
    char id[PLUG__SHOWN], user[PLUG__SHOWN], about[PLUG__ABOUT];

    if (!seals)
        ring = plug__guard_take(g, &err);
    else if ((type = plug__keyring_accept(job, &err)) != NULL)
        ring = plug__guard_take_to_seal(g, &err);
    if (ring != NULL)
        plug__keyring_call(ring, job, type, &err);
    if (!owned)
        plug__keyring_watch(g, ring, job, err.status);
    plug__keyring_recall(g, ring, job, err.status);
    if (job->verb == PLUG__FETCH_KEY && err.status == KAWS_NOT_FOUND)
        err.status = KAWS_OK;           /* no key is an answer, too          */
    plug__guard_drop(g, ring);
    plug__guard_refresh(g);             /* adopting a setting may ask KMS    */
    if (err.status == KAWS_OK && PLUG__LOAD(&g->lines.used) == 0)
        return false;
    snprintf(about, sizeof about, "%s\n%s\n%s",
             plug__keyring_verbs[job->verb].name, id_of,
             owned ? job->user_id : "");
    if (err.status == KAWS_OK) {
        (void)plug__lines_well(&g->lines, about);
        return false;
    }
    kaws_show(id, sizeof id, id_of);
    kaws_show(user, sizeof user, owned ? job->user_id : "");
#define ARGS plug__keyring_verbs[job->verb].name, id, owned ? "' of '" : "",   \
             user, "'", err.text
    if (err.status == KAWS_EXISTS || err.status == KAWS_NOT_FOUND
        || err.status == KAWS_CANCELLED)
        plug__lines_say(&g->lines, about, PLUG__LOG_NAME, ARGS);
    else
        plug__lines_say(&g->lines, about, PLUG__LOG_FAILED, ARGS);
#undef ARGS
    return true;
}


/* ---- as MySQL calls a plugin --------------------------------------------- */

static bool
plug__keyring_store(const char *key_id, const char *type, const char *user_id,
                    const void *key, size_t len)
{
    return plug__keyring_do(&plug__server_guard, &(plug__keyring_job){
        .verb = PLUG__STORE_KEY, .key_id = key_id, .user_id = user_id,
        .type = type, .plain = { key, len } });
}


static bool
plug__keyring_generate(const char *key_id, const char *type,
                       const char *user_id, size_t len)
{
    return plug__keyring_do(&plug__server_guard, &(plug__keyring_job){
        .verb = PLUG__GENERATE_KEY, .key_id = key_id, .user_id = user_id,
        .type = type, .plain = { NULL, len } });
}


static bool
plug__keyring_remove(const char *key_id, const char *user_id)
{
    return plug__keyring_do(&plug__server_guard, &(plug__keyring_job){
        .verb = PLUG__REMOVE_KEY, .key_id = key_id, .user_id = user_id });
}


/* Copies a key into the server's memory: type and bytes, or neither. */
static kaws_status
plug__keyring_give(const plug__keyring_job *job, const kaws_key *key,
                   kaws_error *err)
{
    const plug__abi_malloc *const server = mysql_malloc_service;
    char *type  = server->my_strdup(0, key->type, PLUG__ABI_MY_WME);
    void *bytes = server->my_memdup(0, key->bytes, key->len, PLUG__ABI_MY_WME);

    if (type == NULL || bytes == NULL) {
        server->my_free(type);          /* which takes NULL                  */
        server->my_free(bytes);
        return plug__guard_fail(err, KAWS_MEMORY, "out of memory for a key");
    }
    *job->type_out = type;
    *job->key_out  = bytes;
    *job->len_out  = key->len;
    return KAWS_OK;
}


/* If a fetch fails, InnoDB may give up the start and log its own advice, which
 * loses rows. So our advice is logged before it, once. */
static bool
plug__keyring_fetch(const char *key_id, char **type, const char *user_id,
                    void **key, size_t *len)
{
    const plug__keyring_job job = {
        .verb = PLUG__FETCH_KEY, .key_id = key_id, .user_id = user_id,
        .give = plug__keyring_give, .type_out = type, .key_out = key,
        .len_out = len
    };

    *type = NULL;
    *key  = NULL;
    *len  = 0;
    if (!plug__keyring_do(&plug__server_guard, &job))
        return false;
    if (plug__server_starting())
        plug__lines_say(plug__server_lines, "", PLUG__LOG_FETCH);
    return true;
}


/* ---- walking over the names ---------------------------------------------- */

typedef struct plug__keyring_walk {
    char  *names;                       /* key id, NUL, user id, NUL, ...    */
    size_t at, len;
} plug__keyring_walk;


/* Whether the server's buffers can hold the name; if not, a line says so. */
static bool
plug__keyring_fits(const plug__guard_ring *ring, kaws_name name)
{
    char key_id[PLUG__SHOWN], user_id[PLUG__SHOWN];

    if ((!plug__server.is_57 && !ring->read_only)
        || strlen(name.user_id) <= PLUG__SHORT_USER)
        return true;
    plug__lines_say(plug__server_lines, name.user_id, PLUG__LOG_LEFT_OUT,
                    kaws_show(key_id, sizeof key_id, name.key_id),
                    kaws_show(user_id, sizeof user_id, name.user_id),
                    PLUG__SHORT_USER);
    return false;
}


static void
plug__keyring_walk_end(void *arg)
{
    plug__keyring_walk *const walk = arg;

    if (walk != NULL)
        free(walk->names);
    free(walk);
}


/* NULL tells the server that there can be no walk. */
static void
plug__keyring_walk_begin(void **out)
{
    plug__keyring_walk *const walk = calloc(1, sizeof *walk);
    FILE *const names = walk == NULL ? NULL
                      : open_memstream(&walk->names, &walk->len);
    kaws_error      err;
    plug__guard_ring *const ring = plug__guard_take(&plug__server_guard, &err);
    kaws_walk      *from = NULL;
    kaws_entry_info info;

    if (ring != NULL)
        (void)kaws_walk_begin(ring->kaws, &from, &err);
    while (names != NULL && from != NULL && kaws_walk_next(from, &info)) {
        if (!plug__keyring_fits(ring, info.name))
            continue;
        fwrite(info.name.key_id, strlen(info.name.key_id) + 1, 1, names);
        fwrite(info.name.user_id, strlen(info.name.user_id) + 1, 1, names);
    }
    kaws_walk_end(from);
    plug__guard_drop(&plug__server_guard, ring);
    if (err.status == KAWS_OK
        && (names == NULL || fflush(names) != 0 || ferror(names)))
        plug__guard_fail(&err, KAWS_MEMORY, "out of memory for a list");
    if (names != NULL)
        fclose(names);
    *out = walk;
    if (err.status != KAWS_OK) {
        plug__lines_say(plug__server_lines, "", PLUG__LOG_NO_LIST, err.text);
        plug__keyring_walk_end(walk);
        *out = NULL;
    }
}


static bool
plug__keyring_walk_next(void *arg, char *key_id, char *user_id)
{
    plug__keyring_walk *const walk = arg;
    char *const out[] = { key_id, user_id };

    if (walk == NULL || walk->at == walk->len)
        return true;
    for (int i = 0; i < 2; i++) {
        const size_t size = strlen(walk->names + walk->at) + 1;
        memcpy(out[i], walk->names + walk->at, size);
        walk->at += size;
    }
    return false;
}


static plug__abi_keyring plug__keyring_calls = {
    PLUG__ABI_KEYRING_API,
    plug__keyring_store,      plug__keyring_fetch,    plug__keyring_remove,
    plug__keyring_generate,   plug__keyring_walk_begin,
    plug__keyring_walk_end,   plug__keyring_walk_next
};


/* ==========================================================================
 * ROOM  functions   the SQL functions: a table, a row each
 * ==========================================================================
 * Uses: abi lines guard server status
 * Gives: keyring_aws_rotate_cmk() keyring_aws_rotate_keys()
 *        keyring_aws_rotate_cms() keyring_aws_refresh()
 *
 * The functions answer 1, or NULL and an error. A caller needs SUPER when a
 * statement is prepared and again when the statement runs. If a function is
 * called before the plugin is loaded, or after it was uninstalled, its error
 * says so.
 *
 * SQL calls a function as often as it likes: once a row, twice for HAVING. But
 * a rotation has an effect, and a KMS key can be rotated on demand only 25
 * times in its life. So a function does its work once for each statement, and
 * remembers the answer. The server does not say where a statement begins and
 * ends. But for each place where the function stands in the statement's text,
 * the server calls _init before the statement runs and _deinit when it has run.
 * The same is true of prepared statements and of the statements of a procedure.
 * So the answer is remembered while any place of the function is open in the
 * session. A stored function or a trigger runs statements of its own, one by
 * one. With binlog_format = STATEMENT a replica calls the function, too,
 * because it repeats the statement: it gets 1, and nothing is rotated.
 */

enum { PLUG__ER_KEYRING_AWS_UDF = 3198 };

typedef kaws_status plug__functions_work(kaws *ring, kaws_error *err);
typedef plug__guard_ring *plug__functions_get(plug__guard *g, kaws_error *err);

/* What a session remembers of a function while a statement runs it. */
typedef struct plug__functions_memo {
    struct plug__functions_memo *next;
    const void           *session;
    plug__functions_work *work;
    plug__functions_get  *get;          /* how it gets the ring              */
    unsigned              places;       /* that are open                     */
    bool                  done;
    kaws_error            answer;       /* if done                           */
} plug__functions_memo;

static struct {
    pthread_mutex_t       lock;         /* for the list and the places       */
    plug__functions_memo *first;
} plug__functions = { PTHREAD_MUTEX_INITIALIZER, NULL };


/* Opens one more place in this session's memo of the function, and returns the
 * memo; NULL: out of memory. */
static plug__functions_memo *
plug__functions_open(plug__functions_work *work, plug__functions_get *get)
{
    const void *const     session = plug__server_session();
    plug__functions_memo *memo;

    pthread_mutex_lock(&plug__functions.lock);
    memo = plug__functions.first;
    while (memo != NULL && (memo->session != session || memo->work != work))
        memo = memo->next;
    if (memo == NULL && (memo = calloc(1, sizeof *memo)) != NULL) {
        memo->next    = plug__functions.first;
        memo->session = session;
        memo->work    = work;
        memo->get     = get;
        plug__functions.first = memo;
    }
    if (memo != NULL)
        memo->places++;
    pthread_mutex_unlock(&plug__functions.lock);
    return memo;
}


static void
plug__functions_close(plug__functions_memo *memo)
{
    plug__functions_memo **at = &plug__functions.first;

    pthread_mutex_lock(&plug__functions.lock);
    if (memo != NULL && --memo->places == 0) {
        while (*at != memo)
            at = &(*at)->next;
        *at = memo->next;
        free(memo);
    }
    pthread_mutex_unlock(&plug__functions.lock);
}


/* Returns true on failure; then the server shows the message. */
static bool
plug__functions_begin(plug__functions_work *work, plug__functions_get *get,
                      plug__abi_udf *udf, const plug__abi_udf_args *args,
                      char *message)
{
    plug__guard_ring *ring = NULL;
    kaws_error err;

    udf->ptr = NULL;
    if (args->count != 0)
        plug__guard_fail(&err, KAWS_ARGUMENT, "it takes no arguments");
    else if (plug__guard_admits(&plug__server_guard, &err))
        ring = plug__guard_take(&plug__server_guard, &err);
    if (ring != NULL
        && (udf->ptr = (char *)plug__functions_open(work, get)) == NULL)
        plug__guard_fail(&err, KAWS_MEMORY, "out of memory");
    plug__guard_drop(&plug__server_guard, ring);
    udf->maybe_null = true;
    udf->const_item = false;            /* else EXPLAIN would call it        */
    if (udf->ptr == NULL)
        snprintf(message, PLUG__ABI_ERRMSG_SIZE, "%s", err.text);
    return udf->ptr == NULL;
}


static void
plug__functions_try(const plug__functions_memo *memo, kaws_error *err)
{
    plug__guard *const  g    = &plug__server_guard;
    plug__guard_ring   *ring = NULL;
    plug__status_ticker ticker;

    if (!plug__guard_admits(g, err))
        return;
    if (plug__server_stopped())
        plug__guard_fail(err, KAWS_DENIED, "keyring_operations is OFF: SET"
                         " GLOBAL keyring_operations = ON first");
    else
        ring = memo->get(g, err);
    if (ring != NULL) {
        plug__status_tick(&ticker, g);
        (void)memo->work(ring->kaws, err);
        plug__status_untick(&ticker);
    }
    plug__guard_drop(g, ring);
    plug__guard_refresh(g);
}


static long long
plug__functions_run(const char *name, plug__functions_memo *memo,
                    unsigned char *is_null, unsigned char *error)
{
    static plug__functions_memo never = { .done = true, .answer = {
        .status = KAWS_CONFIG, .text = "it was called though _init refused it"
    } };

    if (memo == NULL)
        memo = &never;
    if (!memo->done) {
        memo->done = true;
        if (!plug__server_replays())
            plug__functions_try(memo, &memo->answer);
        if (memo->answer.status == KAWS_OK)
            (void)plug__lines_well(plug__server_lines, name);
        else
            plug__lines_say(plug__server_lines, name, PLUG__LOG_FUNCTION, name,
                            memo->answer.text);
    }
    *is_null = *error = memo->answer.status != KAWS_OK;
    if (*error)
        plug__guard_raise(&plug__server_guard, PLUG__ER_KEYRING_AWS_UDF,
                          "Function %s failed due to: %s.", name,
                          memo->answer.text);
    return !*error;
}


/* An SQL function is three symbols. In its CREATE FUNCTION statement, MySQL's
 * manual of 5.7 misprints rotate_cmk as rotate_cms. So both names work. */
#define PLUG__FUNCTIONS(X)                                                     \
    X(keyring_aws_rotate_cmk,  kaws_rotate_kms_key, plug__guard_take_to_seal)  \
    X(keyring_aws_rotate_cms,  kaws_rotate_kms_key, plug__guard_take_to_seal)  \
    X(keyring_aws_rotate_keys, kaws_rewrap_all,     plug__guard_take_to_seal)  \
    X(keyring_aws_refresh,     kaws_refresh,        plug__guard_take)

#define X(name, work, get)                                                     \
    PLUG__EXPORT bool                                                          \
    name##_init(plug__abi_udf *udf, plug__abi_udf_args *args, char *message)   \
    {                                                                          \
        return plug__functions_begin(work, get, udf, args, message);           \
    }                                                                          \
                                                                               \
    PLUG__EXPORT long long                                                     \
    name(plug__abi_udf *udf, plug__abi_udf_args *args,                         \
         unsigned char *is_null, unsigned char *error)                         \
    {                                                                          \
        (void)args;                                                            \
        return plug__functions_run(#name, (void *)udf->ptr, is_null, error);   \
    }                                                                          \
                                                                               \
    PLUG__EXPORT void                                                          \
    name##_deinit(plug__abi_udf *udf)                                          \
    {                                                                          \
        plug__functions_close((void *)udf->ptr);                               \
    }

PLUG__FUNCTIONS(X)
#undef X


/* ==========================================================================
 * ROOM  life        start, end, and which server this is
 * ==========================================================================
 * Uses: abi lines guard server status settings keyring
 * Gives: _mysql_plugin_declarations_ _mysql_plugin_interface_version_
 *        _mysql_sizeof_struct_st_plugin_
 *
 * A start reads the credentials, checks the whole data file, and then asks KMS
 * to seal and open one byte. If KMS definitely refuses, the start fails. If KMS
 * cannot be reached, or has a fault of its own, the start waits: the network
 * may come up after the server, and InnoDB gives up without its keys. From the
 * first outage on, init and all calls that come while the server starts share
 * one deadline. After the deadline, the plugin only warns that KMS is
 * unreachable, because a database must start even if KMS does not answer.
 *
 * A constructor runs when this file is mapped, before the server reads anything
 * in it. It finds out which server this is, and describes the plugin in that
 * server's layout. Two signs must agree: the server's version, and whether its
 * error function has a C or a C++ name. If they do not agree (in a fork, a
 * tool, or a server newer than this file), the description has only an init
 * that refuses with a sentence, and is valid in either layout.
 */

static struct {
    int     seconds;                    /* keyring_aws_start_seconds         */
    int64_t deadline_ms;                /* of the monotonic clock; 0: none   */
} plug__life;


/* The patience_ms hook: how long a call may still wait for KMS. Throttling does
 * not make KMS unreachable, but a start must not wait for it once per table. So
 * after the deadline, and after one operation that was throttled until its own
 * time was up, each operation gets one attempt, until KMS carries one out. */
static int
plug__life_patience(void *ctx, const kaws_error *err)
{
    plug__guard *const g = ctx;
    const int64_t now = plug__lines_now_ms();
    int64_t first = 0, deadline = now + plug__life.seconds * 1000;

    if (!plug__server_starting() || plug__server_ending())
        return 0;
    if (plug__life.seconds > 0
        && !__atomic_compare_exchange_n(&plug__life.deadline_ms, &first,
                                        deadline, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
        deadline = first;
    else if (plug__life.seconds > 0)
        plug__lines_say(&g->lines, "", PLUG__LOG_WAITS, plug__life.seconds,
                        err->text);
    if (deadline > now)
        return (int)(deadline - now);
    return err->status == KAWS_THROTTLED && plug__keyring_throttled() ? INT_MIN
                                                                      : 0;
}


static bool
plug__life_start(plug__guard *g, kaws_error *err)
{
    plug__guard_ring *ring = NULL;
    plug__guard_config cfg;

    if (plug__settings_read(&cfg, err) != KAWS_OK)
        return false;
    cfg.kaws.hooks.patience_ms = plug__life_patience;
    cfg.kaws.must_exist = !cfg.create;
    cfg.kaws.must_have_creds = 1;
    plug__life.seconds = cfg.start_seconds;
    PLUG__STORE(&plug__life.deadline_ms, 0);
    if (!plug__server_has(mysql_malloc_service))
        plug__guard_fail(err, KAWS_CONFIG, "this server does not offer the"
                         " service mysql_malloc_service");
    else
        ring = plug__guard_open(g, &cfg, err);
    if (ring == NULL)
        return false;
    if (cfg.start_seconds != 0 && cfg.kaws.timeout_ms != 10000  /* by default */
        && cfg.kaws.timeout_ms > cfg.start_seconds * 1000)
        plug__lines_say(&g->lines, "", PLUG__LOG_START_TIME,
                        cfg.kaws.timeout_ms, cfg.start_seconds);
    if (cfg.kaws.kms_key_id == NULL)
        plug__lines_say(&g->lines, "", PLUG__LOG_NO_KMS_KEY);
    else
        (void)kaws_check(ring->kaws, err);
    if (err->status == KAWS_THROTTLED)
        plug__keyring_in_vain(ring, PLUG__KEYRING_THROTTLED);
    switch ((int)err->status) {   /* -Wswitch-enum wants all */
    case KAWS_NETWORK: case KAWS_THROTTLED: case KAWS_SERVICE: case KAWS_REPLY:
        plug__lines_say(&g->lines, "", PLUG__LOG_WITHOUT_KMS, err->text);
        break;
    case KAWS_OK:
        break;
    default:
        plug__guard_drop(g, ring);
        return false;
    }
    plug__guard_publish(g, ring);
    return true;
}


/* This file may have been mapped since an earlier INSTALL. Then its variables
 * are as deinit left them. So init sets all of them: handle, ring, figures and
 * wanted values. */
static int
plug__life_init(void *handle)
{
    kaws_error err;

    plug__server_remember(handle);
    plug__keyring_begin();
    if (!plug__life_start(&plug__server_guard, &err)) {
        plug__lines_say(plug__server_lines, "", PLUG__LOG_NO_START, err.text,
                        plug__server_starting() ? PLUG__AGAIN
                                                : "install the plugin again");
        return 1;
    }
    plug__guard_refresh(&plug__server_guard);
    return 0;
}


/* The server also calls this after an init that failed. */
static int
plug__life_deinit(void *handle)
{
    (void)handle;
    plug__guard_publish(&plug__server_guard, NULL);
    plug__guard_refresh(&plug__server_guard);
    (void)plug__lines_well(plug__server_lines, NULL);
    plug__server_remember(NULL);
    return 0;
}


static int
plug__life_refuse(void *handle)
{
    (void)handle;
    plug__lines_say(plug__server_lines, "", PLUG__LOG_NO_HOST);
    return 1;
}


PLUG__EXPORT int _mysql_plugin_interface_version_ = PLUG__ABI_INTERFACE;
PLUG__EXPORT int _mysql_sizeof_struct_st_plugin_;

PLUG__EXPORT plug__abi_plugins _mysql_plugin_declarations_;


static const plug__abi_tail plug__life_tail = {
    plug__life_deinit, 0x0100, plug__status_table, plug__settings_table, NULL,
    PLUG__ABI_ALLOW_EARLY
};


static const plug__abi_head plug__life_head = {
    PLUG__ABI_KEYRING, &plug__keyring_calls, "keyring_aws",
    "The keyring_aws authors", "Keyring protected by AWS KMS",
    PLUG__ABI_LICENCE_BSD, plug__life_init
};


/* Stores each void * as a function pointer. POSIX promises that this works, and
 * C allows it by memcpy only. */
static void
plug__life_resolve(void *printf_error, void *access_test, void *slave_thread,
                   void *thd_killed)
{
    memcpy(&plug__server.printf_error, &printf_error, sizeof printf_error);
    memcpy(&plug__server.access_test, &access_test, sizeof access_test);
    memcpy(&plug__server.slave_thread, &slave_thread, sizeof slave_thread);
    memcpy(&plug__server.thd_killed, &thd_killed, sizeof thd_killed);
}


PLUG__CONSTRUCTOR
static void
plug__life_recognise(void)
{
    void *const server  = dlopen(NULL, RTLD_LAZY);
    const char *version = dlsym(server, "server_version");
    void *const c_name  = dlsym(server, "my_printf_error");
    void *const cxx     = dlsym(server, "_Z15my_printf_errorjPKciz");
    void *const test    = dlsym(server, "_Z19keyring_access_testv");
    void *const killed  = dlsym(server, "thd_killed");
    plug__abi_plugins *const all = &_mysql_plugin_declarations_;

    plug__server.started = dlsym(server, "mysqld_server_started");
    if (version == NULL)
        version = "";
    plug__settings_describe();
    all->v80->head = plug__life_head;   /* v57's head is the same bytes      */
    _mysql_sizeof_struct_st_plugin_ = (int)sizeof *all->v80;
    if (c_name != NULL && cxx == NULL && strncmp(version, "5.7.", 4) == 0) {
        plug__server.is_57 = true;
        all->v57->tail = plug__life_tail;
        _mysql_sizeof_struct_st_plugin_ = (int)sizeof *all->v57;
        plug__life_resolve(c_name, test,
                           dlsym(server, "thd_slave_thread"), killed);
    } else if (cxx != NULL && c_name == NULL
               && strtol(version, NULL, 10) >= 8) {
        all->v80->tail = plug__life_tail;
        plug__life_resolve(cxx, test,
                           dlsym(server, "_Z16thd_slave_threadPK3THD"),
                           killed);
    } else {
        all->v80->head.init  = plug__life_refuse;
        all->v80->tail.flags = PLUG__ABI_ALLOW_EARLY;   /* beyond 5.7's end  */
    }
}
