/* keyring_aws_plugin.c - MySQL's keyring_aws, open - BSD-2-Clause
 *
 * Protects a MySQL server's keys with AWS KMS: InnoDB's master keys, the binary
 * log's keys, and the keys that keyring_udf stores. One binary is a plugin and
 * a component for MySQL 5.7, 8.0, 8.4 and 9.x, and does what MySQL's manual
 * says of keyring_aws and of component_keyring_aws.
 *
 * COMPILE    keyring_aws.h lies beside this file; no MySQL headers are needed.
 *
 *     cc -O2 -shared -fPIC -o keyring_aws.so keyring_aws_plugin.c \
 *        -lbearssl -lcurl
 *
 * LOAD       Install keyring_aws.so in the server's plugin_dir, and take one of
 *            two doors. The data file is the same.
 *
 *            The component, for MySQL 8.0.24 and later: link
 *            component_keyring_aws.so to keyring_aws.so, and write its settings
 *            into component_keyring_aws.cnf beside it (mode 0640, owner root,
 *            the group of the server). mysqld.my, beside mysqld, names it.
 *
 *     { "cmk_id": "alias/mysql",
 *       "data_file": "/var/lib/mysql-keyring/keyring_aws_data",
 *       "aws_authentication": {
 *         "mode": "simple", "region": "eu-west-1",
 *         "access_key_id": "AKIA...", "access_key_secret": "..." } }
 *
 *     { "components": "file://component_keyring_aws" }
 *
 *            The plugin, for MySQL 5.7 and later: put the access key id on line
 *            1 and the secret access key on line 2 of
 *            /var/lib/mysql-keyring/keyring_aws_conf (owner mysql, mode 0600).
 *
 *     [mysqld]
 *     early-plugin-load  = keyring_aws.so
 *     keyring_aws_cmk_id = alias/mysql
 *     keyring_aws_region = eu-west-1
 *
 *            After the first start (of the component: the first key), which
 *            makes the data file, add keyring_aws_create = OFF (of the
 *            component: "keyring_aws": { "create": false }): from then on a
 *            missing file is refused.
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
 *            config      the settings file of the component
 *            component   the other door: a keyring component
 *            services    what the server calls of the component
 *            functions   the SQL functions: a table, a row each
 *            life        start, end, and which server this is
 *
 * Rooms call only rooms above them. KMS, the data file and credentials are the
 * library's, in keyring_aws.h; this file makes a MySQL plugin of it, and a
 * keyring component. These are the two doors into the file: each has a guard,
 * which knows its server only through four functions.
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
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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
 *        abi_show | abi_keyring abi_plugins | abi_udf | abi_registry
 *        abi_component abi_named abi_needed | abi_load abi_state abi_metadata
 *        abi_reader abi_writer abi_generator abi_names
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

    PLUG__ABI_SHOW_LONGLONG = 4,     /* from 5 on, 5.7's number differently   */
    PLUG__ABI_SHOW_CHAR_PTR = 6,     /* in 8.0 and later                      */
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

/* ---- components: 0 is ok, unless a comment says otherwise ---------------- */

typedef struct plug__abi_registry {
    int (*acquire)(const char *service, void **table);
    int (*acquire_related)(const char *service, void *table, void **out);
    int (*release)(void *table);
} plug__abi_registry;

typedef struct plug__abi_security_of {  /* mysql_thd_security_context        */
    int (*get)(void *thd, void **context);
    int (*set)(void *thd, void *context);
} plug__abi_security_of;

typedef struct plug__abi_security_options {     /* mysql_security_context_.. */
    int (*get)(void *context, const char *name, void *value);
    int (*set)(void *context, const char *name, void *value);
} plug__abi_security_options;

typedef struct plug__abi_grants {       /* global_grants_check               */
    int (*has_global_grant)(void *context, const char *name, size_t len);
} plug__abi_grants;                     /* 1: it has                         */

typedef struct plug__abi_named {        /* a pair of a list; NULLs end it    */
    const char *name;
    const void *what;                   /* a table, or a text                */
} plug__abi_named;

typedef struct plug__abi_needed {
    const char *name;
    void      **where;
} plug__abi_needed;

typedef struct plug__abi_component {
    const char             *name;
    const plug__abi_named  *provides;   /* "service.implementation", table   */
    const plug__abi_needed *requires;
    const plug__abi_named  *metadata;
    int                   (*init)(void), (*deinit)(void);
} plug__abi_component;

typedef struct plug__abi_load {         /* keyring_load                      */
    int (*load)(const char *component_path, const char *instance_path);
} plug__abi_load;

typedef struct plug__abi_state {        /* keyring_component_status          */
    int (*is_initialized)(void);        /* 1: it is                          */
} plug__abi_state;

typedef struct plug__abi_metadata {     /* keyring_component_metadata_query  */
    int (*init)(void **rows);
    int (*deinit)(void *rows);
    int (*is_valid)(void *rows);        /* 1: there is a row                 */
    int (*next)(void *rows);
    int (*get_length)(void *rows, size_t *key, size_t *value);   /* with NUL */
    int (*get)(void *rows, char *key, size_t key_size, char *value,
               size_t value_size);
} plug__abi_metadata;

typedef struct plug__abi_reader {       /* keyring_reader_with_status        */
    int (*init)(const char *key_id, const char *user_id, void **key);
    int (*deinit)(void *key);
    int (*fetch_length)(void *key, size_t *len, size_t *type_len);
    int (*fetch)(void *key, unsigned char *data, size_t size, size_t *len,
                 char *type, size_t type_size, size_t *type_len);
} plug__abi_reader;

typedef struct plug__abi_writer {       /* keyring_writer                    */
    int (*store)(const char *key_id, const char *user_id,
                 const unsigned char *data, size_t len, const char *type);
    int (*remove)(const char *key_id, const char *user_id);
} plug__abi_writer;

typedef struct plug__abi_generator {    /* keyring_generator                 */
    int (*generate)(const char *key_id, const char *user_id, const char *type,
                    size_t len);
} plug__abi_generator;

typedef struct plug__abi_names {        /* keyring_keys_metadata_iterator    */
    int (*init)(void **walk);
    int (*deinit)(void *walk);
    int (*is_valid)(void *walk);        /* 1: there is a name                */
    int (*next)(void *walk);
    int (*get_length)(void *walk, size_t *key_id, size_t *user_id);
    int (*get)(void *walk, char *key_id, size_t key_id_size, char *user_id,
               size_t user_id_size);
} plug__abi_names;


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
 * The page keyring_aws-messages explains each: after a change of a row, run
 * tests/package/messages.py. */
#define PLUG__LOG_NO_HOST       301, PLUG__ERROR, "cannot start: this program" \
    " does not look like MySQL 5.7, 8.0 or newer: load the plugin into one of" \
    " these"
#define PLUG__LOG_NO_START      302, PLUG__ERROR, "cannot start: %s. The"      \
    " server has no keyring: correct that, and %s"
#define PLUG__LOG_NO_KMS_KEY    303, PLUG__WARNING, "%scmk_id has to be set:"  \
    " until then keys can only be fetched. Set it in %s"
#define PLUG__LOG_WAITS         304, PLUG__WARNING, "the server is starting,"  \
    " and waits for KMS for up to %d s (%sstart_seconds): %s"
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
#define PLUG__LOG_START_TIME    316, PLUG__WARNING, "%stimeout is %d ms, more" \
    " than %sstart_seconds, %d: a starting server may wait for KMS longer than"\
    " these seconds"
#define PLUG__LOG_BACK          322, PLUG__WARNING, "keys can be read"    \
    " again; before that, the server asked in vain for the key of %s%s%s"
#define PLUG__LOG_UNKNOWN       323, PLUG__WARNING, "%s, line %d: the key %s"  \
    " is not known, and is ignored%s%s%s"
#define PLUG__LOG_NO_LOAD       324, PLUG__ERROR, "the component has no"       \
    " keyring: %s. Correct that, and %s"
#define PLUG__LOG_NO_RELOAD     325, PLUG__ERROR, "ALTER INSTANCE RELOAD"      \
    " KEYRING changed nothing: %s"
#define PLUG__LOG_LOADED        326, PLUG__NOTE, "%s was read%s"
#define PLUG__LOG_TWO_DOORS     327, PLUG__WARNING, "the data file %s is in"   \
    " use by the plugin keyring_aws and by the component"                      \
    " component_keyring_aws. That loses nothing, but one is enough: load only" \
    " one, or give the plugin another file"
#define PLUG__LOG_NOT_OPEN      328, PLUG__ERROR, "the keyring cannot be"      \
    " opened: %s"

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
    plug__lines_kept kept[PLUG__KEPT];
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
 * Gives: guard_host guard_config guard_values guard | guard_begin guard_raise
 *        guard_fail guard_note guard_shut guard_admits | guard_merge
 *        guard_want guard_wanted | guard_open guard_clear guard_publish
 *        guard_borrow guard_take guard_take_to_seal guard_drop
 *        guard_caught_up | guard_try guard_refresh
 *
 * A guard keeps one ring (the library's open keyring) for one host. UNINSTALL
 * PLUGIN does not wait for an SQL function that is still running, so a ring
 * counts its users, and the last user closes it. INSTALL PLUGIN waits up to 30
 * seconds until an earlier ring is closed. If the earlier ring stays open,
 * INSTALL PLUGIN is refused, because two rings in one process would write the
 * same data file, and each would find that the other had changed the file. A
 * component that is reloaded cannot wait, because the server holds a lock that
 * stops all keys. So there the new ring takes the place of the old one at once.
 * Until the old one is closed, a call that finds the file changed reads it
 * again, and is repeated (guard_caught_up).
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
    const char   *name, *prefix;        /* as lines call the host, and what is
                                         * before the names of its settings  */
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
    int                migrates;        /* the server is a migration tool    */
    plug__guard_values values;          /* those that SET GLOBAL can change  */
} plug__guard_config;

typedef struct plug__guard_ring {
    kaws              *kaws;
    char               file[PLUG__SHOWN];   /* the data file's name          */
    char              *path;            /* its only one; NULL: out of memory */
    bool               migrates;
    int                users;           /* one of them is the guard itself   */
    bool               adopting;        /* a thread is asking KMS            */
    unsigned           asked;           /* how often KMS was asked           */
    plug__guard_values tried;           /* the values that KMS was asked for */
    kaws_error         answer;          /* of KMS; OK: the ring uses them    */
} plug__guard_ring;

/* What room keyring remembers between two calls of the host. */
typedef struct plug__guard_seen {
    pthread_mutex_t lock;
    char     unmade[PLUG__SHOWN];       /* key that could not be made        */
    char     begun[PLUG__SHOWN];        /* log whose first key is being made  */
    unsigned unread;                    /* kinds of keys that KMS did not give,
                                         * a bit each, and THROTTLED; no lock */
    uint64_t answers;                   /* KMS's answers until then; no lock */
    int      away;                      /* why KMS gave no answer, and how   */
    uint64_t away_answers;              /* many it had given then; no lock   */
    int      start_seconds;             /* for which a start waits for KMS   */
    int64_t  deadline_ms;               /* of the start, by the monotonic
                                         * clock; 0: none; no lock           */
} plug__guard_seen;

/* What went wrong last. */
typedef struct plug__guard_last {
    char    text[sizeof ((kaws_error *)0)->text];
    int64_t when;                       /* Unix seconds; 0: nothing did      */
} plug__guard_last;

enum { PLUG__REGIONS = 64 };            /* that have been in use             */

typedef struct plug__guard {
    const plug__guard_host *host;
    plug__lines        lines;           /* its lock is taken after all others */
    pthread_mutex_t    lock;            /* for the ring, its users and values */
    pthread_cond_t     adopted;
    plug__guard_ring  *ring;            /* NULL: there is none               */
    int                open;            /* rings that are not closed yet     */
    bool               replaces;        /* a ring is opened beside one of
                                         * ours that has the same file       */
    pthread_mutex_t    wanted_lock;     /* innermost: held for a copy only   */
    plug__guard_values wanted;
    plug__guard_last   last;            /* this lock is for it, too          */
    kaws_error         shut;            /* and for why there is no ring; OK:
                                         * the host is not loaded            */
    plug__guard_seen   seen;
    pthread_mutex_t    stats_lock;      /* taken before lock                 */
    kaws_stats         stats;           /* the host reads it at any time     */
    const char        *region;          /* and this: one of `regions`        */
    char               regions[PLUG__REGIONS][sizeof(
                           ((kaws_stats *)0)->region_in_use)];
} plug__guard;


/* Before all else. (A guard with values in this file would have its zeros in
 * keyring_aws.so.) */
static void
plug__guard_begin(plug__guard *g, const plug__guard_host *host,
                  void (*write)(int level, const char *line))
{
    g->host        = host;
    g->lines.write = write;
    pthread_mutex_init(&g->lines.lock, NULL);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->adopted, NULL);
    pthread_mutex_init(&g->wanted_lock, NULL);
    pthread_mutex_init(&g->seen.lock, NULL);
    pthread_mutex_init(&g->stats_lock, NULL);
}


/* The library's log hook. That another process has the data file, too
 * (KAWS-115), is not true if it is a ring of ours. */
static void
plug__guard_hear(void *ctx, int level, const char *line)
{
    plug__guard *const g = ctx;

    if (!PLUG__LOAD(&g->replaces) || strncmp(line, "[KAWS-115] ", 11) != 0)
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


/* Remembers an error that an administrator should know of. */
static void
plug__guard_note(plug__guard *g, const kaws_error *err)
{
    pthread_mutex_lock(&g->wanted_lock);
    snprintf(g->last.text, sizeof g->last.text, "%s", err->text);
    g->last.when = (int64_t)time(NULL);
    pthread_mutex_unlock(&g->wanted_lock);
}


/* Tells the callers that get no ring why there is none; NULL: the host is not
 * loaded. */
static void
plug__guard_shut(plug__guard *g, const kaws_error *why)
{
    pthread_mutex_lock(&g->wanted_lock);
    if (why != NULL)
        g->shut = *why;
    else
        g->shut.status = KAWS_OK;
    pthread_mutex_unlock(&g->wanted_lock);
}


static void
plug__guard_why(plug__guard *g, kaws_error *err)
{
    pthread_mutex_lock(&g->wanted_lock);
    *err = g->shut;
    pthread_mutex_unlock(&g->wanted_lock);
    if (err->status == KAWS_OK)
        plug__guard_fail(err, KAWS_CONFIG, "%s is not loaded", g->host->name);
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
    if (g->ring != NULL) {
        if (change->of[PLUG__CMK_ID].text[0] != '\0'
            || change->of[PLUG__REGION].text[0] != '\0')
            kaws_use_cache(g->ring->kaws, 0);
        kaws_use_cache(g->ring->kaws,
                       plug__guard_wanted(g).of[PLUG__CACHE_SECONDS].number);
    }
    pthread_mutex_unlock(&g->lock);
}


/* ---- the ring and its users ---------------------------------------------- */

/* Counts one more user of the ring, and returns it; NULL: there is no ring. */
static plug__guard_ring *
plug__guard_borrow(plug__guard *g)
{
    plug__guard_ring *ring;

    pthread_mutex_lock(&g->lock);
    if ((ring = g->ring) != NULL)
        ring->users++;
    pthread_mutex_unlock(&g->lock);
    return ring;
}


/* Releases a ring that guard_take has returned, or NULL. The last user of a
 * ring closes the ring. That ring may have changed the data file after its
 * successor, if there is one, had read the file. */
static void
plug__guard_drop(plug__guard *g, plug__guard_ring *ring)
{
    kaws_error err;
    bool       last;

    while (ring != NULL) {
        pthread_mutex_lock(&g->lock);
        last = --ring->users == 0;
        pthread_mutex_unlock(&g->lock);
        if (!last)
            return;
        kaws_close(ring->kaws);
        free(ring->path);
        free(ring);
        if ((ring = plug__guard_borrow(g)) != NULL)
            (void)kaws_refresh(ring->kaws, &err);
        __atomic_sub_fetch(&g->open, 1, __ATOMIC_RELEASE);
    }
}


/* Whether a call that failed may succeed now: the file had changed, and an
 * earlier ring, which a function still uses, may have changed it. */
static bool
plug__guard_caught_up(plug__guard *g, plug__guard_ring *ring,
                      const kaws_error *err)
{
    kaws_error ignored;

    return err->status == KAWS_CHANGED
           && __atomic_load_n(&g->open, __ATOMIC_ACQUIRE) > 1
           && kaws_refresh(ring->kaws, &ignored) == KAWS_OK;
}


/* From now on callers take this ring, and these are the values to adopt (NULL:
 * as before); if the ring is NULL, they get none. Callers that have already
 * taken the earlier ring may finish with it, but no key is kept for them. */
static void
plug__guard_publish(plug__guard *g, plug__guard_ring *ring,
                    const plug__guard_values *values)
{
    plug__guard_ring *old;

    pthread_mutex_lock(&g->lock);
    old     = g->ring;
    g->ring = ring;
    if (values != NULL) {
        pthread_mutex_lock(&g->wanted_lock);
        g->wanted = *values;
        pthread_mutex_unlock(&g->wanted_lock);
    }
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
        plug__guard_why(g, err);
    } else {
        ring->users++;
        wanted = plug__guard_wanted(g);
        kaws_use_timeouts(ring->kaws, wanted.of[PLUG__CONNECT_TIMEOUT].number,
                          wanted.of[PLUG__TIMEOUT].number);
    }
    pthread_mutex_unlock(&g->lock);
    return ring;
}


/* Opens a ring, which is not published yet; NULL on failure. */
static plug__guard_ring *
plug__guard_open(plug__guard *g, plug__guard_config *cfg, kaws_error *err)
{
    plug__guard_ring *const ring = calloc(1, sizeof *ring);

    cfg->kaws.hooks.ctx = g;
    cfg->kaws.hooks.log = plug__guard_hear;
    cfg->kaws.hooks.cancelled = g->host->cancelled;
    if (ring == NULL) {
        plug__guard_fail(err, KAWS_MEMORY, "out of memory");
    } else if (kaws_open(&ring->kaws, &cfg->kaws, err) == KAWS_OK) {
        kaws_show(ring->file, sizeof ring->file, cfg->kaws.data_file);
        ring->path     = realpath(cfg->kaws.data_file, NULL);
        ring->users    = 1;
        ring->migrates = cfg->migrates != 0;
        ring->tried    = cfg->values;
        __atomic_add_fetch(&g->open, 1, __ATOMIC_RELAXED);
        return ring;
    }
    free(ring);
    return NULL;
}


/* Waits until all earlier rings are closed. Returns false if one stays open. */
static bool
plug__guard_clear(plug__guard *g, kaws_error *err)
{
    const struct timespec pause = { 0, 20 * 1000 * 1000 };

    for (int i = 0; i < 1500            /* up to 30 s                        */
                    && __atomic_load_n(&g->open, __ATOMIC_ACQUIRE) != 0
                    && !g->host->cancelled(NULL); i++)
        nanosleep(&pause, NULL);
    if (__atomic_load_n(&g->open, __ATOMIC_ACQUIRE) == 0)
        return true;
    plug__guard_fail(err, KAWS_RUNNING, "an SQL function that began before"
                     " UNINSTALL PLUGIN is still changing the data file:"
                     " install the plugin again when it has ended");
    return false;
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
    memset(err, 0, sizeof *err);
    if (ring != g->ring) {
        /* it was replaced, and keeps the values that it has */
    } else if (killed) {
        plug__guard_fail(err, KAWS_CANCELLED, "the call was cancelled while it"
                         " waited for another thread, and nothing was changed");
    } else if (cmk_id[0] == '\0') {
        plug__guard_fail(err, KAWS_CONFIG, "%scmk_id has to be set",
                         g->host->prefix);
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

/* Shows which region is in use. The server may read a text while we write it,
 * so none that was shown is ever written again: each region has a place. */
static void
plug__guard_show_region(plug__guard *g, const char *name)
{
    size_t i = 0;

    while (i < PLUG__REGIONS && g->regions[i][0] != '\0'
           && strcmp(g->regions[i], name) != 0)
        i++;
    if (i < PLUG__REGIONS && g->regions[i][0] == '\0')
        snprintf(g->regions[i], sizeof g->regions[i], "%s", name);
    PLUG__STORE(&g->region, i < PLUG__REGIONS ? g->regions[i] : "");
}


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
    plug__guard_show_region(g, stats.region_in_use);
    plug__guard_drop(g, ring);
    pthread_mutex_unlock(&g->stats_lock);
}


/* ==========================================================================
 * ROOM  server      the host: services, log, errors, who is calling
 * ==========================================================================
 * Uses: abi lines guard
 * Gives: server_guard server_lines | server_has server_session
 *        server_statement | server_remember server_is_tool server_starting
 *        server_restores server_restores_early server_ending server_log |
 *        server_stopped server_replays server_killed server_called
 *        server_raise
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
    void         *(*current_thd)(void);
    int           (*log_message)(int type, ...);
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
    if (plug__server_has(mysql_parser_service))
        return mysql_parser_service->current_session();
    return plug__server.current_thd != NULL ? plug__server.current_thd() : NULL;
}


/* The statement that this session runs; of no bytes if it runs none. */
static plug__abi_text
plug__server_text(void *thd)
{
    static const plug__abi_text none = { "", 0 };
    plug__abi_text text = none;

    if (plug__server_has(mysql_parser_service))
        text = mysql_parser_service->get_query(thd);
    return text.at != NULL ? text : none;
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


/* Whether this process is no server, but a tool such as mysql_migrate_keyring,
 * which offers none of a server's functions. */
static bool
plug__server_is_tool(void)
{
    return plug__server.printf_error == NULL;
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


/* What follows the comments that a tool may write before a statement. Comments
 * for MySQL stay, because only the server knows whether they count. */
static plug__abi_text
plug__server_bare(plug__abi_text text)
{
    const char *at = text.at, *const end = at + text.len, *to = at;

    while (to != NULL && end - (at = to) > 2) {
        if (memcmp(at, "/*", 2) == 0 && at[2] != '!') {
            to = memmem(at + 2, (size_t)(end - at) - 2, "*/", 2);
            to += to != NULL ? 2 : 0;
        } else if (*at == '#' || memcmp(at, "--", 2) == 0) {
            to = memchr(at, '\n', (size_t)(end - at));
        } else if (*at == ' ' || (*at >= '\t' && *at <= '\r')) {
            to = at + 1;
        } else {
            break;
        }
    }
    return (plug__abi_text){ at, (size_t)(end - at) };
}


/* Whether this session's statement is INSTALL PLUGIN, or INSTALL COMPONENT. It
 * has to begin with this word, because a session sets no variable by itself in
 * such a statement. */
static bool
plug__server_installs(void *thd)
{
    static const char install[] = "INSTALL";
    const plug__abi_text text = plug__server_bare(plug__server_text(thd));
    size_t i = 0;

    while (i < text.len && install[i] != '\0'
           && (text.at[i] & ~('a' ^ 'A')) == install[i])
        i++;
    return install[i] == '\0';
}


/* Whether the server itself sets a variable now, to a value of SET PERSIST. It
 * does so in the statement INSTALL PLUGIN (8.0 even in that of another plugin),
 * or while it starts, and then outside any statement (a statement at that time
 * comes from init_file). 5.7 has no SET PERSIST. */
static bool
plug__server_restores(void *thd)
{
    plug__server_called();
    return !plug__server.is_57
           && ((plug__server_starting() && plug__server_text(thd).len == 0)
               || plug__server_installs(thd)
               || plug__server_statement(thd)
                  == PLUG__LOAD(&plug__server.install));
}


/* Whether it does so before init, as 8.0 does. */
static bool
plug__server_restores_early(void *thd)
{
    bool loaded;

    pthread_mutex_lock(&plug__server.lock);
    loaded = plug__server.handle != NULL;
    pthread_mutex_unlock(&plug__server.lock);
    return !loaded && plug__server_installs(thd);
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
    "the plugin keyring_aws", "keyring_aws_", plug__server_raise,
    plug__server_refusal, plug__server_called, plug__server_killed
};

static plug__guard plug__server_guard;
static plug__lines *const plug__server_lines = &plug__server_guard.lines;


/* ==========================================================================
 * ROOM  status      the status variables: a table, a row each
 * ==========================================================================
 * Uses: abi guard server
 * Gives: status_table | status_describe status_ticker status_tick
 *        status_untick
 *
 * SHOW_FUNC would compute a figure when it is asked for, but its number differs
 * between MySQL 5.7, Percona's 5.7 and 8.0; SHOW_LONGLONG has the same number
 * in all of them. (Texts differ, too, so 5.7 gets no row with one.) So the
 * server reads the guard's figures straight out of memory, at any time and
 * without a lock. They are refreshed after each operation. While an SQL
 * function runs, a thread refreshes them every 10 ms, so that a long rotation
 * shows its progress. The thread ends with the function. So an idle plugin does
 * nothing, and has no thread (room scout's ends with its errand).
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
    ROW("failovers",    failovers),
    { "Keyring_aws_region_in_use", (char *)&plug__server_guard.region,
      PLUG__ABI_SHOW_CHAR_PTR, PLUG__ABI_SHOW_GLOBAL },
    { NULL, NULL, 0, 0 }
};

#undef ROW


/* Leaves out what this server would show wrongly. */
static void
plug__status_describe(bool is_57)
{
    plug__abi_show *row = plug__status_table;

    plug__server_guard.region = "";
    while (is_57 && row->name != NULL && row->type == PLUG__ABI_SHOW_LONGLONG)
        row++;
    if (is_57)
        row->name = NULL;
}


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
 * Gives: settings_table settings_rows | settings_describe settings_read
 *        settings_restore settings_forget settings_find
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
 *
 * In INSTALL PLUGIN, MySQL 8.0 sets persisted values before init, when there is
 * no ring that could judge them. Then their update keeps what my.cnf says. The
 * ring is opened with that, because my.cnf says which account is trusted; and
 * then settings_restore has the ring judge the persisted values.
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
    bool        path, secret;           /* of a file; a URL with a password  */
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
      .path = true,
      .help = "File of AWS credentials: id, secret, token, a line each." },
    { "auth", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.auth),
      .def.text = "file", .empty = PLUG__DEFAULT,
      .help = "Where AWS credentials come from: file (conf_file) or native." },
    { "profile", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.profile),
      .help = "native: the profile to use. Else that of AWS_PROFILE." },
    { "config_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.config_file),
      .path = true,
      .help = "native: file of profiles. Else that of AWS_CONFIG_FILE." },
    { "credentials_file", PLUG__TEXT, PLUG__MY_CNF,
      MEMBER(kaws.credentials_file),
      .path = true,
      .help = "native: file of keys. Else AWS_SHARED_CREDENTIALS_FILE's." },
    { "role_arn", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.role_arn),
      .help = "ARN of a role that these credentials assume. Else none." },
    { "role_external_id", PLUG__TEXT, PLUG__MY_CNF,
      MEMBER(kaws.role_external_id),
      .help = "External id that the role's trust policy wants." },
    { "role_session_name", PLUG__TEXT, PLUG__MY_CNF,
      MEMBER(kaws.role_session_name),
      .help = "Session name that CloudTrail shows. Else keyring_aws." },
    { "data_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.data_file),
      .def.text = "/var/lib/mysql-keyring/keyring_aws_data",
      .empty = PLUG__REFUSED,
      .path = true, .help = "File of the sealed keys." },
    { "create", PLUG__FLAG, PLUG__MY_CNF, MEMBER(create), .def.flag = 1,
      .help = "OFF: if the data file is missing, no new one is made." },
    { "read_only", PLUG__FLAG, PLUG__MY_CNF, MEMBER(kaws.read_only),
      .help = "ON: keys are fetched, and the data file is never changed." },
    { "accounts", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.accounts),
      .help = "AWS accounts to trust, with commas. Else the KMS key's own." },
    { "endpoint", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.endpoint),
      .help = "URL of KMS, for VPC endpoints. Else that of the region." },
    { "sts_endpoint", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.sts_endpoint),
      .help = "URL of AWS STS, for VPC endpoints. Else that of the region." },
    { "failover_regions", PLUG__TEXT, PLUG__MY_CNF,
      MEMBER(kaws.failover_regions),
      .help = "Regions, or region=URL, to ask if a mrk- key's own is down." },
    { "fips", PLUG__FLAG, PLUG__MY_CNF, MEMBER(kaws.fips),
      .help = "ON: the FIPS hosts of KMS and AWS STS are used." },
    { "dualstack", PLUG__FLAG, PLUG__MY_CNF, MEMBER(kaws.dualstack),
      .help = "ON: the dual-stack hosts (IPv6) of KMS and STS are used." },
    { "ca_file", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.ca_file),
      .path = true,
      .help = "File of CA certificates that vouch for KMS. Else libcurl's." },
    { "proxy", PLUG__TEXT, PLUG__MY_CNF, MEMBER(kaws.proxy), .secret = true,
      .help = "URL of a proxy for KMS and AWS STS. Else the environment's." },
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
    { "open_mode", PLUG__FLAG, PLUG__HIDDEN, MEMBER(migrates),
      .help = "1: read only. The server sets it when it migrates keys." }
};

#undef MEMBER

enum { PLUG__SETTINGS = sizeof plug__settings_rows
                      / sizeof *plug__settings_rows };

typedef union plug__settings_value {
    char *text;
    int   number;
    char  flag;
} plug__settings_value;

static plug__settings_value plug__settings_values[PLUG__SETTINGS];

typedef struct plug__settings_change {  /* a text that is too long stays so  */
    char was[PLUG__VALUE_MAX + 1], is[PLUG__VALUE_MAX + 1];
} plug__settings_change;

/* What the server set before init; "is" is empty: nothing. */
static plug__settings_change plug__settings_early[PLUG__VALUES];

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
 * the KMS key and the region one by one. Before init, settings_restore judges.
 */
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
        if (!plug__server_restores_early(thd)
            && plug__guard_try(&plug__server_guard, &tried,
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


/* Writes a variable's value; of a text without a value, "". */
static void
plug__settings_show(const plug__settings_row *row, const void *at,
                    char out[PLUG__VALUE_MAX + 1])
{
    const char *const text = row->kind == PLUG__TEXT ? *(char *const *)at
                                                     : NULL;

    if (row->kind == PLUG__NUMBER)
        snprintf(out, PLUG__VALUE_MAX + 1, "%d", *(const int *)at);
    else
        snprintf(out, PLUG__VALUE_MAX + 1, "%s", text != NULL ? text : "");
}


static void
plug__settings_say(const plug__settings_row *row,
                   const plug__settings_change *change, bool restores)
{
    static const char persisted[] = ", a value of SET PERSIST", later[] = ", a"
        " value of SET PERSIST: KMS is asked when the next key is made";
    char was[PLUG__SHOWN], is[PLUG__SHOWN];

    kaws_show(was, sizeof was, change->was);
    kaws_show(is, sizeof is, change->is);
    if (strcmp(was, is) != 0)
        plug__lines_say(plug__server_lines, "", PLUG__LOG_SET, row->name, is,
                        was, !restores ? "" : row->from == PLUG__SET ? persisted
                                                                : later);
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
    const bool restores = plug__server_restores(thd);
    const plug__guard_values checked = plug__settings_checked(thd, NULL);
    plug__guard_values    wanted = { .of = { { "", 0, false } } };
    plug__settings_change change = { "", "" };

    plug__settings_show(row, at, change.was);
    if (row->kind == PLUG__TEXT) {
        char *const text = *(char **)at = *(char *const *)save;
        snprintf(wanted.of[row->wanted].text, PLUG__VALUE_MAX, "%s",
                 text != NULL ? text : "");
    } else {
        wanted.of[row->wanted].number = *(int *)at = *(const int *)save;
        wanted.of[row->wanted].has_number = true;
    }
    plug__settings_show(row, at, change.is);
    if (plug__server_restores_early(thd)) {
        plug__settings_early[row->wanted] = change;
        return;
    }
    plug__settings_say(row, &change, restores);
    plug__guard_merge(&wanted, &checked);
    plug__guard_want(&plug__server_guard, &wanted);
}


/* The row of this name, or -1. */
static int
plug__settings_find(const char *name)
{
    int i = PLUG__SETTINGS - 1;

    while (i >= 0 && strcmp(plug__settings_rows[i].name, name) != 0)
        i--;
    return i;
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


/* What the server set before init in place of my.cnf's value, or NULL. An
 * INSTALL that failed before init has left its values here, and the variable
 * has a different one. */
static const plug__settings_change *
plug__settings_persisted(int i)
{
    const plug__settings_row *const row = &plug__settings_rows[i];
    const plug__settings_change *const early =
        &plug__settings_early[row->wanted];
    char is[PLUG__VALUE_MAX + 1];

    plug__settings_show(row, &plug__settings_values[i], is);
    return row->from >= PLUG__SET && early->is[0] != '\0'
           && strcmp(early->is, is) == 0 ? early : NULL;
}


/* Has the ring judge the persisted values that the server set before init, as
 * the check does with later ones, and makes them count. */
static bool
plug__settings_restore(plug__guard *g, kaws_error *err)
{
    plug__guard_values tried = plug__guard_wanted(g);
    const plug__settings_change *early[PLUG__SETTINGS];
    bool       any = false;
    kaws_error why;

    for (int i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];

        early[i] = plug__settings_persisted(i);
        any = any || early[i] != NULL;
        if (early[i] != NULL && row->kind == PLUG__TEXT)
            memcpy(tried.of[row->wanted].text, early[i]->is, PLUG__VALUE_MAX);
    }
    if (any && plug__guard_try(g, &tried, false, &why) != KAWS_OK) {
        plug__guard_fail(err, why.status, "a value of SET PERSIST was refused"
                         " (RESET PERSIST removes it): %s", why.text);
        return false;
    }
    for (int i = 0; any && i < PLUG__SETTINGS; i++) {
        if (early[i] != NULL)
            plug__settings_say(&plug__settings_rows[i], early[i], true);
    }
    if (any)
        plug__guard_want(g, &tried);
    return true;
}


/* Hides the user and the password of a URL, because every session can see the
 * variables. The ring has a copy. */
static void
plug__settings_mask(char *text)
{
    char *const at = strrchr(text, '@'), *from = strstr(text, "://");
    size_t n, rest, gone;

    if (at == NULL)
        return;
    from = from != NULL && from < at ? from + 3 : text;
    n    = at - from < 3 ? (size_t)(at - from) : 3;
    rest = strlen(at);
    gone = (size_t)(at - from) - n;
    memset(from, '*', n);
    memmove(from + n, at, rest);
    kaws_wipe(from + n + rest, gone);
}


/* After init: nothing is remembered, and nothing secret is shown. */
static void
plug__settings_forget(void)
{
    memset(plug__settings_early, 0, sizeof plug__settings_early);
    for (int i = 0; i < PLUG__SETTINGS; i++) {
        if (plug__settings_rows[i].secret
            && plug__settings_values[i].text != NULL)
            plug__settings_mask(plug__settings_values[i].text);
    }
}


/* Fills the configuration from a host's values. A text without a value is NULL.
 * In place of a text that was set before init, my.cnf's is taken. A number
 * needs no judge. */
static kaws_status
plug__settings_read(const plug__guard *g, const plug__settings_value *values,
                    plug__guard_config *cfg, kaws_error *err)
{
    const char *const prefix = g->host->prefix;

    memset(cfg, 0, sizeof *cfg);
    for (int i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];
        const plug__settings_change *early;
        void *const member = (char *)cfg + row->member;
        const char *text;

        if (row->kind != PLUG__TEXT) {
            *(int *)member = row->kind == PLUG__FLAG ? values[i].flag
                                                     : values[i].number;
            if (row->from >= PLUG__SET) {
                cfg->values.of[row->wanted].number = *(int *)member;
                cfg->values.of[row->wanted].has_number = true;
            }
            continue;
        }
        early = values == plug__settings_values ? plug__settings_persisted(i)
                                                : NULL;
        text  = early != NULL ? early->was : values[i].text;
        if (text == NULL || text[0] == '\0')
            text = row->empty == PLUG__DEFAULT ? row->def.text : NULL;
        if (text == NULL && row->empty == PLUG__REFUSED)
            return plug__guard_fail(err, KAWS_CONFIG, "%s%s has to be set",
                                    prefix, row->name);
        if (text != NULL && row->from >= PLUG__SET
            && snprintf(cfg->values.of[row->wanted].text, PLUG__VALUE_MAX, "%s",
                        text) >= PLUG__VALUE_MAX)
            return plug__guard_fail(err, KAWS_CONFIG, "%s%s is too long",
                                    prefix, row->name);
        *(const char **)member = text;
    }
    cfg->kaws.must_exist = !cfg->create;
    cfg->kaws.must_have_creds = 1;
    if (cfg->migrates)
        cfg->kaws.read_only = 1;
    return KAWS_OK;
}


/* ==========================================================================
 * ROOM  keyring     what the server calls: store, fetch, ...
 * ==========================================================================
 * Uses: abi lines guard server
 * Gives: keyring_job keyring_accept keyring_do keyring_watch keyring_list
 *        keyring_walk keyring_walk_end | keyring_calls keyring_begin
 *        keyring_in_vain keyring_patience keyring_judge
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

    if (ring != NULL)
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
plug__keyring_may_lack(plug__guard *g, plug__guard_ring *ring, const char *id)
{
    static const char table[] = "INNODBKey-", log[] = "MySQLReplicationKey_";
    char *const begun = g->seen.begun;
    const char *number;

    if (strncmp(id, table, sizeof table - 1) == 0) {
        number = id + sizeof table - 1;
        number += strspn(number, "0123456789");
        return (*number == '-' && number[1 + strspn(number + 1, "0123456789")]
                                  == '\0')
               || strcmp(id, g->seen.unmade) == 0
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


/* Logs that a key is missing. Nobody here can know why. Without a ring there is
 * no data file. */
static void
plug__keyring_say_missing(plug__guard *g, plug__guard_ring *ring,
                          const char *file, const char *about, const char *id)
{
    kaws_stats s = { .keys = 0 };
    struct tm  at = { 0 };
    time_t     newest;
    char       shown[PLUG__SHOWN], state[128], made[48] = "";

    if (ring != NULL)
        kaws_get_stats(ring->kaws, &s);
    newest = (time_t)s.newest;
    if (s.keys > 0 && gmtime_r(&newest, &at) != NULL)
        strftime(made, sizeof made, ", the newest of %Y-%m-%d %H:%M:%S UTC",
                 &at);
    snprintf(state, sizeof state, ring == NULL
             ? "there is no such file; is its volume mounted?"
             : "%llu %s%s, checksum begins with %02x%02x%02x%02x",
             (unsigned long long)s.keys, s.keys == 1 ? "key" : "keys", made,
             s.checksum[0], s.checksum[1], s.checksum[2], s.checksum[3]);
    plug__lines_say(&g->lines, about, PLUG__LOG_MISSING,
                    kaws_show(shown, sizeof shown, id), file, state);
}


/* Records how a call for a key of the server's own ended. Logs if the key is
 * missing and must not be, or if the server has made a missing key again.
 * `file`: the data file, whose ring may be NULL; NULL: nobody could look. */
static void
plug__keyring_watch(plug__guard *g, plug__guard_ring *ring, const char *file,
                    const plug__keyring_job *job, kaws_status status)
{
    const char *const id = job->key_id != NULL ? job->key_id : "";
    char *const unmade = g->seen.unmade;
    char *const begun  = g->seen.begun;
    char about[PLUG__ABOUT], shown[PLUG__SHOWN];
    bool allowed = true;

    if (job->user_id != NULL && job->user_id[0] != '\0')
        return;
    pthread_mutex_lock(&g->seen.lock);
    if (file != NULL && job->verb == PLUG__FETCH_KEY
        && status == KAWS_NOT_FOUND)
        allowed = plug__keyring_may_lack(g, ring, id);
    else if (job->verb == PLUG__GENERATE_KEY && status != KAWS_OK)
        snprintf(unmade, PLUG__SHOWN, "%s", id);
    else if (job->verb == PLUG__GENERATE_KEY && strcmp(unmade, id) == 0)
        unmade[0] = '\0';
    else if (job->verb == PLUG__STORE_KEY && strcmp(begun, id) == 0)
        begun[0] = '\0';
    pthread_mutex_unlock(&g->seen.lock);
    if (allowed && (status != KAWS_OK || PLUG__LOAD(&g->lines.used) == 0))
        return;
    snprintf(about, sizeof about, "miss\n%s", id);
    if (!allowed)
        plug__keyring_say_missing(g, ring, file, about, id);
    else if (plug__lines_well(&g->lines, about)
             && job->verb == PLUG__GENERATE_KEY)
        plug__lines_say(&g->lines, "", PLUG__LOG_MADE_AGAIN,
                        kaws_show(shown, sizeof shown, id), file);
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
plug__keyring_in_vain(plug__guard *g, plug__guard_ring *ring, unsigned kinds)
{
    PLUG__STORE(&g->seen.answers,
                ring != NULL ? plug__keyring_answers(ring) : UINT64_MAX);
    __atomic_or_fetch(&g->seen.unread, kinds, __ATOMIC_RELAXED);
}


/* Whether AWS throttled something until its time was up, and KMS has done
 * nothing since then. */
static bool
plug__keyring_throttled(plug__guard *g)
{
    return PLUG__LOAD(&g->seen.unread) & PLUG__KEYRING_THROTTLED;
}


/* If no key can be read, the server closes what it wanted the key for, and a
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
    bool passes;

    for (unsigned i = 0; i < 2; i++) {
        if (job->verb == PLUG__FETCH_KEY && job->key_id != NULL
            && (job->user_id == NULL || job->user_id[0] == '\0')
            && strncmp(job->key_id, kinds[i].begins, strlen(kinds[i].begins))
               == 0)
            kind = 1u << i;
    }
    if (status == KAWS_THROTTLED)
        kind |= PLUG__KEYRING_THROTTLED;
    passes = status == KAWS_NETWORK || status == KAWS_SERVICE
             || status == KAWS_THROTTLED;
    if (passes && ring != NULL) {
        PLUG__STORE(&g->seen.away_answers, plug__keyring_answers(ring));
        PLUG__STORE(&g->seen.away, (int)status);
    }
    if (passes || status == KAWS_CREDENTIALS || status == KAWS_CONFIG
        || status == KAWS_KMS_KEY) {
        if (kind != 0)
            plug__keyring_in_vain(g, ring, kind);
        return;
    }
    if (status != KAWS_OK || ring == NULL
        || PLUG__LOAD(&g->seen.unread) == 0
        || plug__keyring_answers(ring)
           == PLUG__LOAD(&g->seen.answers))
        return;
    were = __atomic_exchange_n(&g->seen.unread, 0, __ATOMIC_RELAXED)
         & 3;
    if (were != 0)
        plug__lines_say(&g->lines, "", PLUG__LOG_BACK,
                        kinds[(were & 1) == 0].says,
                        were == 3 ? "; and for that of " : "",
                        were == 3 ? kinds[1].says : "");
}


/* A start begins, which may wait for KMS for so long. */
static void
plug__keyring_begin(plug__guard *g, int start_seconds)
{
    g->seen.start_seconds = start_seconds;
    PLUG__STORE(&g->seen.deadline_ms, 0);
    PLUG__STORE(&g->seen.unread, 0);
    pthread_mutex_lock(&g->seen.lock);
    g->seen.unmade[0] = g->seen.begun[0] = '\0';
    pthread_mutex_unlock(&g->seen.lock);
}


/* The patience_ms hook: how long a call may still wait for KMS. Throttling does
 * not make KMS unreachable, but a start must not wait for it once per table. So
 * after the deadline, and after one operation that was throttled until its own
 * time was up, each operation gets one attempt, until KMS carries one out. */
static int
plug__keyring_patience(void *ctx, const kaws_error *err)
{
    plug__guard *const g = ctx;
    const int64_t now = plug__lines_now_ms();
    const int seconds = g->seen.start_seconds;
    int64_t first = 0, deadline = now + seconds * 1000;

    if (!plug__server_starting() || plug__server_ending())
        return 0;
    if (seconds > 0
        && !__atomic_compare_exchange_n(&g->seen.deadline_ms, &first,
                                        deadline, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
        deadline = first;
    else if (seconds > 0)
        plug__lines_say(&g->lines, "", PLUG__LOG_WAITS, seconds,
                        g->host->prefix, err->text);
    if (deadline > now)
        return (int)(deadline - now);
    return err->status == KAWS_THROTTLED && plug__keyring_throttled(g) ? INT_MIN
                                                                      : 0;
}


/* Warns of settings that are allowed, and that nobody may want. */
static void
plug__keyring_judge(plug__guard *g, const plug__guard_config *cfg,
                    const char *where)
{
    const char *const prefix = g->host->prefix;

    if (cfg->start_seconds != 0
        && cfg->kaws.timeout_ms != 10000        /* by default                */
        && cfg->kaws.timeout_ms > cfg->start_seconds * 1000)
        plug__lines_say(&g->lines, "", PLUG__LOG_START_TIME, prefix,
                        cfg->kaws.timeout_ms, prefix, cfg->start_seconds);
    if (cfg->kaws.kms_key_id == NULL)
        plug__lines_say(&g->lines, "", PLUG__LOG_NO_KMS_KEY, prefix, where);
}


/* ---- one call ------------------------------------------------------------ */

/* Logs how the job ended, and returns whether it failed. That a key exists
 * already is only a warning, because InnoDB generates a key that may exist, and
 * then fetches it. */
static bool
plug__keyring_failed(plug__guard *g, const plug__keyring_job *job,
                     const kaws_error *err)
{
    const bool owned = job->user_id != NULL && job->user_id[0] != '\0';
    const char *const id_of = job->key_id != NULL ? job->key_id : "";
    char id[PLUG__SHOWN], user[PLUG__SHOWN], about[PLUG__ABOUT];

    if (err->status == KAWS_OK && PLUG__LOAD(&g->lines.used) == 0)
        return false;
    snprintf(about, sizeof about, "%s\n%s\n%s",
             plug__keyring_verbs[job->verb].name, id_of,
             owned ? job->user_id : "");
    if (err->status == KAWS_OK) {
        (void)plug__lines_well(&g->lines, about);
        return false;
    }
    if (err->status != KAWS_EXISTS && err->status != KAWS_NOT_FOUND)
        plug__guard_note(g, err);
    kaws_show(id, sizeof id, id_of);
    kaws_show(user, sizeof user, owned ? job->user_id : "");
#define ARGS plug__keyring_verbs[job->verb].name, id, owned ? "' of '" : "",   \
             user, "'", err->text
    if (err->status == KAWS_EXISTS || err->status == KAWS_NOT_FOUND
        || err->status == KAWS_CANCELLED)
        plug__lines_say(&g->lines, about, PLUG__LOG_NAME, ARGS);
    else
        plug__lines_say(&g->lines, about, PLUG__LOG_FAILED, ARGS);
#undef ARGS
    return true;
}


/* Does the job. Returns whether it failed; then the log says why. */
static bool
plug__keyring_do(plug__guard *g, const plug__keyring_job *job)
{
    const char *type = NULL;
    plug__guard_ring *ring = NULL;
    kaws_error  err;

    if (plug__keyring_verbs[job->verb].most == 0)       /* nothing is sealed */
        ring = plug__guard_take(g, &err);
    else if ((type = plug__keyring_accept(job, &err)) != NULL)
        ring = plug__guard_take_to_seal(g, &err);
    if (ring != NULL) {
        plug__keyring_call(ring, job, type, &err);
        if (plug__guard_caught_up(g, ring, &err))
            plug__keyring_call(ring, job, type, &err);
    }
    plug__keyring_watch(g, ring, ring != NULL ? ring->file : NULL, job,
                        err.status);
    plug__keyring_recall(g, ring, job, err.status);
    if (job->verb == PLUG__FETCH_KEY && err.status == KAWS_NOT_FOUND)
        err.status = KAWS_OK;           /* no key is an answer, too          */
    plug__guard_drop(g, ring);
    plug__guard_refresh(g);             /* adopting a setting may ask KMS    */
    return plug__keyring_failed(g, job, &err);
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
plug__keyring_fits(plug__guard *g, const plug__guard_ring *ring, kaws_name name)
{
    char key_id[PLUG__SHOWN], user_id[PLUG__SHOWN];

    if ((!plug__server.is_57 && !ring->migrates)
        || strlen(name.user_id) <= PLUG__SHORT_USER)
        return true;
    plug__lines_say(&g->lines, name.user_id, PLUG__LOG_LEFT_OUT,
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


/* Returns NULL if there can be no walk. */
static plug__keyring_walk *
plug__keyring_list(plug__guard *g)
{
    plug__keyring_walk *const walk = calloc(1, sizeof *walk);
    FILE *const names = walk == NULL ? NULL
                      : open_memstream(&walk->names, &walk->len);
    kaws_error      err;
    plug__guard_ring *const ring = plug__guard_take(g, &err);
    kaws_walk      *from = NULL;
    kaws_entry_info info;

    if (ring != NULL)
        (void)kaws_walk_begin(ring->kaws, &from, &err);
    while (names != NULL && from != NULL && kaws_walk_next(from, &info)) {
        if (!plug__keyring_fits(g, ring, info.name))
            continue;
        fwrite(info.name.key_id, strlen(info.name.key_id) + 1, 1, names);
        fwrite(info.name.user_id, strlen(info.name.user_id) + 1, 1, names);
    }
    kaws_walk_end(from);
    plug__guard_drop(g, ring);
    if (err.status == KAWS_OK
        && (names == NULL || fflush(names) != 0 || ferror(names)))
        plug__guard_fail(&err, KAWS_MEMORY, "out of memory for a list");
    if (names != NULL)
        fclose(names);
    if (err.status == KAWS_OK)
        return walk;
    plug__lines_say(&g->lines, "", PLUG__LOG_NO_LIST, err.text);
    plug__keyring_walk_end(walk);
    return NULL;
}


/* NULL tells the server that there can be no walk. */
static void
plug__keyring_walk_begin(void **out)
{
    *out = plug__keyring_list(&plug__server_guard);
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
 * ROOM  config      the settings file of the component
 * ==========================================================================
 * Uses: lines guard settings
 * Gives: config config_read config_data_file config_free
 *
 * component_keyring_aws.cnf is a JSON object. It has the keys that Oracle's
 * component has, and one object more, keyring_aws, which has every setting of
 * the plugin under its name. Both come to the same rows of room settings: an
 * Oracle key is a row of the table below, which names the setting that it sets.
 *
 * The reader is a cursor over the text, on the library's room json. It knows
 * the path of the member that it reads, as in "aws_connection.proxy.host". A
 * key that nobody knows is a warning, because Oracle's component ignores it,
 * and a security setting that is misspelt must be seen. Anything else that is
 * wrong is an error with its line and column, and shows no value. The secret
 * access key is not kept: the library reads it in the file when it needs it.
 */

enum { PLUG__CONFIG_MAX = 65535, PLUG__CONFIG_LEVELS = 4, PLUG__PATH = 4096 };

enum { PLUG__OBJECT = PLUG__FLAG + 1, PLUG__SECRET };   /* more kinds        */

/* The keys of Oracle's component. */
enum {
    PLUG__CNF_LOCAL, PLUG__CNF_CMK_ID, PLUG__CNF_DATA_FILE, PLUG__CNF_CACHE,
    PLUG__CNF_READ_ONLY, PLUG__CNF_AUTH, PLUG__CNF_MODE, PLUG__CNF_PROFILE,
    PLUG__CNF_REGION, PLUG__CNF_ID, PLUG__CNF_KEY, PLUG__CNF_TOKEN,
    PLUG__CNF_CONNECTION, PLUG__CNF_TIMEOUT, PLUG__CNF_PROXY,
    PLUG__CNF_PROXY_HOST, PLUG__CNF_PROXY_PORT, PLUG__CNF_PROXY_USER,
    PLUG__CNF_PROXY_PASSWORD, PLUG__CNF_OURS,
    PLUG__CNF_KEYS
};

static const struct {
    const char *path;
    int         kind;
    const char *setting;                /* that it sets; NULL: see compose   */
} plug__config_keys[PLUG__CNF_KEYS] = {
    { "read_local_config",                    PLUG__FLAG,   NULL },
    { "cmk_id",                               PLUG__TEXT,   "cmk_id" },
    { "data_file",                            PLUG__TEXT,   "data_file" },
    { "cache_keys",                           PLUG__FLAG,   NULL },
    { "read_only",                            PLUG__FLAG,   "read_only" },
    { "aws_authentication",                   PLUG__OBJECT, NULL },
    { "aws_authentication.mode",              PLUG__TEXT,   NULL },
    { "aws_authentication.profile",           PLUG__TEXT,   "profile" },
    { "aws_authentication.region",            PLUG__TEXT,   "region" },
    { "aws_authentication.access_key_id",     PLUG__SECRET, NULL },
    { "aws_authentication.access_key_secret", PLUG__SECRET, NULL },
    { "aws_authentication.session_token",     PLUG__SECRET, NULL },
    { "aws_connection",                       PLUG__OBJECT, NULL },
    { "aws_connection.connect_timeout_ms",    PLUG__NUMBER, "connect_timeout" },
    { "aws_connection.proxy",                 PLUG__OBJECT, NULL },
    { "aws_connection.proxy.host",            PLUG__TEXT,   NULL },
    { "aws_connection.proxy.port",            PLUG__NUMBER, NULL },
    { "aws_connection.proxy.user",            PLUG__TEXT,   NULL },
    { "aws_connection.proxy.password",        PLUG__TEXT,   NULL },
    { "keyring_aws",                          PLUG__OBJECT, NULL }
};

enum { PLUG__CNF_ALL = PLUG__CNF_KEYS + PLUG__SETTINGS };   /* keys and rows  */

typedef struct plug__config {
    char  file[PLUG__PATH];             /* that was read                     */
    bool  seen[PLUG__CNF_ALL];
    char *text[PLUG__CNF_ALL];          /* ours                              */
    int   number[PLUG__CNF_ALL];
    plug__settings_value values[PLUG__SETTINGS];        /* texts are borrowed */
} plug__config;

typedef struct plug__config_reader {
    plug__guard   *guard;               /* whose log gets the warnings       */
    plug__config  *to;
    kaws__json     json;                /* changes the text in place         */
    uint8_t       *text;
    size_t         len;
    char           path[PLUG__SHOWN];   /* of the member                     */
    size_t         ends[PLUG__CONFIG_LEVELS];   /* of the paths of the objects
                                         * that are open                     */
    int            level;
    char           wrong[2 * PLUG__SHOWN];      /* "": nothing               */
} plug__config_reader;


static void
plug__config_drop(char *text)
{
    if (text != NULL)
        kaws_wipe(text, strlen(text));
    free(text);
}


/* Frees it, and wipes its texts, because a proxy may have a password. */
static void
plug__config_free(plug__config *c)
{
    for (int i = 0; c != NULL && i < PLUG__CNF_ALL; i++)
        plug__config_drop(c->text[i]);
    free(c);
}


/* ---- the keys that are known --------------------------------------------- */

static int
plug__config_kind(int key)
{
    return key < PLUG__CNF_KEYS
           ? plug__config_keys[key].kind
           : plug__settings_rows[key - PLUG__CNF_KEYS].kind;
}


/* Writes the key's path; "" if it cannot be in the file. */
static const char *
plug__config_path(int key, char path[PLUG__SHOWN])
{
    const plug__settings_row *const row =
        &plug__settings_rows[key < PLUG__CNF_KEYS ? 0 : key - PLUG__CNF_KEYS];

    if (key < PLUG__CNF_KEYS)
        snprintf(path, PLUG__SHOWN, "%s", plug__config_keys[key].path);
    else if (row->from != PLUG__HIDDEN)
        snprintf(path, PLUG__SHOWN, "keyring_aws.%s", row->name);
    else
        path[0] = '\0';
    return path;
}


/* The key of this path, or -1. */
static int
plug__config_find(const char *path)
{
    char known[PLUG__SHOWN];
    int  key = PLUG__CNF_ALL - 1;

    while (key >= 0 && (plug__config_path(key, known)[0] == '\0'
                        || strcmp(known, path) != 0))
        key--;
    return key;
}


/* How many letters one has to add, remove or replace to make one name of the
 * other (Levenshtein); a long name counts as far away. */
static int
plug__config_distance(const char *a, const char *b)
{
    enum { MOST = 48 };
    const size_t m = strlen(a), n = strlen(b);
    int row[MOST + 1], before, above;

    if (m > MOST || n > MOST)
        return MOST;
    for (size_t j = 0; j <= n; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= m; i++) {
        before = row[0]++;
        for (size_t j = 1; j <= n; j++) {
            above = row[j];
            row[j] = before + (a[i - 1] != b[j - 1]);
            if (row[j] > above + 1)
                row[j] = above + 1;
            if (row[j] > row[j - 1] + 1)
                row[j] = row[j - 1] + 1;
            before = above;
        }
    }
    return row[n];
}


/* The known path whose last name is nearest to that of an unknown one, if it is
 * near; or "". The plugin's prefix does not count. */
static const char *
plug__config_nearest(const char *path, char nearest[PLUG__SHOWN])
{
    const char *dot = strrchr(path, '.'), *name = dot != NULL ? dot + 1 : path;
    const char *known_dot;
    char known[PLUG__SHOWN];
    int  least = 3, far;                /* so far is not near                */

    nearest[0] = '\0';
    if (strncmp(name, "keyring_aws_", 12) == 0)
        name += 12;
    for (int key = 0; key < PLUG__CNF_ALL; key++) {
        known_dot = strrchr(plug__config_path(key, known), '.');
        far = plug__config_distance(name, known_dot != NULL ? known_dot + 1
                                                            : known);
        if (known[0] != '\0' && far < least) {
            least = far;
            snprintf(nearest, PLUG__SHOWN, "%s", known);
        }
    }
    return nearest;
}


/* ---- reading ------------------------------------------------------------- */

PLUG__FORMAT(2, 3)
static bool
plug__config_wrong(plug__config_reader *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (vsnprintf(r->wrong, sizeof r->wrong, format, args) < 0)
        r->wrong[0] = '\0';
    va_end(args);
    return false;
}


/* Skips a value with all that is in it. The objects that are open count as
 * levels, because there is one bit a level. */
static bool
plug__config_skip(plug__config_reader *r)
{
    kaws__json *const j = &r->json;
    const int base = j->depth = r->level;
    kaws_bytes name;
    bool ok = kaws__json_value(j), first = j->depth > base;

    while (ok && j->depth > base) {
        const bool object = j->objects & 1;
        const int  depth = j->depth;

        if (kaws__json_peek(j) == (object ? '}' : ']')) {
            j->at++;
            j->objects >>= 1;
            j->depth--;
            first = false;
        } else {
            ok = (first || kaws__json_take(j, ',', "a comma or an end was"
                                                   " expected"))
                 && (!object || (kaws__json_text(j, &name)
                                 && kaws__json_take(j, ':', "a colon was"
                                                            " expected")))
                 && kaws__json_value(j);
            first = j->depth > depth;
        }
    }
    return ok;
}


/* Takes a number: of a setting, within its limits; of a port. */
static bool
plug__config_number(plug__config_reader *r, int key)
{
    static const int port[] = { 0, 1, 65535 };
    const int *const limits = key < PLUG__CNF_KEYS
        ? port : plug__settings_rows[key - PLUG__CNF_KEYS].def.number;
    const int connect = plug__settings_find("connect_timeout");
    const int *const l = key == PLUG__CNF_TIMEOUT
        ? plug__settings_rows[connect].def.number : limits;
    const uint8_t *const at = r->json.at;
    long long value = 0;

    if (!kaws__json_value(&r->json))
        return false;
    for (const uint8_t *c = at; c < r->json.at; c++)
        value = *c < '0' || *c > '9' || value > INT_MAX ? INT64_MAX / 10
              : value * 10 + (*c - '0');
    r->to->number[key] = (int)value;
    return (value >= l[1] && value <= l[2])
           || plug__config_wrong(r, "%s has to be a whole number from %d to %d",
                                 r->path, l[1], l[2]);
}


/* Takes a text, without showing it if it is wrong. */
static bool
plug__config_text(plug__config_reader *r, int key)
{
    kaws_bytes text = { NULL, 0 };
    char *copy;

    if (!kaws__json_text(&r->json, &text))
        return false;
    if (plug__config_kind(key) == PLUG__SECRET)
        return true;
    if (memchr(text.at, '\0', text.len) != NULL)
        return plug__config_wrong(r, "there is a zero byte in %s", r->path);
    if ((copy = calloc(1, text.len + 1)) == NULL)
        return plug__config_wrong(r, "out of memory");
    memcpy(copy, text.at, text.len);
    r->to->text[key] = copy;
    return true;
}


/* Takes the value of a known key, or opens the object that it is. The cursor is
 * at its first byte. */
static bool
plug__config_value(plug__config_reader *r, int key)
{
    static const struct { const char *begins, *says; } forms[] = {
        [PLUG__TEXT]   = { "\"", "a text in quotes" },
        [PLUG__NUMBER] = { "0123456789", "a number without quotes" },
        [PLUG__FLAG]   = { "tf", "true or false, without quotes" },
        [PLUG__OBJECT] = { "{", "an object: { ... }" },
        [PLUG__SECRET] = { "\"", "a text in quotes" }
    };
    const int kind = plug__config_kind(key);
    const int next = kaws__json_peek(&r->json);

    if (next >= 0 && (next == '\0' || strchr(forms[kind].begins, next) == NULL))
        return plug__config_wrong(r, "%s has to be %s", r->path,
                                  forms[kind].says);
    r->to->number[key] = next == 't';
    switch (kind) {
    case PLUG__FLAG:
        return kaws__json_value(&r->json);
    case PLUG__NUMBER:
        return plug__config_number(r, key);
    case PLUG__OBJECT:
        r->ends[r->level++] = strlen(r->path);
        return kaws__json_take(&r->json, '{', "a value was expected");
    default:
        return plug__config_text(r, key);
    }
}


/* Reads a member of the object that is open. */
static bool
plug__config_member(plug__config_reader *r)
{
    const size_t end = r->ends[r->level - 1];
    const kaws__json start = (kaws__json_peek(&r->json), r->json);
    kaws_bytes name = { NULL, 0 };
    char shown[PLUG__SHOWN], nearest[PLUG__SHOWN];
    int  key;

    if (kaws__json_peek(&r->json) != '"')
        return plug__config_wrong(r, "a key in quotes was expected; JSON has no"
                                  " comments, and no comma behind the last"
                                  " member");
    if (!kaws__json_text(&r->json, &name)
        || !kaws__json_take(&r->json, ':', "a colon was expected"))
        return false;
    snprintf(r->path + end, sizeof r->path - end, "%s%.*s", end > 0 ? "." : "",
             (int)(name.len < PLUG__SHOWN ? name.len : PLUG__SHOWN),
             (const char *)name.at);
    key = memchr(name.at, '.', name.len) != NULL
          || memchr(name.at, '\0', name.len) != NULL
          ? -1 : plug__config_find(r->path);
    if (key < 0) {
        plug__config_nearest(r->path, nearest);
        plug__lines_say(&r->guard->lines, r->path, PLUG__LOG_UNKNOWN,
                        r->to->file, start.lines + 1,
                        kaws_show(shown, sizeof shown, r->path),
                        nearest[0] != '\0' ? ": did you mean " : "", nearest,
                        nearest[0] != '\0' ? "?" : "");
        return plug__config_skip(r);
    }
    if (r->to->seen[key]) {
        r->json = start;
        return plug__config_wrong(r, "%s is there twice", r->path);
    }
    r->to->seen[key] = true;
    return plug__config_value(r, key);
}


/* Reads the whole text. */
static bool
plug__config_parse(plug__config_reader *r)
{
    kaws__json *const j = &r->json;
    bool ok, first = true;
    int  level;

    *j = (kaws__json){ .at = r->text, .end = r->text + r->len,
                       .line = r->text };
    if (r->len >= 3 && memcmp(r->text, "\xef\xbb\xbf", 3) == 0)
        return plug__config_wrong(r, "a byte order mark: save the file without"
                                     " one");
    ok = kaws__json_take(j, '{', "an object was expected: { ... }");
    r->level = ok;
    while (ok && (level = r->level) > 0) {
        if (kaws__json_peek(j) == '}') {
            j->at++;
            r->level--;
            first = false;
        } else {
            ok = (first || kaws__json_take(j, ',', "a comma or } was expected"))
                 && plug__config_member(r);
            first = r->level > level;
        }
    }
    if (ok && kaws__json_peek(j) >= 0)
        ok = plug__config_wrong(r, "something follows the object");
    return ok;
}


/* ---- from keys to settings ----------------------------------------------- */

/* Refuses a setting that two keys set. */
static bool
plug__config_moves(plug__config *c, int key, int row, kaws_error *err)
{
    char one[PLUG__SHOWN], other[PLUG__SHOWN];
    const int to = PLUG__CNF_KEYS + row;

    if (c->seen[to]) {
        plug__guard_fail(err, KAWS_CONFIG, "%s: %s and %s are the same setting:"
                         " keep one of them", c->file,
                         plug__config_path(key, one),
                         plug__config_path(to, other));
        return false;
    }
    c->seen[to]   = true;
    c->number[to] = c->number[key];
    c->text[to]   = c->text[key];
    c->text[key]  = NULL;
    return true;
}


/* What aws_authentication.mode means: simple: the keys are in this file, which
 * the library reads as its conf file. */
static bool
plug__config_mode(plug__config *c, kaws_error *err)
{
    const char *const mode = c->text[PLUG__CNF_MODE];
    const bool keys = c->seen[PLUG__CNF_ID] || c->seen[PLUG__CNF_KEY]
                      || c->seen[PLUG__CNF_TOKEN];
    const bool simple = mode != NULL && strcmp(mode, "simple") == 0;
    const int  row = plug__settings_find(simple ? "conf_file" : "auth");

    if (mode == NULL && !keys)
        return true;
    if (!simple && (mode == NULL || strcmp(mode, "native") != 0))
        plug__guard_fail(err, KAWS_CONFIG, "%s: aws_authentication.mode has to"
                         " be \"simple\" (the keys are in this file) or"
                         " \"native\"", c->file);
    else if (simple && !(c->seen[PLUG__CNF_ID] && c->seen[PLUG__CNF_KEY]))
        plug__guard_fail(err, KAWS_CONFIG, "%s: with the mode simple,"
                         " aws_authentication needs access_key_id and"
                         " access_key_secret", c->file);
    else if (simple
             && c->seen[PLUG__CNF_KEYS + plug__settings_find("auth")])
        plug__guard_fail(err, KAWS_CONFIG, "%s: aws_authentication.mode and"
                         " keyring_aws.auth are the same setting: keep one of"
                         " them", c->file);
    else if (plug__config_moves(c, PLUG__CNF_MODE, row, err)) {
        if (!simple)
            return true;
        plug__config_drop(c->text[PLUG__CNF_KEYS + row]);
        if ((c->text[PLUG__CNF_KEYS + row] = strdup(c->file)) != NULL)
            return true;
        plug__guard_fail(err, KAWS_MEMORY, "out of memory");
    }
    return false;
}


/* Writes the path of the key that has set a setting. */
static const char *
plug__config_set_by(const plug__config *c, int row, char path[PLUG__SHOWN])
{
    int key = PLUG__CNF_KEYS - 1;

    while (key >= 0
           && !(c->seen[key] && plug__config_keys[key].setting != NULL
                && strcmp(plug__config_keys[key].setting,
                          plug__settings_rows[row].name) == 0))
        key--;
    return plug__config_path(key >= 0 ? key : PLUG__CNF_KEYS + row, path);
}


/* Appends a text to a URL, percent-encoded. */
static void
plug__config_encode(FILE *url, const char *text)
{
    static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        "abcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; text != NULL && *text != '\0'; text++)
        fprintf(url, strchr(safe, *text) != NULL ? "%c" : "%%%02X",
                (unsigned char)*text);
}


/* Makes one URL of the members of aws_connection.proxy. */
static bool
plug__config_proxy(plug__config *c, kaws_error *err)
{
    const char *const host = c->text[PLUG__CNF_PROXY_HOST];
    const char *const user = c->text[PLUG__CNF_PROXY_USER];
    const char *const password = c->text[PLUG__CNF_PROXY_PASSWORD];
    const bool owned = user != NULL && user[0] != '\0';
    size_t len = 0;
    FILE *url;

    if (!c->seen[PLUG__CNF_PROXY])
        return true;
    if (host == NULL || host[0] == '\0' || (password != NULL && !owned)) {
        plug__guard_fail(err, KAWS_CONFIG, "%s: aws_connection.proxy needs %s",
                         c->file, host == NULL || host[0] == '\0' ? "a host"
                         : "a user if it has a password");
        return false;
    }
    if ((url = open_memstream(&c->text[PLUG__CNF_PROXY], &len)) != NULL) {
        fputs("http://", url);
        plug__config_encode(url, user);
        fputs(password != NULL ? ":" : "", url);
        plug__config_encode(url, password);
        fprintf(url, "%s%s", owned ? "@" : "", host);
        if (c->seen[PLUG__CNF_PROXY_PORT])
            fprintf(url, ":%d", c->number[PLUG__CNF_PROXY_PORT]);
    }
    if (url == NULL || fclose(url) != 0) {
        plug__guard_fail(err, KAWS_MEMORY, "out of memory");
        return false;
    }
    return plug__config_moves(c, PLUG__CNF_PROXY, plug__settings_find("proxy"),
                              err);
}


/* A relative path counts from the instance's folder, because the current folder
 * of a server changes. */
static bool
plug__config_place(plug__config *c, int row, const char *instance,
                   kaws_error *err)
{
    const int key = PLUG__CNF_KEYS + row;
    const char *const text = c->text[key];
    char whole[2 * PLUG__PATH], path[PLUG__SHOWN];

    if (text == NULL || text[0] == '\0' || text[0] == '/')
        return true;
    plug__config_set_by(c, row, path);
    if (instance == NULL || instance[0] == '\0') {
        plug__guard_fail(err, KAWS_CONFIG, "%s: %s is a relative path, and this"
                         " program has no data folder: write the full path",
                         c->file, path);
        return false;
    }
    if (snprintf(whole, sizeof whole, "%s/%s", instance, text)
        >= (int)sizeof whole) {
        plug__guard_fail(err, KAWS_CONFIG, "%s: %s is too long", c->file, path);
        return false;
    }
    plug__config_drop(c->text[key]);
    if ((c->text[key] = strdup(whole)) != NULL)
        return true;
    plug__guard_fail(err, KAWS_MEMORY, "out of memory");
    return false;
}


/* Fills the values of the settings: from the row's key, or by default. */
static bool
plug__config_fill(plug__config *c, kaws_error *err)
{
    const int cache = plug__settings_find("cache_seconds");

    for (int i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];
        const int key = PLUG__CNF_KEYS + i;

        if (row->kind == PLUG__TEXT && !c->seen[key] && row->def.text != NULL
            && (c->text[key] = strdup(row->def.text)) == NULL) {
            plug__guard_fail(err, KAWS_MEMORY, "out of memory");
            return false;
        }
        if (row->kind == PLUG__NUMBER)
            c->values[i].number = c->seen[key] ? c->number[key]
                                               : row->def.number[0];
        else if (row->kind == PLUG__FLAG)
            c->values[i].flag = (char)(c->seen[key] ? c->number[key]
                                                    : row->def.flag);
        else
            c->values[i].text = c->text[key];
    }
    if (c->number[PLUG__CNF_CACHE] && !c->seen[PLUG__CNF_KEYS + cache])
        c->values[cache].number = 3600;
    return true;
}


/* Makes settings of the keys that are in the file. */
static bool
plug__config_compose(plug__config *c, const char *instance, kaws_error *err)
{
    for (int key = 0; key < PLUG__CNF_KEYS; key++) {
        const char *const name = plug__config_keys[key].setting;
        if (name != NULL && c->seen[key]
            && !plug__config_moves(c, key, plug__settings_find(name), err))
            return false;
    }
    for (int i = 0; i < PLUG__SETTINGS; i++) {
        if (plug__settings_rows[i].path
            && !plug__config_place(c, i, instance, err))
            return false;
    }
    /* The path of mode simple is as the file was opened. */
    if (!plug__config_mode(c, err) || !plug__config_proxy(c, err)
        || !plug__config_fill(c, err))
        return false;
    if (!c->seen[PLUG__CNF_KEYS + plug__settings_find("data_file")]) {
        plug__guard_fail(err, KAWS_CONFIG, "%s: data_file has to be set: it"
                         " names the file of the sealed keys", c->file);
        return false;
    }
    return true;
}


/* The name of the data file; of settings that are composed, never NULL. */
static const char *
plug__config_data_file(const plug__config *c)
{
    return c->values[plug__settings_find("data_file")].text;
}


/* ---- the file ------------------------------------------------------------ */

/* Whether the file belongs to root, to the server, or to the owner of its data
 * folder (whose account the server is about to take). Anybody else could put
 * credentials of his own into it. */
static bool
plug__config_owned(const struct stat *st, const char *instance)
{
    struct stat folder;

    return st->st_uid == 0 || st->st_uid == geteuid()
           || (instance != NULL && stat(instance, &folder) == 0
               && folder.st_uid == st->st_uid);
}


/* Reads the file into r->text, which the caller wipes and frees. */
static bool
plug__config_load(plug__config_reader *r, struct stat *st, kaws_error *err)
{
    const int   fd = open(r->to->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const char *why = NULL;
    ssize_t     got = 0;

    memset(st, 0, sizeof *st);
    if (fd < 0 || fstat(fd, st) != 0)
        why = kaws__sys_error_text(errno);
    else if (!S_ISREG(st->st_mode))
        why = "it is not a file";
    if (why == NULL && (r->text = malloc(PLUG__CONFIG_MAX + 1)) == NULL)
        why = "out of memory";
    while (why == NULL && r->len <= PLUG__CONFIG_MAX
           && (got = read(fd, r->text + r->len, PLUG__CONFIG_MAX + 1 - r->len))
              > 0)
        r->len += (size_t)got;
    if (why == NULL && got < 0)
        why = kaws__sys_error_text(errno);
    else if (why == NULL && r->len > PLUG__CONFIG_MAX)
        why = "it is longer than 65535 bytes";
    if (fd >= 0)
        close(fd);
    if (why != NULL)
        plug__guard_fail(err, KAWS_CONFIG, "cannot read the settings file %s:"
                         " %s", r->to->file, why);
    return why == NULL;
}


/* Reads one file. On failure *err says what is wrong with it. */
static plug__config *
plug__config_of(plug__guard *g, const char *folder, const char *instance,
                kaws_error *err)
{
    plug__config *c = calloc(1, sizeof *c);
    plug__config_reader r = { .guard = g, .to = c };
    struct stat st;
    bool ok = c != NULL;

    if (!ok)
        plug__guard_fail(err, KAWS_MEMORY, "out of memory");
    else
        snprintf(c->file, sizeof c->file, "%s/component_keyring_aws.cnf",
                 folder);
    ok = ok && plug__config_load(&r, &st, err);
    if (ok && !plug__config_parse(&r)) {
        plug__guard_fail(err, KAWS_CONFIG, "%s, line %d, column %d: %s",
                         c->file, r.json.lines + 1,
                         (int)(r.json.at - r.json.line) + 1,
                         r.wrong[0] != '\0' ? r.wrong : r.json.bad);
        ok = false;
    }
    if (ok && c->seen[PLUG__CNF_KEY] && !plug__config_owned(&st, instance)) {
        plug__guard_fail(err, KAWS_CONFIG, "%s has access_key_secret, and"
                         " belongs to another account (uid %u): give it to the"
                         " server's account, with mode 600", c->file,
                         (unsigned)st.st_uid);
        ok = false;
    }
    if (r.text != NULL)
        kaws_wipe(r.text, r.len);
    free(r.text);
    if (!ok)
        plug__config_free(c);
    return ok ? c : NULL;
}


/* Reads the settings: in the folder of the component's file, or if that one
 * says so in the instance's. The folders may be NULL, and end with a slash. The
 * caller frees the result; NULL: *err says why. */
static plug__config *
plug__config_read(plug__guard *g, const char *component, const char *instance,
                  kaws_error *err)
{
    char plugins[PLUG__PATH], data[PLUG__PATH];
    const char *const given[] = { component, instance };
    char *const bare[] = { plugins, data };
    plug__config *c;

    for (int i = 0; i < 2; i++) {
        size_t n = (size_t)snprintf(bare[i], PLUG__PATH, "%.4000s",
                                    given[i] != NULL ? given[i] : "");
        while (n > 1 && bare[i][n - 1] == '/')
            bare[i][--n] = '\0';
    }
    c = plug__config_of(g, plugins, data, err);
    if (c != NULL && c->number[PLUG__CNF_LOCAL]) {
        plug__config_free(c);
        c = plug__config_of(g, data[0] != '\0' ? data : ".", data, err);
    }
    if (c != NULL && !plug__config_compose(c, data, err)) {
        plug__config_free(c);
        c = NULL;
    }
    return c;
}


/* ==========================================================================
 * ROOM  component   the other door: a keyring component
 * ==========================================================================
 * Uses: abi lines guard server settings keyring config
 * Gives: component_guard component_host component_log component_is_loaded
 *        component_prepare component_look component_compare component_shares
 *        component_do
 *        component_load component_is_initialized component_name
 *
 * MySQL 8.0.24 and later get keys through the services of a component, which a
 * manifest names. The component has a guard, a ring and settings of its own: it
 * shares only code with the plugin, which may be loaded as well.
 *
 * From 8.0.29 on the server loads the component before it reads its options,
 * forks (--daemonize), takes its account (--user) and goes to its data folder.
 * So load only reads and checks. It makes no file, no folder, no lock, no
 * thread and no KMS request. The ring is opened by the first call that needs
 * it. It belongs to the process and the account that opened it: if either has
 * changed, the ring is closed, and a new one opened. The one key that a
 * server reads before it forks is that of its persisted variables. For that
 * read, a read-only ring is opened and closed again, so that no connection
 * outlives it. The library opens no data file of another account, so a server
 * that is still root looks at the file as its owner, whose account it is about
 * to take. And while the server starts, a read makes no data file: what is not
 * there has no keys. A migration begins as a server does, but it names no data
 * folder, or is no server at all. It reads with one read-only ring. A data file
 * that is missing is an error then, because a migration of no keys would end
 * well.
 *
 * ALTER INSTANCE RELOAD KEYRING calls load again. Then the new ring is opened
 * at once, and takes the place of the old one, which its last user closes. If
 * that fails, the old one stays.
 */

static const char plug__component_name[] = "component_keyring_aws";

static struct {
    pthread_mutex_t lock;               /* for all below but the registry    */
    void           *registry;           /* set before init                   */
    bool            present;            /* the server has the component      */
    plug__config   *config;             /* NULL: it is not loaded            */
    pid_t           process;            /* that opened the ring, or failed to */
    uid_t           account;
    bool            passing;            /* the ring is there for reads only  */
    bool            migrates;           /* loaded to migrate keys; also read
                                         * without the lock                  */
    kaws_error      unopened;           /* why it could not be opened        */
    int64_t         unopened_ms;        /* and when, by the monotonic clock  */
} plug__component = { .lock = PTHREAD_MUTEX_INITIALIZER };


/* ---- the host ------------------------------------------------------------ */

/* Lines go to the function of the server's own log, because the slots of its
 * service log_builtins differ between versions. Items are pairs of a type and a
 * value; the text ends them. The performance schema's table of the log drops
 * lines of a start whose subsystem has more than six letters. */
static void
plug__component_log(int level, const char *line)
{
    enum { ERROR_LOG = 1, NUMBER = 1 << 1, SUBSYSTEM = 1 << 9,
           PRIORITY = 1 << 16, TEXT = 1 << 18, ER_LOG_PRINTF_MSG = 11071 };

    if (plug__server.log_message != NULL)
        plug__server.log_message(ERROR_LOG, PRIORITY, (long long)level + 1,
                                 SUBSYSTEM, "Server", NUMBER,
                                 (long long)ER_LOG_PRINTF_MSG, TEXT, line, 0);
    else
        fprintf(stderr, "%s: %s\n", plug__component_name, line);
}


static void *
plug__component_service(const char *name)
{
    const plug__abi_registry *const registry = plug__component.registry;
    void *table = NULL;

    return registry != NULL && registry->acquire(name, &table) == 0 ? table
                                                                    : NULL;
}


static void
plug__component_release(void *table)
{
    const plug__abi_registry *const registry = plug__component.registry;

    if (table != NULL)
        registry->release(table);
}


/* Why this thread's session may not call SQL functions; NULL: it may. */
static const char *
plug__component_refusal(void)
{
    static const char privilege[] = "ENCRYPTION_KEY_ADMIN";
    void *const of = plug__component_service("mysql_thd_security_context");
    void *const options =
        plug__component_service("mysql_security_context_options");
    void *const grants = plug__component_service("global_grants_check");
    void *const thd = plug__server_session();
    void *context = NULL;
    bool  super = false, may = false;

    if (thd != NULL && of != NULL
        && ((plug__abi_security_of *)of)->get(thd, &context) == 0
        && context != NULL) {
        if (options != NULL
            && ((plug__abi_security_options *)options)->get(
                context, "privilege_super", &super) == 0)
            may = super;
        if (grants != NULL)
            may = may || ((plug__abi_grants *)grants)->has_global_grant(
                             context, privilege, sizeof privilege - 1) != 0;
    }
    plug__component_release(grants);
    plug__component_release(options);
    plug__component_release(of);
    return may ? NULL : "it needs the privilege SUPER or ENCRYPTION_KEY_ADMIN";
}


static const plug__guard_host plug__component_host = {
    "the component component_keyring_aws", "", plug__server_raise,
    plug__component_refusal, plug__server_called, plug__server_killed
};

static plug__guard plug__component_guard;


/* ---- the ring ------------------------------------------------------------ */

/* Warns if the plugin and the component have the same data file. */
static void
plug__component_compare(void)
{
    plug__guard_ring *const ours = plug__guard_borrow(&plug__component_guard);
    plug__guard_ring *const its  = plug__guard_borrow(&plug__server_guard);

    if (ours != NULL && its != NULL && ours->path != NULL && its->path != NULL
        && strcmp(ours->path, its->path) == 0)
        plug__lines_say(&plug__component_guard.lines, "", PLUG__LOG_TWO_DOORS,
                        ours->file);
    plug__guard_drop(&plug__component_guard, ours);
    plug__guard_drop(&plug__server_guard, its);
}


/* Whether the guard's ring has this data file. */
static bool
plug__component_shares(plug__guard *g, const char *data_file)
{
    plug__guard_ring *const old = plug__guard_borrow(g);
    char *const path = old != NULL ? realpath(data_file, NULL) : NULL;
    const bool  same = path != NULL && old->path != NULL
                       && strcmp(path, old->path) == 0;

    free(path);
    plug__guard_drop(g, old);
    return same;
}


/* Has the ring that is about to be replaced read the same file again: it
 * refuses that of a different keyring, and logs what else has changed. */
static bool
plug__component_agrees(const char *data_file, kaws_error *err)
{
    plug__guard *const g = &plug__component_guard;
    plug__guard_ring *old;
    bool agrees;

    if (!plug__component_shares(g, data_file))
        return true;
    old = plug__guard_borrow(g);
    agrees = old == NULL || kaws_refresh(old->kaws, err) != KAWS_CHANGED;
    plug__guard_drop(g, old);
    return agrees;
}


/* Whether a ring has credentials, be they expired. If not, *err says why. */
static bool
plug__component_signs(plug__guard_ring *ring, kaws_error *err)
{
    kaws_identity who;

    return ring != NULL && kaws_whoami(ring->kaws, &who, err) == KAWS_OK;
}


/* Refuses to replace a ring that has credentials by one whose source cannot be
 * reached now: the old one goes on with those that it has. */
static bool
plug__component_may_follow(plug__guard_ring *ring, kaws_error *err)
{
    plug__guard *const g = &plug__component_guard;
    plug__guard_ring *const old = plug__guard_borrow(g);
    kaws_error why, ignored;
    const bool may = old == NULL || plug__component_signs(ring, &why)
                     || !plug__component_signs(old, &ignored);

    if (!may)
        *err = why;
    plug__guard_drop(g, old);
    return may;
}


static bool
plug__component_is_missing(const char *file)
{
    struct stat st;

    return stat(file, &st) != 0 && errno == ENOENT;
}


/* Refuses to swap a ring that has keys for a data file that is missing: a new
 * one would be made, and no key be in it. */
static bool
plug__component_keeps(const char *file, kaws_error *err)
{
    plug__guard_ring *const old = plug__guard_borrow(&plug__component_guard);
    kaws_stats s = { .keys = 0 };
    char shown[PLUG__SHOWN];

    if (old != NULL)
        kaws_get_stats(old->kaws, &s);
    plug__guard_drop(&plug__component_guard, old);
    if (s.keys == 0 || !plug__component_is_missing(file))
        return true;
    plug__guard_fail(err, KAWS_FILE, "there is no data file %s, and the"
                     " keyring that is open has %llu key%s: mount its volume,"
                     " put the file back, or correct data_file; only a restart"
                     " begins a new keyring",
                     kaws_show(shown, sizeof shown, file),
                     (unsigned long long)s.keys, s.keys == 1 ? "" : "s");
    return false;
}


/* With the lock held: opens the ring, and shows it to all. A migration that
 * only reads would take a missing data file for one without keys. */
static bool
plug__component_open(const plug__config *c, bool passing, kaws_error *err)
{
    plug__guard *const g = &plug__component_guard;
    const char *const file = plug__config_data_file(c);
    plug__guard_ring *ring = NULL;
    plug__guard_config cfg;
    char shown[PLUG__SHOWN];

    if (passing && plug__component.migrates
        && plug__component_is_missing(file)) {
        plug__guard_fail(err, KAWS_FILE, "there is no data file %s to migrate"
                         " keys from: put it back, or set data_file to its"
                         " path", kaws_show(shown, sizeof shown, file));
    } else if (plug__settings_read(g, c->values, &cfg, err) == KAWS_OK
               && plug__component_keeps(file, err)) {
        cfg.kaws.hooks.patience_ms = plug__keyring_patience;
        if (passing)
            cfg.kaws.read_only = 1;
        PLUG__STORE(&g->replaces,
                    plug__component_shares(g, file)
                    || plug__component_shares(&plug__server_guard, file));
        ring = plug__guard_open(g, &cfg, err);
        PLUG__STORE(&g->replaces, false);
    }
    if (ring != NULL && !(plug__component_may_follow(ring, err)
                          && plug__component_agrees(file, err))) {
        plug__guard_drop(g, ring);
        ring = NULL;
    }
    if (ring == NULL)
        return false;
    plug__component.process = getpid();
    plug__component.account = geteuid();
    plug__component.passing = passing;
    plug__guard_publish(g, ring, &cfg.values);
    if (!passing)
        plug__keyring_judge(g, &cfg, c->file);
    return true;
}


/* What root was in while it has a different account. */
typedef struct plug__component_root {
    bool   down;
    gid_t  real, effective, saved;      /* its group                         */
    int    count;
    gid_t *groups;                      /* and the others                    */
} plug__component_root;


/* Gives root its account back. It was kept as the saved account, so this is not
 * refused. (If it were, the server could not take its own account, and would
 * say so and end.) */
static void
plug__component_step_up(plug__component_root *root)
{
    if (root->down)
        root->down = setresuid(0, 0, 0) != 0
                     || setresgid(root->real, root->effective, root->saved) != 0
                     || setgroups((size_t)root->count, root->groups) != 0;
    free(root->groups);
}


/* With the lock held: makes root the account that owns the data file, if that
 * differs, until step_up. It gets the groups that the server will have: a copy
 * of the file that root has put back may have a group of root's. Root's account
 * is only kept as the saved one, which a program that the library starts does
 * not get. */
static void
plug__component_step_down(plug__component_root *root, const plug__config *c)
{
    struct passwd *of = NULL, room;
    struct stat st;
    char  text[4096];
    gid_t group;

    *root = (plug__component_root){ .down = false };
    if (c == NULL || geteuid() != 0 || getuid() != 0
        || stat(plug__config_data_file(c), &st) != 0 || st.st_uid == 0)
        return;
    (void)getpwuid_r(st.st_uid, &room, text, sizeof text, &of);
    group = of != NULL ? of->pw_gid : st.st_gid;
    root->count  = getgroups(0, NULL);
    root->groups = calloc((size_t)root->count + 1, sizeof *root->groups);
    if (root->groups == NULL || getgroups(root->count, root->groups) < 0
        || getresgid(&root->real, &root->effective, &root->saved) != 0
        || (of != NULL ? initgroups(of->pw_name, group) : setgroups(0, NULL))
           != 0)
        return;
    root->down = true;
    if (setresgid(group, group, group) != 0
        || setresuid(st.st_uid, st.st_uid, 0) != 0) {
        plug__component_step_up(root);
        *root = (plug__component_root){ .down = false };
    }
}


/* The creds hook of a ring that needs none. */
static int
plug__component_unasked(void *ctx, kaws_creds_wanted *wanted)
{
    (void)ctx;
    (void)wanted;
    return 1;
}


/* Leaves of the credentials only those in the conf file. Other sources are
 * asked when a call opens the ring: they are asked over a network, or are
 * programs, which must not run as root. That opening logs all lines, so this
 * one has no hooks.
 */
static void
plug__component_ask_nobody(plug__guard_config *cfg)
{
    const char *const auth = cfg->kaws.auth;

    memset(&cfg->kaws.hooks, 0, sizeof cfg->kaws.hooks);
    if (auth != NULL && strcmp(auth, "native") == 0) {
        cfg->kaws.hooks.creds = plug__component_unasked;
        cfg->kaws.must_have_creds = 0;
    } else {
        cfg->kaws.role_arn = cfg->kaws.role_external_id =
            cfg->kaws.role_session_name = NULL;
    }
}


/* Checks settings, credentials and data file, and changes nothing. */
static bool
plug__component_check(const plug__config *c, kaws_error *err)
{
    plug__component_root root;
    plug__guard_config cfg;
    kaws *ring = NULL;
    char  shown[PLUG__SHOWN];
    bool  ok, reads;

    plug__component_step_down(&root, c);
    ok = plug__settings_read(&plug__component_guard, c->values, &cfg, err)
         == KAWS_OK;
    if (ok) {
        reads = cfg.kaws.read_only != 0;
        plug__component_ask_nobody(&cfg);
        cfg.kaws.read_only = 1;
        ok = kaws_open(&ring, &cfg.kaws, err) == KAWS_OK
             || err->status == KAWS_LOCKED;     /* which passes              */
        kaws_close(ring);
        if (!ok && err->status == KAWS_FILE && err->os == ENOENT && !reads) {
            ok = cfg.create != 0;       /* then the first call makes it      */
            if (!ok)
                plug__guard_fail(err, KAWS_FILE, "there is no data file %s, and"
                                 " none is made (create is false); mount its"
                                 " volume, or put the file back; to begin a new"
                                 " keyring, leave that setting out",
                                 kaws_show(shown, sizeof shown,
                                           plug__config_data_file(c)));
        }
    }
    plug__component_step_up(&root);
    return ok;
}


/* A starting server asked for a key, and there is no data file. If the key has
 * to be there, a line says so. */
static void
plug__component_lack(const plug__keyring_job *job)
{
    char file[PLUG__SHOWN] = "";

    pthread_mutex_lock(&plug__component.lock);
    if (plug__component.config != NULL)
        kaws_show(file, sizeof file,
                  plug__config_data_file(plug__component.config));
    pthread_mutex_unlock(&plug__component.lock);
    plug__keyring_watch(&plug__component_guard, NULL, file, job,
                        KAWS_NOT_FOUND);
}


/* With the lock held: opens the ring. If that failed less than a second ago,
 * fails in the same way without trying. Otherwise each call of a starting
 * server would ask in vain, and calls that waited for the lock would ask one
 * after another. */
static bool
plug__component_try(bool passing, kaws_error *err)
{
    plug__guard *const g = &plug__component_guard;
    kaws_error *const last = &plug__component.unopened;

    if (!passing && last->status != KAWS_OK
        && plug__component.process == getpid()
        && plug__component.account == geteuid()
        && plug__lines_now_ms() - plug__component.unopened_ms < 1000) {
        *err = *last;
        return false;
    }
    plug__component.process = getpid();
    plug__component.account = geteuid();
    last->status = KAWS_OK;
    if (plug__component_open(plug__component.config, passing, err)) {
        (void)plug__lines_well(&g->lines, "open");
        return true;
    }
    if (err->status == KAWS_CANCELLED)          /* which is no answer        */
        return false;
    plug__guard_note(g, err);
    plug__lines_say(&g->lines, "open", PLUG__LOG_NOT_OPEN, err->text);
    if (!passing) {
        *last = *err;
        plug__component.unopened_ms = plug__lines_now_ms();
    }
    return false;
}


/* Sees to it that there is a ring for a call; if there can be none, the guard
 * knows why. Returns false if a read needs none: there is no data file yet, and
 * the server starts. */
static bool
plug__component_prepare(bool reads, bool passing)
{
    plug__guard *const g = &plug__component_guard;
    const bool starting = plug__server_starting();
    plug__guard_ring *ring;
    kaws_error err = { 0 };
    bool needs = true, opened = false;

    pthread_mutex_lock(&plug__component.lock);
    passing = passing || (reads && plug__component.migrates);
    ring = plug__guard_borrow(g);
    if (ring != NULL && (plug__component.process != getpid()
                         || plug__component.account != geteuid()
                         || (plug__component.passing && !passing))) {
        plug__guard_publish(g, NULL, NULL);
        plug__guard_drop(g, ring);
        ring = NULL;
    }
    if (ring == NULL && plug__component.config != NULL) {
        needs = !(reads && starting && !plug__component.migrates
                  && plug__component_is_missing(
                      plug__config_data_file(plug__component.config)));
        if (needs && plug__component_try(passing && starting, &err))
            opened = !passing;
        else if (needs)
            plug__guard_shut(g, &err);
    }
    plug__guard_drop(g, ring);
    pthread_mutex_unlock(&plug__component.lock);
    if (opened)
        plug__component_compare();
    return needs;
}


/* Opens the ring for a query of the status, but never makes a data file: anyone
 * may ask for the status. */
static void
plug__component_look(void)
{
    bool there;

    pthread_mutex_lock(&plug__component.lock);
    there = plug__component.config != NULL && !plug__component_is_missing(
                plug__config_data_file(plug__component.config));
    pthread_mutex_unlock(&plug__component.lock);
    if (there && !plug__server_starting())
        (void)plug__component_prepare(false, false);
}


/* Ends the ring of a read that was to leave nothing behind. */
static void
plug__component_pass(void)
{
    pthread_mutex_lock(&plug__component.lock);
    if (plug__component.passing) {
        plug__component.passing = false;
        plug__guard_publish(&plug__component_guard, NULL, NULL);
    }
    pthread_mutex_unlock(&plug__component.lock);
}


/* Does the job for one key. Returns 1 on failure. */
static int
plug__component_do(const plug__keyring_job *job)
{
    static const char persisted[] = "persisted_variables_key";
    plug__guard *const g = &plug__component_guard;
    const bool reads = job->verb == PLUG__FETCH_KEY;
    const bool migrates = PLUG__LOAD(&plug__component.migrates);
    const bool passing = reads && !migrates && job->key_id != NULL
        && strcmp(job->key_id, persisted) == 0
        && (job->user_id == NULL || job->user_id[0] == '\0');
    plug__component_root root = { .down = false };
    bool needs, failed = false;

    if (passing && plug__server_starting()) {
        pthread_mutex_lock(&plug__component.lock);
        plug__component_step_down(&root, plug__component.config);
        pthread_mutex_unlock(&plug__component.lock);
    }
    needs = plug__component_prepare(reads, passing);
    if (needs)
        failed = plug__keyring_do(g, job);
    else
        plug__component_lack(job);
    if (passing)
        plug__component_pass();
    plug__component_step_up(&root);
    if (failed && reads && !migrates && plug__server_starting())
        plug__lines_say(&g->lines, "", PLUG__LOG_FETCH);
    return failed;
}


/* Whether it has its settings. *present: whether the server has it at all. */
static bool
plug__component_is_loaded(bool *present)
{
    bool loaded;

    pthread_mutex_lock(&plug__component.lock);
    loaded   = plug__component.config != NULL;
    *present = plug__component.present;
    pthread_mutex_unlock(&plug__component.lock);
    return loaded;
}


/* ---- keyring_load, keyring_component_status ------------------------------ */

/* With the lock held: says that a load failed. A client is only told to look
 * into the log, so a line is there each time. */
static void
plug__component_unloaded(const kaws_error *err)
{
    plug__guard *const g = &plug__component_guard;

    plug__guard_note(g, err);
    (void)plug__lines_well(&g->lines, "load");
    if (plug__component.config != NULL) {
        plug__lines_say(&g->lines, "load", PLUG__LOG_NO_RELOAD, err->text);
        return;
    }
    plug__guard_shut(g, err);
    plug__lines_say(&g->lines, "load", PLUG__LOG_NO_LOAD, err->text,
                    plug__component.migrates ? "migrate again"
                    : "run ALTER INSTANCE RELOAD KEYRING (if the server has"
                      " asked for keys, it may keep tables closed until a"
                      " restart), or " PLUG__AGAIN);
}


/* Reads the settings and, if that succeeds, makes them count. On failure the
 * settings and the ring stay that were there before. */
static int
plug__component_load(const char *component_path, const char *instance_path)
{
    plug__guard *const g = &plug__component_guard;
    const bool starting = plug__server_starting();
    kaws_error err = { 0 };
    plug__config *fresh, *old;
    bool ok;

    pthread_mutex_lock(&plug__component.lock);
    PLUG__STORE(&plug__component.migrates,
                instance_path == NULL || plug__server_is_tool());
    old = fresh = plug__config_read(g, component_path, instance_path, &err);
    ok = fresh != NULL && (starting ? plug__component_check(fresh, &err)
                                    : plug__component_open(fresh, false, &err));
    if (ok) {
        old = plug__component.config;
        plug__component.config = fresh;
        plug__component.unopened.status = KAWS_OK;
        if (starting)                   /* what was seen since still counts  */
            plug__keyring_begin(g, fresh->values[
                plug__settings_find("start_seconds")].number);
        PLUG__STORE(&g->seen.away, 0);  /* these counts were the old ring's  */
        PLUG__STORE(&g->seen.answers, 0);
        if (starting)
            plug__guard_publish(g, NULL, NULL);
        plug__lines_say(&g->lines, "", PLUG__LOG_LOADED, fresh->file, starting
                        ? "; the first call opens the keyring" : "");
    } else {
        plug__component_unloaded(&err);
    }
    pthread_mutex_unlock(&plug__component.lock);
    plug__config_free(old);
    if (ok && !starting)
        plug__component_compare();
    return !ok;
}


static int
plug__component_is_initialized(void)
{
    bool present;

    return plug__component_is_loaded(&present);
}


/* ==========================================================================
 * ROOM  services    what the server calls of the component
 * ==========================================================================
 * Uses: abi lines guard server settings keyring config component
 * Gives: list_components
 *
 * Thin functions around room component, in the interface of MySQL's services:
 * 0 is success. A failing keyring is an error, never a key that is absent: for
 * an absent key the binary log would make a new one. A reader fetches its key
 * when it begins, so only that can fail. There is no service keyring_aes: no
 * server that we know calls it, and SET PERSIST works without it.
 */

/* ---- keyring_component_metadata_query: a table, a row each --------------- */

typedef struct plug__services_rows {
    size_t at, count;
    bool   own_keys;                    /* the settings file has credentials */
    struct {
        const char *key;
        char        value[1024];        /* the server's column has 1024      */
    } of[24];
} plug__services_rows;


PLUG__FORMAT(3, 4)
static void
plug__services_row(plug__services_rows *rows, const char *key,
                   const char *format, ...)
{
    char *const value = rows->of[rows->count].value;
    va_list args;

    rows->of[rows->count++].key = key;
    va_start(args, format);
    if (vsnprintf(value, sizeof rows->of->value, format, args) <= 0)
        snprintf(value, sizeof rows->of->value, "<NONE>");
    va_end(args);
}


/* The rows that Oracle's component has, in its order and words. */
static void
plug__services_first_rows(plug__services_rows *rows, const plug__config *c)
{
    const int only = plug__settings_find("read_only");
    const int conf = plug__settings_find("conf_file");
    char shown[PLUG__SHOWN];

    rows->own_keys = c != NULL && strcmp(c->values[conf].text, c->file) == 0;

    plug__services_row(rows, "Component_name", "%s", plug__component_name);
    plug__services_row(rows, "Author", "The keyring_aws authors");
    plug__services_row(rows, "License", "BSD-2-Clause");
    plug__services_row(rows, "Implementation_name", "%s",
                       plug__component_name);
    plug__services_row(rows, "Version", "%s", KAWS_VERSION);
    plug__services_row(rows, "Component_status", c != NULL ? "Active"
                                                           : "Disabled");
    plug__services_row(rows, "Data_file", "%s", c == NULL ? "<NOT APPLICABLE>"
                       : kaws_show(shown, sizeof shown,
                                   plug__config_data_file(c)));
    plug__services_row(rows, "Read_only", "%s", c == NULL ? "<NOT APPLICABLE>"
                       : c->values[only].flag ? "Yes" : "No");
}


/* Whether KMS answers, as far as the last calls tell. */
static const char *
plug__services_kms_state(plug__guard *g, const kaws_stats *s)
{
    const int away = PLUG__LOAD(&g->seen.away);

    if (away != 0
        && s->kms_requests - s->kms_errors == PLUG__LOAD(&g->seen.away_answers))
        return away == KAWS_THROTTLED ? "Throttles" : "Unreachable";
    return s->kms_requests == 0 ? "Not asked yet" : "Answers";
}


/* When the last error was; "": there was none. */
static const char *
plug__services_when(int64_t seconds, char out[32])
{
    const time_t when = (time_t)seconds;
    struct tm tm;

    out[0] = '\0';
    if (seconds != 0 && gmtime_r(&when, &tm) != NULL)
        strftime(out, 32, "%Y-%m-%d %H:%M:%S UTC", &tm);
    return out;
}


/* The rows of our own. A figure of the ring is not applicable if there is none.
 */
static void
plug__services_more_rows(plug__services_rows *rows, plug__guard *g,
                         plug__guard_ring *ring)
{
#define ROW(key, ...)                                                          \
    plug__services_row(rows, key, ring == NULL ? "<NOT APPLICABLE>"            \
                                               : __VA_ARGS__)
#define COUNT(figure) (unsigned long long)s.figure
    const plug__guard_values v = plug__guard_wanted(g);
    const int cache = v.of[PLUG__CACHE_SECONDS].number;
    char hex[65] = "", shown[PLUG__SHOWN], at[32];
    kaws_identity who = { .region = "" };
    kaws_stats    s = { .keys = 0 };
    plug__guard_last last;
    kaws_error err;

    if (ring != NULL) {
        (void)kaws_whoami(ring->kaws, &who, &err);
        kaws_get_stats(ring->kaws, &s);
    }
    for (size_t i = 0; i < sizeof s.checksum; i++)
        snprintf(hex + 2 * i, 3, "%02x", s.checksum[i]);
    pthread_mutex_lock(&g->wanted_lock);
    last = g->last;
    pthread_mutex_unlock(&g->wanted_lock);
    ROW("Kms_key", "%s", kaws_show(shown, sizeof shown,
                                   v.of[PLUG__CMK_ID].text));
    ROW("Region", "%s", who.region);
    ROW("Region_in_use", "%s", s.region_in_use);
    ROW("Endpoint", "%s", who.endpoint);
    ROW("Credentials_source", "%s", rows->own_keys ? "the settings file"
                                                   : who.source);
    ROW("Keys", "%llu", COUNT(keys));
    ROW("File_checksum", "%s", hex);
    ROW("Kms_requests", "%llu", COUNT(kms_requests));
    ROW("Kms_errors", "%llu", COUNT(kms_errors));
    ROW("Kms_retries", "%llu", COUNT(kms_retries));
    ROW("Kms_time", "%llu", COUNT(kms_time_us));
    ROW("Failovers", "%llu", COUNT(failovers));
    plug__services_row(rows, "Last_error", "%s", last.text);
    plug__services_row(rows, "Last_error_time", "%s",
                       plug__services_when(last.when, at));
    ROW("Cache", cache > 0 ? "%d s, %llu hits" : "Off", cache,
        COUNT(cache_hits));
    ROW("Kms_state", "%s", plug__services_kms_state(g, &s));
#undef COUNT
#undef ROW
}


static int
plug__services_rows_init(void **out)
{
    plug__guard *const g = &plug__component_guard;
    plug__services_rows *const rows = calloc(1, sizeof *rows);
    plug__guard_ring *ring;

    *out = rows;
    if (rows == NULL)
        return 1;
    plug__component_look();
    pthread_mutex_lock(&plug__component.lock);
    plug__services_first_rows(rows, plug__component.config);
    pthread_mutex_unlock(&plug__component.lock);
    ring = plug__guard_borrow(g);
    plug__services_more_rows(rows, g, ring);
    plug__guard_drop(g, ring);
    return 0;
}


static int
plug__services_rows_deinit(void *rows)
{
    free(rows);
    return 0;
}


static int
plug__services_rows_valid(void *arg)
{
    const plug__services_rows *const rows = arg;

    return rows != NULL && rows->at < rows->count;
}


static int
plug__services_rows_next(void *arg)
{
    plug__services_rows *const rows = arg;

    rows->at += plug__services_rows_valid(rows) != 0;
    return !plug__services_rows_valid(rows);
}


static int
plug__services_rows_length(void *arg, size_t *key, size_t *value)
{
    const plug__services_rows *const rows = arg;

    if (!plug__services_rows_valid(arg))
        return 1;
    *key   = strlen(rows->of[rows->at].key) + 1;
    *value = strlen(rows->of[rows->at].value) + 1;
    return 0;
}


static int
plug__services_rows_get(void *arg, char *key, size_t key_size, char *value,
                        size_t value_size)
{
    const plug__services_rows *const rows = arg;
    size_t key_len, value_len;

    if (plug__services_rows_length(arg, &key_len, &value_len) != 0
        || key_len > key_size || value_len > value_size)
        return 1;
    memcpy(key, rows->of[rows->at].key, key_len);
    memcpy(value, rows->of[rows->at].value, value_len);
    return 0;
}


/* ---- keyring_reader_with_status ------------------------------------------ */

typedef struct plug__services_key {    /* the server has it from init to
                                         * deinit                            */
    size_t  len;
    char    type[16];
    uint8_t bytes[];
} plug__services_key;


static kaws_status
plug__services_give(const plug__keyring_job *job, const kaws_key *from,
                    kaws_error *err)
{
    plug__services_key *const key = malloc(sizeof *key + from->len);

    if (key == NULL)
        return plug__guard_fail(err, KAWS_MEMORY, "out of memory for a key");
    key->len = from->len;
    memcpy(key->type, from->type, sizeof key->type);
    memcpy(key->bytes, from->bytes, from->len);
    *job->key_out = key;
    return KAWS_OK;
}


/* A key that does not exist is success, and no key. */
static int
plug__services_reader_init(const char *key_id, const char *user_id,
                           void **key)
{
    const plug__keyring_job job = {
        .verb = PLUG__FETCH_KEY, .key_id = key_id, .user_id = user_id,
        .give = plug__services_give, .key_out = key
    };

    *key = NULL;
    return plug__component_do(&job);
}


static int
plug__services_reader_deinit(void *arg)
{
    plug__services_key *const key = arg;

    if (key != NULL)
        kaws_wipe(key, sizeof *key + key->len);
    free(key);
    return 0;
}


static int
plug__services_reader_length(void *arg, size_t *len, size_t *type_len)
{
    const plug__services_key *const key = arg;

    if (key == NULL)
        return 1;
    *len      = key->len;
    *type_len = strlen(key->type);
    return 0;
}


/* The server gives a type's buffer no room for a NUL. */
static int
plug__services_reader_fetch(void *arg, unsigned char *data, size_t size,
                            size_t *len, char *type, size_t type_size,
                            size_t *type_len)
{
    const plug__services_key *const key = arg;

    if (plug__services_reader_length(arg, len, type_len) != 0 || *len > size
        || *type_len > type_size)
        return 1;
    memcpy(data, key->bytes, *len);
    memset(type, 0, type_size);
    memcpy(type, key->type, *type_len);
    return 0;
}


/* ---- keyring_writer, keyring_generator ----------------------------------- */

/* Whether the keyring has this very key: the name, the type and the bytes. */
static bool
plug__services_has(const plug__keyring_job *job)
{
    plug__guard *const g = &plug__component_guard;
    const kaws_name name = { job->key_id != NULL ? job->key_id : "",
                             job->user_id };
    plug__guard_ring *ring = NULL;
    kaws_error  err;
    kaws_key    key;
    const char *type;
    bool same = false;

    (void)plug__component_prepare(false, false);
    if ((type = plug__keyring_accept(job, &err)) != NULL)
        ring = plug__guard_take(g, &err);
    if (ring != NULL && kaws_fetch(ring->kaws, name, &key, &err) == KAWS_OK) {
        same = key.len == job->plain.len && strcmp(key.type, type) == 0
               && memcmp(key.bytes, job->plain.at, key.len) == 0;
        kaws_key_free(ring->kaws, &key);
    }
    plug__guard_drop(g, ring);
    return same;
}


/* mysql_migrate_keyring ends at the first key that it cannot store, and leaves
 * those that it has stored. So it may store the same key again, and a second
 * run comes to where the first one ended. A server that migrates removes what
 * it has stored, and must not remove what was there before. */
static int
plug__services_store(const char *key_id, const char *user_id,
                     const unsigned char *data, size_t len, const char *type)
{
    const plug__keyring_job job = {
        .verb = PLUG__STORE_KEY, .key_id = key_id, .user_id = user_id,
        .type = type, .plain = { data, len }
    };

    if (plug__server_is_tool() && plug__services_has(&job))
        return 0;
    return plug__component_do(&job);
}


static int
plug__services_remove(const char *key_id, const char *user_id)
{
    return plug__component_do(&(plug__keyring_job){
        .verb = PLUG__REMOVE_KEY, .key_id = key_id, .user_id = user_id });
}


static int
plug__services_generate(const char *key_id, const char *user_id,
                        const char *type, size_t len)
{
    return plug__component_do(&(plug__keyring_job){
        .verb = PLUG__GENERATE_KEY, .key_id = key_id, .user_id = user_id,
        .type = type, .plain = { NULL, len } });
}


/* ---- keyring_keys_metadata_iterator -------------------------------------- */

static int
plug__services_names_init(void **out)
{
    *out = plug__component_prepare(true, false)
           ? plug__keyring_list(&plug__component_guard)
           : calloc(1, sizeof (plug__keyring_walk));
    return *out == NULL;
}


static int
plug__services_names_deinit(void *walk)
{
    plug__keyring_walk_end(walk);
    return 0;
}


static int
plug__services_names_valid(void *arg)
{
    const plug__keyring_walk *const walk = arg;

    return walk != NULL && walk->at < walk->len;
}


/* The lengths of the two texts of the name where the walk is. */
static int
plug__services_names_length(void *arg, size_t *key_id, size_t *user_id)
{
    const plug__keyring_walk *const walk = arg;

    if (!plug__services_names_valid(arg))
        return 1;
    *key_id  = strlen(walk->names + walk->at);
    *user_id = strlen(walk->names + walk->at + *key_id + 1);
    return 0;
}


static int
plug__services_names_next(void *arg)
{
    plug__keyring_walk *const walk = arg;
    size_t key_id, user_id;

    if (plug__services_names_length(arg, &key_id, &user_id) != 0)
        return 1;
    walk->at += key_id + 1 + user_id + 1;
    return !plug__services_names_valid(arg);
}


/* Cuts a text that does not fit, because the server ends its list at an error.
 */
static int
plug__services_names_get(void *arg, char *key_id, size_t key_id_size,
                         char *user_id, size_t user_id_size)
{
    const plug__keyring_walk *const walk = arg;
    size_t key_len, user_len;

    if (plug__services_names_length(arg, &key_len, &user_len) != 0
        || key_id_size == 0 || user_id_size == 0)
        return 1;
    snprintf(key_id, key_id_size, "%s", walk->names + walk->at);
    snprintf(user_id, user_id_size, "%s", walk->names + walk->at + key_len + 1);
    return 0;
}


/* ---- the descriptor ------------------------------------------------------ */

static int
plug__services_init(void)
{
    pthread_mutex_lock(&plug__component.lock);
    plug__component.present = true;
    pthread_mutex_unlock(&plug__component.lock);
    return 0;
}


/* The server calls it after a load that failed, in the parent of --daemonize,
 * and at its end. */
static int
plug__services_deinit(void)
{
    plug__guard *const g = &plug__component_guard;
    plug__config *config;

    pthread_mutex_lock(&plug__component.lock);
    config = plug__component.config;
    plug__component.config  = NULL;
    plug__component.present = plug__component.passing = false;
    plug__guard_shut(g, NULL);
    plug__guard_publish(g, NULL, NULL);
    pthread_mutex_unlock(&plug__component.lock);
    plug__config_free(config);
    (void)plug__lines_well(&g->lines, NULL);
    return 0;
}


static const plug__abi_load plug__services_loads = { plug__component_load };
static const plug__abi_state plug__services_states = {
    plug__component_is_initialized
};
static const plug__abi_metadata plug__services_metadata = {
    plug__services_rows_init,  plug__services_rows_deinit,
    plug__services_rows_valid, plug__services_rows_next,
    plug__services_rows_length, plug__services_rows_get
};
static const plug__abi_reader plug__services_reader = {
    plug__services_reader_init,   plug__services_reader_deinit,
    plug__services_reader_length, plug__services_reader_fetch
};
static const plug__abi_writer plug__services_writer = {
    plug__services_store, plug__services_remove
};
static const plug__abi_generator plug__services_generator = {
    plug__services_generate
};
static const plug__abi_names plug__services_names = {
    plug__services_names_init,  plug__services_names_deinit,
    plug__services_names_valid, plug__services_names_next,
    plug__services_names_length, plug__services_names_get
};

#define SERVICE(name, table)  { name ".component_keyring_aws", &table }

static const plug__abi_named plug__services_provides[] = {
    SERVICE("keyring_load",                     plug__services_loads),
    SERVICE("keyring_component_status",         plug__services_states),
    SERVICE("keyring_component_metadata_query", plug__services_metadata),
    SERVICE("keyring_reader_with_status",       plug__services_reader),
    SERVICE("keyring_writer",                   plug__services_writer),
    SERVICE("keyring_generator",                plug__services_generator),
    SERVICE("keyring_keys_metadata_iterator",   plug__services_names),
    { NULL, NULL }
};

#undef SERVICE

static const plug__abi_needed plug__services_requires[] = {
    { "registry", &plug__component.registry }, { NULL, NULL }
};

static const plug__abi_named plug__services_about[] = {
    { "mysql.author", "The keyring_aws authors" }, { "mysql.license", "BSD" },
    { "component_keyring_aws_service", "1" }, { NULL, NULL }
};

static const plug__abi_component plug__services_descriptor = {
    plug__component_name, plug__services_provides, plug__services_requires,
    plug__services_about, plug__services_init, plug__services_deinit
};


PLUG__EXPORT const void *
list_components(void)
{
    return &plug__services_descriptor;
}


/* ==========================================================================
 * ROOM  functions   the SQL functions: a table, a row each
 * ==========================================================================
 * Uses: abi lines guard server status component
 * Gives: keyring_aws_rotate_cmk() keyring_aws_rotate_keys()
 *        keyring_aws_rotate_cms() keyring_aws_refresh()
 *
 * The functions answer 1, or NULL and an error. A caller needs SUPER (or, with
 * the component, ENCRYPTION_KEY_ADMIN) when a statement is prepared and again
 * when the statement runs. If a function is called while neither the plugin nor
 * the component is loaded, its error says so.
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
    plug__guard          *guard;        /* of the door that was open         */
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


/* The door that functions use: the component if it is loaded, else the plugin.
 * If neither is, the component, if it is there, knows why. */
static plug__guard *
plug__functions_door(void)
{
    plug__guard_ring *plugin;
    bool present;

    if (plug__component_is_loaded(&present))
        return &plug__component_guard;
    plugin = plug__guard_borrow(&plug__server_guard);
    plug__guard_drop(&plug__server_guard, plugin);
    return present && plugin == NULL ? &plug__component_guard
                                     : &plug__server_guard;
}


/* Opens one more place in this session's memo of the function, and returns the
 * memo; NULL: out of memory. */
static plug__functions_memo *
plug__functions_open(plug__guard *g, plug__functions_work *work,
                     plug__functions_get *get)
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
        memo->guard   = g;
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
    plug__guard *const g = plug__functions_door();
    plug__guard_ring *ring = NULL;
    kaws_error err;

    udf->ptr = NULL;
    if (args->count != 0) {
        plug__guard_fail(&err, KAWS_ARGUMENT, "it takes no arguments");
    } else if (plug__guard_admits(g, &err)) {
        if (g == &plug__component_guard)
            (void)plug__component_prepare(false, false);
        ring = plug__guard_take(g, &err);
    }
    if (ring != NULL
        && (udf->ptr = (char *)plug__functions_open(g, work, get)) == NULL)
        plug__guard_fail(&err, KAWS_MEMORY, "out of memory");
    plug__guard_drop(g, ring);
    udf->maybe_null = true;
    udf->const_item = false;            /* else EXPLAIN would call it        */
    if (udf->ptr == NULL)
        snprintf(message, PLUG__ABI_ERRMSG_SIZE, "%s", err.text);
    return udf->ptr == NULL;
}


/* If another ring has taken this one's place meanwhile, it has to know what was
 * done to the file, else it would refuse to change what it did not write. */
static void
plug__functions_tell(plug__guard *g, const plug__guard_ring *ring)
{
    plug__guard_ring *const now = plug__guard_borrow(g);
    kaws_error ignored;

    if (now != NULL && now != ring)
        (void)kaws_refresh(now->kaws, &ignored);
    plug__guard_drop(g, now);
}


static void
plug__functions_try(const plug__functions_memo *memo, kaws_error *err)
{
    plug__guard *const  g    = memo->guard;
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
        if (plug__guard_caught_up(g, ring, err))
            (void)memo->work(ring->kaws, err);
        plug__status_untick(&ticker);
        plug__functions_tell(g, ring);
    }
    plug__guard_drop(g, ring);
    plug__guard_refresh(g);
}


static long long
plug__functions_run(const char *name, plug__functions_memo *memo,
                    unsigned char *is_null, unsigned char *error)
{
    static plug__functions_memo never = { .guard = &plug__server_guard,
        .done = true, .answer = {
        .status = KAWS_CONFIG, .text = "it was called though _init refused it"
    } };

    if (memo == NULL)
        memo = &never;
    if (!memo->done) {
        memo->done = true;
        if (!plug__server_replays())
            plug__functions_try(memo, &memo->answer);
        if (memo->answer.status == KAWS_OK) {
            (void)plug__lines_well(&memo->guard->lines, name);
        } else {
            plug__guard_note(memo->guard, &memo->answer);
            plug__lines_say(&memo->guard->lines, name, PLUG__LOG_FUNCTION, name,
                            memo->answer.text);
        }
    }
    *is_null = *error = memo->answer.status != KAWS_OK;
    if (*error)
        plug__guard_raise(memo->guard, PLUG__ER_KEYRING_AWS_UDF,
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
 * Uses: abi lines guard server status settings keyring component
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
 * that refuses with a sentence, and is valid in either layout. A server that
 * loads a component before it reads its options has no version yet: it is 8.0
 * or newer.
 */

static bool
plug__life_start(plug__guard *g, kaws_error *err)
{
    plug__guard_ring *ring = NULL;
    plug__guard_config cfg;

    if (plug__settings_read(g, plug__settings_values, &cfg, err) != KAWS_OK)
        return false;
    cfg.kaws.hooks.patience_ms = plug__keyring_patience;
    plug__keyring_begin(g, cfg.start_seconds);
    if (!plug__server_has(mysql_malloc_service)) {
        plug__guard_fail(err, KAWS_CONFIG, "this server does not offer the"
                         " service mysql_malloc_service");
    } else if (plug__guard_clear(g, err)) {
        PLUG__STORE(&g->replaces, plug__component_shares(
                        &plug__component_guard, cfg.kaws.data_file));
        ring = plug__guard_open(g, &cfg, err);
        PLUG__STORE(&g->replaces, false);
    }
    if (ring == NULL)
        return false;
    plug__guard_publish(g, NULL, &cfg.values);
    plug__keyring_judge(g, &cfg, "my.cnf (a value of SET PERSIST is applied"
                        " later in the start)");
    if (cfg.kaws.kms_key_id != NULL)
        (void)kaws_check(ring->kaws, err);
    if (err->status == KAWS_THROTTLED)
        plug__keyring_in_vain(g, ring, PLUG__KEYRING_THROTTLED);
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
    plug__guard_publish(g, ring, NULL);
    return plug__settings_restore(g, err);
}


/* This file may have been mapped since an earlier INSTALL. Then its variables
 * are as deinit left them. So init sets all of them: handle, ring, figures and
 * wanted values. */
static int
plug__life_init(void *handle)
{
    kaws_error err;
    bool       started;

    plug__server_remember(handle);
    started = plug__life_start(&plug__server_guard, &err);
    plug__settings_forget();
    if (!started) {
        plug__lines_say(plug__server_lines, "", PLUG__LOG_NO_START, err.text,
                        plug__server_starting() ? PLUG__AGAIN
                                                : "install the plugin again");
        return 1;
    }
    plug__guard_refresh(&plug__server_guard);
    plug__component_compare();
    return 0;
}


/* The server also calls this after an init that failed. */
static int
plug__life_deinit(void *handle)
{
    (void)handle;
    plug__guard_publish(&plug__server_guard, NULL, NULL);
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


/* The same for what only the component needs. It is loaded by tools, too, which
 * have none of it. */
static void
plug__life_resolve_more(void *current_thd, void *log_message)
{
    memcpy(&plug__server.current_thd, &current_thd, sizeof current_thd);
    memcpy(&plug__server.log_message, &log_message, sizeof log_message);
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

    plug__guard_begin(&plug__server_guard, &plug__server_host,
                      plug__server_log);
    plug__guard_begin(&plug__component_guard, &plug__component_host,
                      plug__component_log);
    plug__server.started = dlsym(server, "mysqld_server_started");
    plug__life_resolve_more(dlsym(server, "_Z19thd_get_current_thdv"),
                            dlsym(server, "_ZN16log_builtins_imp7messageEiz"));
    if (version == NULL)
        version = "";
    plug__settings_describe();
    all->v80->head = plug__life_head;   /* v57's head is the same bytes      */
    _mysql_sizeof_struct_st_plugin_ = (int)sizeof *all->v80;
    if (c_name != NULL && cxx == NULL && strncmp(version, "5.7.", 4) == 0) {
        plug__server.is_57 = true;
        plug__status_describe(true);
        all->v57->tail = plug__life_tail;
        _mysql_sizeof_struct_st_plugin_ = (int)sizeof *all->v57;
        plug__life_resolve(c_name, test,
                           dlsym(server, "thd_slave_thread"), killed);
    } else if (cxx != NULL && c_name == NULL
               && (version[0] == '\0' || strtol(version, NULL, 10) >= 8)) {
        plug__status_describe(false);
        all->v80->tail = plug__life_tail;
        plug__life_resolve(cxx, test,
                           dlsym(server, "_Z16thd_slave_threadPK3THD"),
                           killed);
    } else {
        all->v80->head.init  = plug__life_refuse;
        all->v80->tail.flags = PLUG__ABI_ALLOW_EARLY;   /* beyond 5.7's end  */
    }
}
