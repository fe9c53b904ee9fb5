/* keyring_aws_plugin.c - MySQL's keyring_aws plugin, open - BSD-2-Clause
 *
 * Guards a MySQL server's keys with AWS KMS: InnoDB's master keys, those of the
 * binary log, and whatever keyring_udf stores. One binary serves MySQL 5.7,
 * 8.0, 8.4 and 9.x, and does what MySQL's manual says of keyring_aws.
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
 * ROTATE     The statements to begin with, once; the last whenever it is time.
 *
 *     CREATE FUNCTION keyring_aws_rotate_cmk
 *         RETURNS INTEGER SONAME 'keyring_aws.so';
 *     CREATE FUNCTION keyring_aws_rotate_keys
 *         RETURNS INTEGER SONAME 'keyring_aws.so';
 *     SELECT keyring_aws_rotate_cmk(), keyring_aws_rotate_keys();
 *
 * CONTENTS   lobby       what is included, and how symbols are exported
 *            abi         the little of MySQL's binary interface we need
 *            server      services, the log, errors, who is asking
 *            ring        the one open keyring, and who is using it
 *            status      the status variables
 *            settings    the system variables
 *            keyring     what the server calls: store, fetch, ...
 *            functions   the SQL functions
 *            life        start, end, and which server this is
 *
 * Rooms call only rooms above them. All that concerns KMS, the data file and
 * credentials is keyring_aws.h's; here is only what makes it a MySQL plugin.
 */


/* ==========================================================================
 * ROOM  lobby       what is included, and how symbols are exported
 * ==========================================================================
 * Uses: nothing
 * Gives: PLUG__EXPORT PLUG__CONSTRUCTOR PLUG__FORMAT PLUG__STORE PLUG__LOAD
 *
 * The library is compiled in, all static: this file's only symbols are those
 * that the server looks up, whether or not -fvisibility=hidden is given.
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

/* What two threads touch with no lock that both could take, as the server reads
 * a status variable while we write it, must never be seen half written. */
#define PLUG__STORE(at, value)  __atomic_store_n(at, value, __ATOMIC_RELAXED)
#define PLUG__LOAD(at)          __atomic_load_n(at, __ATOMIC_RELAXED)


/* ==========================================================================
 * ROOM  abi         the little of MySQL's binary interface we need
 * ==========================================================================
 * Uses: nothing
 * Gives: abi_log abi_malloc abi_alloc abi_parser abi_security | abi_var
 *        abi_show | abi_keyring abi_plugin_57 abi_plugin_80 | abi_udf
 *
 * All of it has been the same from 5.7 to 9.x, but for one thing: 8.0 put
 * check_uninstall into the middle of the plugin's description, so there are two
 * of those and room life chooses. THD and the other C++ objects are only ever
 * pointers to us. Only what is used is declared; what we pass over in a table
 * of functions is called skipped.
 */

enum {
    PLUG__ABI_INTERFACE   = 0x0100,     /* no server's own: so that it copies
                                         * our description by our size of it */
    PLUG__ABI_KEYRING     = 10,         /* plugin type                       */
    PLUG__ABI_KEYRING_API = 0x0101,
    PLUG__ABI_LICENCE_BSD = 2,
    PLUG__ABI_ALLOW_EARLY = 4,          /* 8.0+ loads no plugin early without */
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

typedef int  plug__abi_check(void *thd, void *var, void *save,
                             plug__abi_value *value);
typedef void plug__abi_update(void *thd, void *var, void *at, const void *save);

typedef struct plug__abi_var {          /* the server writes into it         */
    int               flags;
    const char       *name, *comment;
    plug__abi_check  *check;            /* NULL: the server's own            */
    plug__abi_update *update;
} plug__abi_var;

typedef struct plug__abi_var_str {
    plug__abi_var head;
    char        **at;
    const char   *def_val;
} plug__abi_var_str;

typedef struct plug__abi_var_int {
    plug__abi_var head;
    int          *at;
    int           def_val, min_val, max_val, block_size;
} plug__abi_var_int;

typedef struct plug__abi_var_bool {
    plug__abi_var head;
    char         *at;
    char          def_val;
} plug__abi_var_bool;

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

typedef struct plug__abi_plugin_57 {
    plug__abi_head  head;
    plug__abi_tail  tail;
} plug__abi_plugin_57;

typedef struct plug__abi_plugin_80 {
    plug__abi_head  head;
    int           (*check_uninstall)(void *plugin);
    plug__abi_tail  tail;
} plug__abi_plugin_80;

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
    unsigned count;                     /* and more that we have no use for  */
} plug__abi_udf_args;


/* ==========================================================================
 * ROOM  server      services, the log, errors, who is asking
 * ==========================================================================
 * Uses: abi
 * Gives: server_has server_remember | server_starting server_hear server_ending
 *        | server_log server_say server_raise | server_session server_statement
 *        server_super server_stopped server_replays
 *
 * A service is a symbol of ours that holds the version we were written for,
 * until the server, loading us as a plugin, puts its own table's address there.
 * CREATE FUNCTION maps this file without doing so: use asks server_has() first.
 *
 * The log's first argument is the handle that init was given; the server frees
 * what it points to after deinit. As SQL functions may outlive the plugin, the
 * handle is used and taken away under a lock; without it lines go to stderr,
 * which is the server's error log unless somebody redirected it.
 */

#define PLUG__SERVICE ((const void *)0x0100)

PLUG__EXPORT const plug__abi_log      *my_plugin_log_service    = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_malloc   *mysql_malloc_service     = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_alloc    *thd_alloc_service        = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_parser   *mysql_parser_service     = PLUG__SERVICE;
PLUG__EXPORT const plug__abi_security *security_context_service = PLUG__SERVICE;

enum { PLUG__ERROR, PLUG__WARNING, PLUG__NOTE };   /* levels of a log line   */

enum {
    PLUG__LINE    = 1280,               /* bytes of a log line, with its NUL */
    PLUG__SHOWN   = 256                 /* bytes of a name in one, likewise  */
};

enum {                                                /* a client's errors   */
    PLUG__ER_WRONG_VALUE_FOR_VAR = 1231,
    PLUG__ER_KEYRING_AWS_UDF     = 3198
};

typedef void plug__server_printf_error(unsigned number, const char *format,
                                       int flags, ...);
typedef bool plug__server_access_test(void);
typedef int plug__server_slave_thread(const void *thd);

/* What every line ends with that somebody may read whose server does not come
 * up: InnoDB's own lines advise what loses rows. */
#define PLUG__SERVER_AGAIN                                                     \
    "start the server again: that loses nothing. Do not set"                   \
    " innodb_force_recovery, and remove no log files: that loses rows"

static struct {
    pthread_mutex_t lock;
    void           *handle;             /* NULL: not loaded, or no longer    */
    bool            is_57;              /* room life finds out, at load      */
    bool           *started;            /* the server's own flag, or NULL    */
    pthread_t       starter;            /* the thread that called init       */
    bool            heard;              /* a connection's thread has called  */
    plug__server_printf_error *printf_error;          /* or NULL             */
    plug__server_access_test  *access_test;           /* or NULL             */
    plug__server_slave_thread *slave_thread;          /* or NULL             */
} plug__server = { .lock = PTHREAD_MUTEX_INITIALIZER };


/* Nothing lies in the first 64 KiB: what is there is still a version number. */
static bool
plug__server_has(const void *service)
{
    return (uintptr_t)service > 0xffff;
}


/* This thread's session, or NULL. A connection has one for life, whichever of
 * the server's threads it runs in (thread pools move it about). */
static void *
plug__server_session(void)
{
    return plug__server_has(mysql_parser_service)
           ? mysql_parser_service->current_session() : NULL;
}


static void
plug__server_remember(void *handle)
{
    pthread_mutex_lock(&plug__server.lock);
    plug__server.handle = handle;
    pthread_mutex_unlock(&plug__server.lock);
    if (handle == NULL)
        return;
    PLUG__STORE(&plug__server.starter, pthread_self());
    PLUG__STORE(&plug__server.heard, plug__server_session() != NULL);
}


/* Whether the server is still starting. Where it has no flag that tells, it is
 * until a connection's thread has called. */
static bool
plug__server_starting(void)
{
    return plug__server.started != NULL ? !PLUG__LOAD(plug__server.started)
                                        : !PLUG__LOAD(&plug__server.heard);
}


/* A thread calls. The one that starts the server may have a session, too. */
static void
plug__server_hear(void)
{
    if (plug__server.started == NULL && plug__server_starting()
        && !pthread_equal(PLUG__LOAD(&plug__server.starter), pthread_self())
        && plug__server_session() != NULL)
        PLUG__STORE(&plug__server.heard, true);
}


/* Whether somebody has asked a server that starts to end: it blocks the signals
 * until it is up. */
static bool
plug__server_ending(void)
{
    sigset_t pending;

    return sigpending(&pending) == 0
           && (sigismember(&pending, SIGTERM) == 1
               || sigismember(&pending, SIGQUIT) == 1);
}


/* Names in the line are as kaws_show() has them, by us or by the library: so it
 * is one line whatever they are. */
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


PLUG__FORMAT(2, 3)
static void
plug__server_say(int level, const char *format, ...)
{
    char    line[PLUG__LINE];
    va_list args;

    va_start(args, format);
    if (vsnprintf(line, sizeof line, format, args) < 0)
        line[0] = '\0';
    va_end(args);
    plug__server_log(level, line);
}


/* Raises an SQL error in the session that runs in this thread. */
static void
plug__server_raise(unsigned number, const char *text)
{
    if (plug__server.printf_error != NULL)
        plug__server.printf_error(number, "%s", 0, text);
}


/* A number for the statement that this session runs; never 0. It is made of the
 * text (FNV-1a), since the server tells us no number of its own: the same text
 * again has the same. */
static uint64_t
plug__server_statement(void *thd)
{
    plug__abi_text text = { NULL, 0 };
    uint64_t       hash = 14695981039346656037u ^ (uintptr_t)thd;

    if (plug__server_has(mysql_parser_service))
        text = mysql_parser_service->get_query(thd);
    for (size_t i = 0; i < text.len; i++)
        hash = (hash ^ (unsigned char)text.at[i]) * 1099511628211u;
    return hash | 1;
}


/* Whether keyring_operations is OFF, which stops all changes of the keyring.
 * This is the test that the server makes before it calls a keyring. */
static bool
plug__server_stopped(void)
{
    return plug__server.access_test != NULL && plug__server.access_test();
}


/* Whether this thread applies what another server has done. */
static bool
plug__server_replays(void)
{
    void *const thd = plug__server_session();

    return thd != NULL && plug__server.slave_thread != NULL
           && plug__server.slave_thread(thd) != 0;
}


/* Whether this thread's session has SUPER; no session has no privilege. */
static bool
plug__server_super(void)
{
    void *const thd = plug__server_session();
    void *context = NULL;
    char  super   = 0;

    if (thd == NULL || !plug__server_has(security_context_service)
        || security_context_service->get_context(thd, &context) != 0
        || context == NULL
        || security_context_service->get_option(context, "privilege_super",
                                                &super) != 0)
        return false;
    return super != 0;
}


/* ==========================================================================
 * ROOM  ring        the one open keyring, and who is using it
 * ==========================================================================
 * Uses: server
 * Gives: ring_take ring_take_to_seal ring_drop ring_fail | ring_try ring_open
 *        ring_publish ring_retire | ring_want ring_wanted
 *
 * The plugin has one ring. UNINSTALL PLUGIN does not wait for an SQL function
 * that is still running, so each user counts, and the last one closes. INSTALL
 * PLUGIN waits a while for the ring of the former life to be closed, and
 * refuses if it is not: two rings in one process would write the same data
 * file, and each would find that the other had changed it.
 *
 * SET GLOBAL comes in two steps. The check may wait for KMS, and has the ring
 * try the value; but the statement may still fail over another variable of it,
 * and then changes nothing: so trying changes nothing either, and nothing has
 * to be undone. The update is what counts; it holds a server-wide lock and must
 * not wait for network, file or ring. So it only writes down a wish, under a
 * lock of its own that nobody keeps. Whoever next seals makes the ring follow
 * the wish. What was tried last is followed without KMS; else one thread asks
 * it, and those who need the same wait and share its answer.
 *
 * KMS key and region are one value, tried and followed as a pair, for a key is
 * looked up in its region, and may be in no other.
 */

enum { PLUG__VALUE_MAX = 512 };      /* bytes of a dynamic string, with NUL  */

typedef struct plug__ring_pair {
    char cmk_id[PLUG__VALUE_MAX];       /* empty: none                       */
    char region[PLUG__VALUE_MAX];
} plug__ring_pair;

typedef struct plug__ring_wish {
    plug__ring_pair pair;
    int             connect_timeout_ms, timeout_ms;
} plug__ring_wish;

typedef struct plug__ring {
    kaws           *kaws;
    int             users;              /* one of them is the plugin itself  */
    plug__ring_wish has;                /* the wish that it follows          */
    bool            turning;            /* a thread is asking KMS to follow  */
    unsigned        turns;              /* how often that was tried          */
    kaws_error      answer;             /* what came of the last time        */
} plug__ring;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t  turned;
    plug__ring     *now;                /* NULL: the plugin is not up        */
    int             open;               /* with those of a former life       */
    pthread_mutex_t wish_lock;          /* innermost: held for a copy only   */
    plug__ring_wish wish;
} plug__rings = {
    PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0,
    PTHREAD_MUTEX_INITIALIZER, { { "", "" }, 0, 0 }
};


static void
plug__ring_want(const plug__ring_wish *wish)
{
    pthread_mutex_lock(&plug__rings.wish_lock);
    plug__rings.wish = *wish;
    pthread_mutex_unlock(&plug__rings.wish_lock);
}


static plug__ring_wish
plug__ring_wanted(void)
{
    plug__ring_wish wish;

    pthread_mutex_lock(&plug__rings.wish_lock);
    wish = plug__rings.wish;
    pthread_mutex_unlock(&plug__rings.wish_lock);
    return wish;
}


static kaws_status
plug__ring_fail(kaws_error *err, kaws_status status, const char *why)
{
    memset(err, 0, sizeof *err);
    err->status = status;
    snprintf(err->text, sizeof err->text, "%s", why);
    return status;
}


static void
plug__ring_drop(plug__ring *ring)
{
    bool last;

    pthread_mutex_lock(&plug__rings.lock);
    last = --ring->users == 0;
    pthread_mutex_unlock(&plug__rings.lock);
    if (!last)
        return;
    kaws_close(ring->kaws);
    free(ring);
    pthread_mutex_lock(&plug__rings.lock);
    plug__rings.open--;
    pthread_mutex_unlock(&plug__rings.lock);
}


/* Under the lock. As it takes no network, it need not wait for an occasion. */
static void
plug__ring_follow_timeouts(plug__ring *ring)
{
    const plug__ring_wish wish = plug__ring_wanted();

    if (ring->has.connect_timeout_ms == wish.connect_timeout_ms
        && ring->has.timeout_ms == wish.timeout_ms)
        return;
    kaws_use_timeouts(ring->kaws, wish.connect_timeout_ms, wish.timeout_ms);
    ring->has.connect_timeout_ms = wish.connect_timeout_ms;
    ring->has.timeout_ms         = wish.timeout_ms;
}


/* The ring, counted; give it back with ring_drop. NULL: it is not there. */
static plug__ring *
plug__ring_take(kaws_error *err)
{
    plug__ring *ring;

    pthread_mutex_lock(&plug__rings.lock);
    ring = plug__rings.now;
    if (ring != NULL) {
        ring->users++;
        plug__server_hear();
        plug__ring_follow_timeouts(ring);
    }
    pthread_mutex_unlock(&plug__rings.lock);
    if (ring == NULL)
        plug__ring_fail(err, KAWS_CONFIG,
                        "the plugin keyring_aws is not loaded");
    return ring;
}


/* Up to 30 s for the SQL functions that began before UNINSTALL PLUGIN. */
static bool
plug__ring_wait_for_former(void)
{
    const struct timespec pause = { 0, 20 * 1000 * 1000 };
    int open = 0;

    for (int i = 0; i < 1500; i++) {
        pthread_mutex_lock(&plug__rings.lock);
        open = plug__rings.open;
        pthread_mutex_unlock(&plug__rings.lock);
        if (open == 0)
            break;
        nanosleep(&pause, NULL);
    }
    return open == 0;
}


static kaws_status
plug__ring_open(plug__ring **out, const kaws_config *cfg, kaws_error *err)
{
    plug__ring *ring;
    kaws_status status;

    if (!plug__ring_wait_for_former())
        return plug__ring_fail(err, KAWS_RUNNING,
                   "an SQL function that began before UNINSTALL PLUGIN still"
                   " works on the data file: install again when it has ended");
    ring = calloc(1, sizeof *ring);
    if (ring == NULL)
        return plug__ring_fail(err, KAWS_MEMORY, "out of memory");
    status = kaws_open(&ring->kaws, cfg, err);
    if (status != KAWS_OK) {
        free(ring);
        return status;
    }
    ring->users = 1;
    ring->has   = plug__ring_wanted();
    pthread_mutex_lock(&plug__rings.lock);
    plug__rings.open++;
    pthread_mutex_unlock(&plug__rings.lock);
    *out = ring;
    return KAWS_OK;
}


static void
plug__ring_publish(plug__ring *ring)
{
    pthread_mutex_lock(&plug__rings.lock);
    plug__rings.now = ring;
    pthread_mutex_unlock(&plug__rings.lock);
}


/* From here on nobody takes it; those who have it may finish. */
static void
plug__ring_retire(void)
{
    plug__ring *ring;

    pthread_mutex_lock(&plug__rings.lock);
    ring = plug__rings.now;
    plug__rings.now = NULL;
    pthread_mutex_unlock(&plug__rings.lock);
    if (ring != NULL)
        plug__ring_drop(ring);
}


/* The KMS key as the library takes it. */
static const char *
plug__ring_key(const plug__ring_pair *pair)
{
    return pair->cmk_id[0] != '\0' ? pair->cmk_id : NULL;
}


/* has.pair is written by the thread whose turn it is, and read by others under
 * the lock. */
static kaws_status
plug__ring_turn(plug__ring *ring, const plug__ring_pair *pair, kaws_error *err)
{
    const kaws_status status = kaws_use(ring->kaws, plug__ring_key(pair),
                                        pair->region, err);

    pthread_mutex_lock(&plug__rings.lock);
    if (status == KAWS_OK)
        ring->has.pair = *pair;
    pthread_mutex_unlock(&plug__rings.lock);
    return status;
}


/* Has KMS judge a pair that somebody wants to SET. Nothing changes. */
static kaws_status
plug__ring_try(plug__ring *ring, const plug__ring_pair *pair, kaws_error *err)
{
    return kaws_try(ring->kaws, plug__ring_key(pair), pair->region, err);
}


static bool
plug__ring_follows(const plug__ring *ring, const plug__ring_wish *wish)
{
    return strcmp(ring->has.pair.cmk_id, wish->pair.cmk_id) == 0
           && strcmp(ring->has.pair.region, wish->pair.region) == 0;
}


/* Makes the ring use the KMS key and region that were last SET. If it does, it
 * waits for nobody's turn: a SET that KMS takes long to judge holds up no key.
 */
static kaws_status
plug__ring_follow(plug__ring *ring, kaws_error *err)
{
    kaws_status     status = KAWS_OK;
    plug__ring_wish wish;
    unsigned        turns;

    pthread_mutex_lock(&plug__rings.lock);
    wish = plug__ring_wanted();
    if (plug__ring_follows(ring, &wish)) {
        pthread_mutex_unlock(&plug__rings.lock);
        return KAWS_OK;
    }
    turns = ring->turns;
    while (ring->turning)
        pthread_cond_wait(&plug__rings.turned, &plug__rings.lock);
    ring->turning = true;
    wish = plug__ring_wanted();
    if (!plug__ring_follows(ring, &wish)) {
        if (ring->turns != turns && ring->answer.status != KAWS_OK) {
            *err   = ring->answer;      /* somebody heard it as we waited    */
            status = err->status;
        } else {
            pthread_mutex_unlock(&plug__rings.lock);
            status = plug__ring_turn(ring, &wish.pair, err);
            pthread_mutex_lock(&plug__rings.lock);
            ring->answer.status = KAWS_OK;
            if (status != KAWS_OK)
                ring->answer = *err;
        }
    }
    ring->turns++;
    ring->turning = false;
    pthread_cond_broadcast(&plug__rings.turned);
    pthread_mutex_unlock(&plug__rings.lock);
    return status;
}


/* The ring, taken, and ready to seal with the KMS key that was last SET. */
static plug__ring *
plug__ring_take_to_seal(kaws_error *err)
{
    const plug__ring_wish wish = plug__ring_wanted();
    plug__ring *const     ring = plug__ring_take(err);

    if (ring == NULL)
        return NULL;
    if (wish.pair.cmk_id[0] == '\0')
        plug__ring_fail(err, KAWS_CONFIG, "keyring_aws_cmk_id has to be set");
    else if (plug__ring_follow(ring, err) == KAWS_OK)
        return ring;
    plug__ring_drop(ring);
    return NULL;
}


/* ==========================================================================
 * ROOM  status      the status variables
 * ==========================================================================
 * Uses: abi ring
 * Gives: status_table | status_refresh status_reset | status_tick status_untick
 *
 * SHOW_FUNC would let us compute a figure when it is asked for, but its number
 * differs between MySQL's 5.7, Percona's and 8.0; a plain SHOW_LONGLONG is the
 * same everywhere. So the server reads these numbers straight out of memory, at
 * any time and without a lock, and we keep them fresh: after each operation,
 * and, while an SQL function runs, every 10 ms from a thread that lives just as
 * long, so that a long rotation shows its progress. An idle plugin has no
 * thread and does nothing.
 */

#define PLUG__STATUSES(X)                                                      \
    X(keys,         keys)                                                      \
    X(kms_requests, kms_requests)                                              \
    X(kms_errors,   kms_errors)                                                \
    X(kms_retries,  kms_retries)                                               \
    X(kms_time,     kms_time_us)                                               \
    X(rewrap_done,  rewrap_done)                                               \
    X(rewrap_total, rewrap_total)

static kaws_stats plug__status_shown;

static plug__abi_show plug__status_table[] = {
#define X(name, figure)                                                        \
    { "Keyring_aws_" #name, (char *)&plug__status_shown.figure,                \
      PLUG__ABI_SHOW_LONGLONG, PLUG__ABI_SHOW_GLOBAL },
    PLUG__STATUSES(X)
#undef X
    { NULL, NULL, 0, 0 }
};

/* Held from asking the ring until all is stored: else an older answer could
 * overtake a newer one. */
static pthread_mutex_t plug__status_lock = PTHREAD_MUTEX_INITIALIZER;


static void
plug__status_store(const kaws_stats *stats)
{
#define X(name, figure) PLUG__STORE(&plug__status_shown.figure, stats->figure);
    PLUG__STATUSES(X)
#undef X
}


static void
plug__status_refresh(void)
{
    plug__ring *ring;
    kaws_error  err;
    kaws_stats  stats;

    pthread_mutex_lock(&plug__status_lock);
    ring = plug__ring_take(&err);
    if (ring != NULL) {
        kaws_get_stats(ring->kaws, &stats);
        plug__status_store(&stats);
        plug__ring_drop(ring);
    }
    pthread_mutex_unlock(&plug__status_lock);
}


static void
plug__status_reset(void)
{
    const kaws_stats none = { 0 };

    pthread_mutex_lock(&plug__status_lock);
    plug__status_store(&none);
    pthread_mutex_unlock(&plug__status_lock);
}


typedef struct plug__status_ticker {
    pthread_t thread;
    bool      runs, stop;
} plug__status_ticker;


static void *
plug__status_run(void *stop)
{
    const struct timespec pause = { 0, 10 * 1000 * 1000 };

    while (!PLUG__LOAD((bool *)stop)) {
        plug__status_refresh();
        nanosleep(&pause, NULL);
    }
    return NULL;
}


/* Signals are the server's: its own thread waits for them. If no thread can be
 * had, the figures stand still until the work is done, and that is all. */
static void
plug__status_tick(plug__status_ticker *ticker)
{
    sigset_t all, before;

    ticker->stop = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ticker->runs = pthread_create(&ticker->thread, NULL, plug__status_run,
                                  &ticker->stop) == 0;
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
 * ROOM  settings    the system variables
 * ==========================================================================
 * Uses: abi server ring status
 * Gives: settings_table settings | settings_config settings_wish
 *
 * The server fills these in from my.cnf before init, and at run time by a check
 * and an update (ring says why there are two). All strings are MEMALLOC: the
 * server owns them, frees them at UNINSTALL and leaves NULL, so that nothing
 * stale is found when the file stays mapped and the plugin is installed again.
 * DEFAULT would skip the check, so the two that are checked refuse it.
 *
 * A statement may SET both the KMS key and its region, in either order. All
 * checks come before the first update, and each tries the pair that there would
 * be after it: with what the same statement had checked before.
 */

#define PLUG__REGION "us-east-1"        /* where none is set                 */

static struct {
    char *cmk_id, *region, *conf_file, *data_file;
    char *accounts, *endpoint, *ca_file;
    int   connect_timeout, timeout, start_seconds;
    char  open_mode;
} plug__settings;

enum { PLUG__SETTERS = 8 };             /* statements at once that are known  */

typedef struct plug__settings_half {
    uint64_t        statement;          /* 0: none                           */
    plug__ring_pair pair;               /* empty: not checked by it          */
} plug__settings_half;

static struct {                         /* what statements have checked      */
    pthread_mutex_t     lock;
    unsigned            next;
    plug__settings_half of[PLUG__SETTERS];
} plug__settings_checked = { PTHREAD_MUTEX_INITIALIZER, 0, { { 0 } } };


static void
plug__settings_refuse(const char *name, const char *value, const char *why)
{
    char shown[128], text[PLUG__ABI_ERRMSG_SIZE];

    kaws_show(shown, sizeof shown, value);
    plug__server_say(PLUG__ERROR, "%s stays as it is, for '%s' was refused: %s",
                     name, shown, why);
    snprintf(text, sizeof text,
             "Variable '%s' can't be set to the value of '%s': %s",
             name, shown, why);
    plug__server_raise(PLUG__ER_WRONG_VALUE_FOR_VAR, text);
}


/* The new value in memory that lives as long as the statement, or NULL. */
static const char *
plug__settings_copy(void *thd, const char *name, plug__abi_value *value)
{
    char        buf[PLUG__VALUE_MAX];
    int         len  = (int)sizeof buf;
    const char *text = value->val_str(value, buf, &len);
    const char *copy = NULL;

    if (text == NULL)
        plug__settings_refuse(name, "NULL", "it has to have a value");
    else if (len == 0)
        plug__settings_refuse(name, "", "it has to have a value");
    else if (len >= PLUG__VALUE_MAX)
        plug__settings_refuse(name, text, "it is too long");
    else if (memchr(text, '\0', (size_t)len) != NULL)
        plug__settings_refuse(name, text, "there is a zero byte in it");
    else if (!plug__server_has(thd_alloc_service)
             || (copy = thd_alloc_service->thd_strmake(thd, text, (size_t)len))
                == NULL)
        plug__settings_refuse(name, text, "out of memory");
    return copy;
}


/* With the lock held. NULL: it has checked nothing. */
static plug__settings_half *
plug__settings_find(uint64_t statement)
{
    for (int i = 0; i < PLUG__SETTERS; i++) {
        if (plug__settings_checked.of[i].statement == statement)
            return &plug__settings_checked.of[i];
    }
    return NULL;
}


static void
plug__settings_merge(plug__ring_pair *pair, const plug__ring_pair *checked)
{
    if (checked->cmk_id[0] != '\0')
        memcpy(pair->cmk_id, checked->cmk_id, sizeof pair->cmk_id);
    if (checked->region[0] != '\0')
        memcpy(pair->region, checked->region, sizeof pair->region);
}


/* The pair that there would be with this value. If another variable had the
 * statement refused, its values are still here when the session runs the same
 * text again: each is replaced as it is checked, so the last check has them
 * right. */
static plug__ring_pair
plug__settings_pair(void *thd, bool is_cmk_id, const char *text)
{
    const uint64_t  statement = plug__server_statement(thd);
    plug__ring_pair pair      = plug__ring_wanted().pair;
    plug__settings_half *half;

    pthread_mutex_lock(&plug__settings_checked.lock);
    half = plug__settings_find(statement);
    if (half == NULL) {
        half = &plug__settings_checked.of[plug__settings_checked.next++
                                          % PLUG__SETTERS];
        memset(half, 0, sizeof *half);
        half->statement = statement;
    }
    snprintf(is_cmk_id ? half->pair.cmk_id : half->pair.region,
             PLUG__VALUE_MAX, "%s", text);
    plug__settings_merge(&pair, &half->pair);
    pthread_mutex_unlock(&plug__settings_checked.lock);
    return pair;
}


/* The statement was refused, or has begun to update: no more checks follow.
 * Returns what it has checked. */
static plug__ring_pair
plug__settings_forget(void *thd)
{
    const uint64_t  statement = plug__server_statement(thd);
    plug__ring_pair checked   = { "", "" };
    plug__settings_half *half;

    pthread_mutex_lock(&plug__settings_checked.lock);
    half = plug__settings_find(statement);
    if (half != NULL) {
        checked = half->pair;
        half->statement = 0;
    }
    pthread_mutex_unlock(&plug__settings_checked.lock);
    return checked;
}


/* Has KMS judge the value, with its other half. */
static int
plug__settings_check(void *thd, bool is_cmk_id, void *save,
                     plug__abi_value *value)
{
    const char *const name = is_cmk_id ? "keyring_aws_cmk_id"
                                       : "keyring_aws_region";
    const char *const text = plug__settings_copy(thd, name, value);
    plug__ring_pair pair;
    plug__ring *ring;
    kaws_error  err;
    kaws_status status = KAWS_CONFIG;

    if (text == NULL) {
        (void)plug__settings_forget(thd);
        return 1;
    }
    pair = plug__settings_pair(thd, is_cmk_id, text);
    ring = plug__ring_take(&err);
    if (ring != NULL) {
        status = plug__ring_try(ring, &pair, &err);
        plug__ring_drop(ring);
        plug__status_refresh();
    }
    if (status != KAWS_OK) {
        (void)plug__settings_forget(thd);
        plug__settings_refuse(name, text, err.text);
        return 1;
    }
    *(const char **)save = text;
    return 0;
}


static int
plug__settings_check_cmk_id(void *thd, void *var, void *save,
                            plug__abi_value *value)
{
    (void)var;
    return plug__settings_check(thd, true, save, value);
}


static int
plug__settings_check_region(void *thd, void *var, void *save,
                            plug__abi_value *value)
{
    (void)var;
    return plug__settings_check(thd, false, save, value);
}


/* "keyring_aws_endpoint=" in my.cnf means the same as no such line. */
static const char *
plug__settings_text(const char *value)
{
    return value != NULL && value[0] != '\0' ? value : NULL;
}


static const char *
plug__settings_region_text(void)
{
    const char *const region = plug__settings_text(plug__settings.region);

    return region != NULL ? region : PLUG__REGION;
}


/* Wishes for what the variables say, and what has been checked for them (or
 * NULL); false if a text is too long. */
static bool
plug__settings_wish(const plug__ring_pair *checked)
{
    const char *const cmk_id = plug__settings.cmk_id;
    const char *const region = plug__settings_region_text();
    plug__ring_wish   wish   = { { "", "" }, plug__settings.connect_timeout,
                                 plug__settings.timeout };

    if (strlen(region) >= PLUG__VALUE_MAX
        || (cmk_id != NULL && strlen(cmk_id) >= PLUG__VALUE_MAX))
        return false;
    snprintf(wish.pair.cmk_id, PLUG__VALUE_MAX, "%s",
             cmk_id != NULL ? cmk_id : "");
    snprintf(wish.pair.region, PLUG__VALUE_MAX, "%s", region);
    if (checked != NULL)
        plug__settings_merge(&wish.pair, checked);
    plug__ring_want(&wish);
    return true;
}


/* The server made this copy of the string, and frees the one it replaces. The
 * first update of a statement wishes for all of it: a key that is made before
 * the second must not be sealed with one half. */
static void
plug__settings_update(void *thd, void *var, void *at, const void *save)
{
    const plug__ring_pair checked = plug__settings_forget(thd);

    (void)var;
    *(char **)at = *(char *const *)save;
    (void)plug__settings_wish(&checked);
}


/* It may come between the two updates of another session's statement. */
static void
plug__settings_update_timeouts(void *thd, void *var, void *at, const void *save)
{
    plug__ring_wish wish = plug__ring_wanted();

    (void)thd;
    (void)var;
    *(int *)at = *(const int *)save;
    wish.connect_timeout_ms = plug__settings.connect_timeout;
    wish.timeout_ms         = plug__settings.timeout;
    plug__ring_want(&wish);
}


enum {
    PLUG__SET_TEXT    = PLUG__ABI_STR | PLUG__ABI_MEMALLOC,
    PLUG__SET_ONCE    = PLUG__SET_TEXT | PLUG__ABI_READONLY
                      | PLUG__ABI_NOPERSIST,
    PLUG__SET_CHECKED = PLUG__SET_TEXT | PLUG__ABI_NODEFAULT,
    PLUG__SET_HIDDEN  = PLUG__ABI_BOOL | PLUG__ABI_READONLY
                      | PLUG__ABI_INVISIBLE
};

static plug__abi_var_str plug__settings_cmk_id = {
    { PLUG__SET_CHECKED, "cmk_id",
      "KMS key that seals: its key id, ARN or alias.",
      plug__settings_check_cmk_id, plug__settings_update },
    &plug__settings.cmk_id, NULL
};

static plug__abi_var_str plug__settings_region = {
    { PLUG__SET_CHECKED, "region",
      "AWS region of the KMS key, where keyring_aws_cmk_id is no ARN.",
      plug__settings_check_region, plug__settings_update },
    &plug__settings.region, PLUG__REGION
};

static plug__abi_var_str plug__settings_conf_file = {
    { PLUG__SET_ONCE, "conf_file",
      "File of AWS credentials: access key id, secret access key, and perhaps a"
      " session token, each on a line.", NULL, NULL },
    &plug__settings.conf_file, "/var/lib/mysql-keyring/keyring_aws_conf"
};

static plug__abi_var_str plug__settings_data_file = {
    { PLUG__SET_ONCE, "data_file",
      "File of the keys, sealed.", NULL, NULL },
    &plug__settings.data_file, "/var/lib/mysql-keyring/keyring_aws_data"
};

static plug__abi_var_str plug__settings_accounts = {
    { PLUG__SET_ONCE, "accounts",
      "AWS accounts whose KMS keys are trusted, with commas between. By default"
      " that of the KMS key alone.", NULL, NULL },
    &plug__settings.accounts, NULL
};

static plug__abi_var_str plug__settings_endpoint = {
    { PLUG__SET_ONCE, "endpoint",
      "URL of KMS, for VPC endpoints and tests. By default made of the region.",
      NULL, NULL },
    &plug__settings.endpoint, NULL
};

static plug__abi_var_str plug__settings_ca_file = {
    { PLUG__SET_ONCE, "ca_file",
      "File of the certificates that vouch for KMS. By default libcurl's.",
      NULL, NULL },
    &plug__settings.ca_file, NULL
};

static plug__abi_var_int plug__settings_connect_timeout = {
    { PLUG__ABI_INT, "connect_timeout",
      "Milliseconds that connecting to KMS may take.",
      NULL, plug__settings_update_timeouts },
    &plug__settings.connect_timeout, 1000, 100, 3600 * 1000, 1
};

static plug__abi_var_int plug__settings_timeout = {
    { PLUG__ABI_INT, "timeout",
      "Milliseconds that one call to KMS may take, with its retries.",
      NULL, plug__settings_update_timeouts },
    &plug__settings.timeout, 10000, 100, 3600 * 1000, 1
};

static plug__abi_var_int plug__settings_start_seconds = {
    { PLUG__ABI_INT | PLUG__ABI_READONLY | PLUG__ABI_NOPERSIST, "start_seconds",
      "Seconds that KMS is waited for, all in all, while the server starts.",
      NULL, NULL },
    &plug__settings.start_seconds, 30, 0, 240, 1
};

static plug__abi_var_bool plug__settings_open_mode = {
    { PLUG__SET_HIDDEN, "open_mode",
      "1: read only; the server sets it when it copies the keys elsewhere.",
      NULL, NULL },
    &plug__settings.open_mode, 0
};

static plug__abi_var *plug__settings_table[] = {
    &plug__settings_cmk_id.head,          &plug__settings_region.head,
    &plug__settings_conf_file.head,       &plug__settings_data_file.head,
    &plug__settings_accounts.head,        &plug__settings_endpoint.head,
    &plug__settings_ca_file.head,         &plug__settings_connect_timeout.head,
    &plug__settings_timeout.head,         &plug__settings_start_seconds.head,
    &plug__settings_open_mode.head,       NULL
};


static void
plug__settings_config(kaws_config *cfg)
{
    memset(cfg, 0, sizeof *cfg);
    cfg->data_file          = plug__settings_text(plug__settings.data_file);
    cfg->kms_key_id         = plug__settings_text(plug__settings.cmk_id);
    cfg->region             = plug__settings_region_text();
    cfg->accounts           = plug__settings_text(plug__settings.accounts);
    cfg->conf_file          = plug__settings_text(plug__settings.conf_file);
    cfg->endpoint           = plug__settings_text(plug__settings.endpoint);
    cfg->ca_file            = plug__settings_text(plug__settings.ca_file);
    cfg->connect_timeout_ms = plug__settings.connect_timeout;
    cfg->timeout_ms         = plug__settings.timeout;
    cfg->read_only          = plug__settings.open_mode;
}


/* ==========================================================================
 * ROOM  keyring     what the server calls: store, fetch, ...
 * ==========================================================================
 * Uses: abi server ring status settings
 * Gives: keyring_calls
 *
 * false is success. A key that is not there is no failure of fetch: it answers
 * with NULLs. What fetch gives is the server's to free with my_free, so it has
 * to come from the server's my_malloc. All three of its outputs are written in
 * every case, since the migration tool frees what they hold after a failure.
 *
 * The server hands over fixed buffers for a walk and does not say how large: a
 * user id has 96 bytes in 5.7 and in migration mode, elsewhere 256 or more. A
 * walk is one block of plain memory, made at its beginning: it survives
 * whatever becomes of the ring and of this file's mapping.
 */

enum { PLUG__SHORT_USER = 95 };

typedef struct plug__keyring_type {
    const char *name;
    size_t      sizes[3];               /* the only ones; 0: any             */
    const char *spoken;
} plug__keyring_type;

static const plug__keyring_type plug__keyring_types[] = {
    { "AES",    { 16, 24, 32 }, "16, 24 or 32" },
    { "SECRET", {  0,  0,  0 }, NULL },
    { "RSA",    {  0,  0,  0 }, NULL },
    { "DSA",    {  0,  0,  0 }, NULL }
};


/* Whether text is the upper-case word, in any case and in any locale. */
static bool
plug__keyring_is(const char *word, const char *text)
{
    for (; *word != '\0'; word++, text++) {
        if (*text != *word && *text != *word + ('a' - 'A'))
            return false;
    }
    return *text == '\0';
}


/* The type as it is kept, in upper case; NULL, and a line in the log, if KMS or
 * MySQL's manual rules this key out. */
static const char *
plug__keyring_accept(const char *verb, const char *key_id, const char *key_type,
                     size_t len, size_t max)
{
    const plug__keyring_type *type = NULL;
    char id[PLUG__SHOWN], shown[PLUG__SHOWN];

    kaws_show(id, sizeof id, key_id);
    for (size_t i = 0; key_type != NULL && i < 4 && type == NULL; i++) {
        if (plug__keyring_is(plug__keyring_types[i].name, key_type))
            type = &plug__keyring_types[i];
    }
    if (type == NULL) {
        plug__server_say(PLUG__ERROR, "cannot %s key '%s': its type has to be"
                         " AES, SECRET, RSA or DSA, and is '%s'", verb, id,
                         kaws_show(shown, sizeof shown, key_type));
        return NULL;
    }
    if (len < 1 || len > max) {
        plug__server_say(PLUG__ERROR, "cannot %s key '%s' of %zu bytes: it has"
                         " to have 1 to %zu", verb, id, len, max);
        return NULL;
    }
    if (type->spoken != NULL && len != type->sizes[0] && len != type->sizes[1]
        && len != type->sizes[2]) {
        plug__server_say(PLUG__ERROR, "cannot %s key '%s' of %zu bytes: %s keys"
                         " have %s", verb, id, len, type->name, type->spoken);
        return NULL;
    }
    return type->name;
}


static kaws_name
plug__keyring_name(const char *key_id, const char *user_id)
{
    const kaws_name name = { key_id != NULL ? key_id : "",
                             user_id != NULL ? user_id : "" };

    return name;
}


/* What every call for one key ends with: true, and a line in the log, if it
 * failed. That InnoDB asks for a key which is there already, and then fetches
 * it, is no reason for alarm. */
static bool
plug__keyring_end(plug__ring *ring, const char *verb, kaws_name name,
                  kaws_status status, const kaws_error *err)
{
    const bool mild  = status == KAWS_EXISTS || status == KAWS_NOT_FOUND;
    const bool owned = name.user_id[0] != '\0';
    char id[PLUG__SHOWN], user[PLUG__SHOWN];

    if (ring != NULL)
        plug__ring_drop(ring);
    plug__status_refresh();             /* to follow a wish may ask KMS, too */
    if (status == KAWS_OK)
        return false;
    plug__server_say(mild ? PLUG__WARNING : PLUG__ERROR,
                     "cannot %s key '%s'%s%s%s: %s", verb,
                     kaws_show(id, sizeof id, name.key_id),
                     owned ? " of '" : "",
                     kaws_show(user, sizeof user, name.user_id),
                     owned ? "'" : "", err->text);
    return true;
}


static bool
plug__keyring_store(const char *key_id, const char *key_type,
                    const char *user_id, const void *key, size_t len)
{
    const char *const type  = plug__keyring_accept("store", key_id, key_type,
                                                   len, KAWS_PLAIN_MAX);
    const kaws_name   name  = plug__keyring_name(key_id, user_id);
    const kaws_bytes  plain = { key, len };
    plug__ring *ring;
    kaws_error  err;
    kaws_status status;

    if (type == NULL)
        return true;
    ring = plug__ring_take_to_seal(&err);
    status = ring == NULL ? err.status
           : kaws_store(ring->kaws, name, type, plain, &err);
    return plug__keyring_end(ring, "store", name, status, &err);
}


static bool
plug__keyring_generate(const char *key_id, const char *key_type,
                       const char *user_id, size_t len)
{
    const char *const type = plug__keyring_accept("generate", key_id, key_type,
                                                  len, KAWS_GENERATE_MAX);
    const kaws_name   name = plug__keyring_name(key_id, user_id);
    plug__ring *ring;
    kaws_error  err;
    kaws_status status;

    if (type == NULL)
        return true;
    ring = plug__ring_take_to_seal(&err);
    status = ring == NULL ? err.status
           : kaws_generate(ring->kaws, name, type, len, &err);
    return plug__keyring_end(ring, "generate", name, status, &err);
}


static bool
plug__keyring_remove(const char *key_id, const char *user_id)
{
    const kaws_name name = plug__keyring_name(key_id, user_id);
    kaws_error err;
    plug__ring *const ring   = plug__ring_take(&err);
    const kaws_status status = ring == NULL ? err.status
                             : kaws_remove(ring->kaws, name, &err);

    return plug__keyring_end(ring, "remove", name, status, &err);
}


/* The server's own copy of a key: both parts, or neither. */
static kaws_status
plug__keyring_hand_over(const kaws_key *got, char **key_type, void **key,
                        size_t *len, kaws_error *err)
{
    const plug__abi_malloc *const server = mysql_malloc_service;
    const int flags = PLUG__ABI_MY_WME;
    char *type  = server->my_strdup(0, got->type, flags);
    void *bytes = server->my_memdup(0, got->bytes, got->len, flags);

    if (type == NULL || bytes == NULL) {
        if (type != NULL)
            server->my_free(type);
        if (bytes != NULL)
            server->my_free(bytes);
        return plug__ring_fail(err, KAWS_MEMORY, "out of memory for a key");
    }
    *key_type = type;
    *key      = bytes;
    *len      = got->len;
    return KAWS_OK;
}


/* A fetch has failed. InnoDB may now give up its start, and it gives advice of
 * its own then: ours has to stand beside it. */
static void
plug__keyring_advise(void)
{
    static bool said;

    if (plug__server_starting()
        && !__atomic_exchange_n(&said, true, __ATOMIC_RELAXED))
        plug__server_log(PLUG__ERROR, "if the server does not come up for want"
                         " of a key, bring KMS back, or mend what it says, and "
                         PLUG__SERVER_AGAIN);
}


static bool
plug__keyring_fetch(const char *key_id, char **key_type, const char *user_id,
                    void **key, size_t *len)
{
    const kaws_name name = plug__keyring_name(key_id, user_id);
    kaws_error err;
    plug__ring *const ring = plug__ring_take(&err);
    kaws_key    got = { { 0 }, NULL, 0 };
    kaws_status status;

    *key_type = NULL;
    *key      = NULL;
    *len      = 0;
    status = ring == NULL ? err.status
           : kaws_fetch(ring->kaws, name, &got, &err);
    if (status == KAWS_OK) {
        status = plug__keyring_hand_over(&got, key_type, key, len, &err);
        kaws_key_free(ring->kaws, &got);
    } else if (status == KAWS_NOT_FOUND) {
        status = KAWS_OK;
    }
    if (!plug__keyring_end(ring, "fetch", name, status, &err))
        return false;
    plug__keyring_advise();
    return true;
}


/* ---- walking over the names ---------------------------------------------- */

typedef struct plug__keyring_walk {
    size_t at, len, room;
    char   names[];                     /* key id, NUL, user id, NUL, ...    */
} plug__keyring_walk;


static bool
plug__keyring_add(plug__keyring_walk **walk, const char *name)
{
    plug__keyring_walk *grown = *walk;
    const size_t        size  = strlen(name) + 1;

    if (size > grown->room - grown->len) {
        const size_t room = grown->room * 2 + 4096;
        grown = realloc(grown, sizeof *grown + room);
        if (grown == NULL)
            return false;
        grown->room = room;
        *walk = grown;
    }
    memcpy(grown->names + grown->len, name, size);
    grown->len += size;
    return true;
}


/* Whether the server's buffers can hold the name; if not, a line says so. */
static bool
plug__keyring_fits(const kaws_name *name)
{
    const bool tight = plug__server.is_57 || plug__settings.open_mode != 0;
    char key_id[PLUG__SHOWN], user_id[PLUG__SHOWN];

    if (!tight || strlen(name->user_id) <= PLUG__SHORT_USER)
        return true;
    plug__server_say(PLUG__ERROR, "key '%s' of '%s' is left out: this server"
                     " takes user ids of at most %d bytes here",
                     kaws_show(key_id, sizeof key_id, name->key_id),
                     kaws_show(user_id, sizeof user_id, name->user_id),
                     PLUG__SHORT_USER);
    return false;
}


static kaws_status
plug__keyring_list(kaws *ring, plug__keyring_walk **out, kaws_error *err)
{
    kaws_walk      *walk   = NULL;
    kaws_status     status = kaws_walk_begin(ring, &walk, err);
    kaws_entry_info info;
    bool            ok;

    if (status != KAWS_OK)
        return status;
    *out = calloc(1, sizeof **out);
    ok   = *out != NULL;
    while (ok && kaws_walk_next(walk, &info))
        ok = !plug__keyring_fits(&info.name)
          || (plug__keyring_add(out, info.name.key_id)
              && plug__keyring_add(out, info.name.user_id));
    kaws_walk_end(walk);
    return ok ? KAWS_OK
              : plug__ring_fail(err, KAWS_MEMORY, "out of memory for a list");
}


/* NULL tells the server that there can be no walk; no keys is no NULL. */
static void
plug__keyring_walk_begin(void **out)
{
    kaws_error err;
    plug__keyring_walk *walk = NULL;
    plug__ring *const ring   = plug__ring_take(&err);
    const kaws_status status = ring == NULL ? err.status
                             : plug__keyring_list(ring->kaws, &walk, &err);

    *out = NULL;
    if (ring != NULL)
        plug__ring_drop(ring);
    if (status == KAWS_OK) {
        *out = walk;
    } else {
        free(walk);
        plug__server_say(PLUG__ERROR, "cannot list the keys: %s", err.text);
    }
}


static bool
plug__keyring_walk_next(void *arg, char *key_id, char *user_id)
{
    plug__keyring_walk *const walk = arg;
    size_t size;

    if (walk == NULL || walk->at == walk->len)
        return true;
    size = strlen(walk->names + walk->at) + 1;
    memcpy(key_id, walk->names + walk->at, size);
    walk->at += size;
    size = strlen(walk->names + walk->at) + 1;
    memcpy(user_id, walk->names + walk->at, size);
    walk->at += size;
    return false;
}


static void
plug__keyring_walk_end(void *walk)
{
    free(walk);
}


static plug__abi_keyring plug__keyring_calls = {
    PLUG__ABI_KEYRING_API,
    plug__keyring_store,      plug__keyring_fetch,    plug__keyring_remove,
    plug__keyring_generate,   plug__keyring_walk_begin,
    plug__keyring_walk_end,   plug__keyring_walk_next
};


/* ==========================================================================
 * ROOM  functions   the SQL functions
 * ==========================================================================
 * Uses: abi server ring status
 * Gives: keyring_aws_rotate_cmk() keyring_aws_rotate_keys()
 *        keyring_aws_rotate_cms()
 *
 * They answer 1, or NULL and an error. SUPER is asked for when a statement is
 * prepared and again when it runs. They may be called before the plugin was
 * loaded, and after it was uninstalled: they then say so.
 *
 * SQL calls a function as often as it likes: once a row, twice for HAVING. But
 * a rotation is no value, and a KMS key has 25 in its life: so a statement does
 * the work once, and keeps what came of it. No one tells us where a statement
 * begins and ends. But the server opens each place in its text where a function
 * stands (_init) before it runs the statement, and closes it (_deinit) at the
 * end of that run, also if it is a prepared one or a line of a procedure. So
 * what is kept lasts while any place of the function is open in the session.
 * A stored function or a trigger runs statements of its own, one by one. With
 * binlog_format = STATEMENT a replica calls the function, too, for the row's
 * sake: it gets the row's 1, and nothing is rotated.
 */

typedef kaws_status plug__functions_work(kaws *ring, kaws_error *err);

typedef struct plug__functions_kept {
    struct plug__functions_kept *next;
    const void             *session;
    plug__functions_work   *work;
    unsigned                places;     /* open ones                         */
    bool                    done;
    kaws_error              answer;     /* if so                             */
} plug__functions_kept;

static struct {
    pthread_mutex_t       lock;         /* for the list and the places       */
    plug__functions_kept *first;
} plug__functions = { PTHREAD_MUTEX_INITIALIZER, NULL };


/* What this session keeps of the function; NULL: out of memory. */
static plug__functions_kept *
plug__functions_open(plug__functions_work *work)
{
    const void *const     session = plug__server_session();
    plug__functions_kept *kept;

    pthread_mutex_lock(&plug__functions.lock);
    kept = plug__functions.first;
    while (kept != NULL && (kept->session != session || kept->work != work))
        kept = kept->next;
    if (kept == NULL && (kept = calloc(1, sizeof *kept)) != NULL) {
        kept->next    = plug__functions.first;
        kept->session = session;
        kept->work    = work;
        plug__functions.first = kept;
    }
    if (kept != NULL)
        kept->places++;
    pthread_mutex_unlock(&plug__functions.lock);
    return kept;
}


static void
plug__functions_close(plug__functions_kept *kept)
{
    plug__functions_kept **at = &plug__functions.first;

    pthread_mutex_lock(&plug__functions.lock);
    if (kept != NULL && --kept->places == 0) {
        while (*at != kept)
            at = &(*at)->next;
        *at = kept->next;
        free(kept);
    }
    pthread_mutex_unlock(&plug__functions.lock);
}


/* Why this session may not call it now; NULL: it may. */
static const char *
plug__functions_refusal(void)
{
    if (!plug__server_has(mysql_parser_service))
        return "the plugin keyring_aws is not loaded";
    if (!plug__server_super())
        return "it needs the SUPER privilege";
    return NULL;
}


/* true is failure; the server shows the message. */
static bool
plug__functions_begin(plug__functions_work *work, plug__abi_udf *udf,
                      const plug__abi_udf_args *args, char *message)
{
    const char *why = plug__functions_refusal();
    plug__ring *ring;
    kaws_error  err;

    if (args->count != 0)
        why = "it takes no arguments";
    if (why == NULL) {
        ring = plug__ring_take(&err);
        if (ring != NULL)
            plug__ring_drop(ring);
        else
            why = err.text;
    }
    udf->ptr = why == NULL ? (char *)plug__functions_open(work) : NULL;
    if (why == NULL && udf->ptr == NULL)
        why = "out of memory";
    if (why != NULL) {
        snprintf(message, PLUG__ABI_ERRMSG_SIZE, "%s", why);
        return true;
    }
    udf->maybe_null = true;
    udf->const_item = false;            /* else EXPLAIN would call it        */
    return false;
}


static kaws_status
plug__functions_try(plug__functions_work *work, kaws_error *err)
{
    const char *why = plug__functions_refusal();
    plug__status_ticker ticker;
    plug__ring *ring;

    if (why == NULL && plug__server_stopped())
        why = "keyring_operations is OFF: SET GLOBAL keyring_operations = ON"
              " first";
    if (why != NULL)
        return plug__ring_fail(err, KAWS_DENIED, why);
    ring = plug__ring_take_to_seal(err);
    if (ring != NULL) {
        plug__status_tick(&ticker);
        (void)work(ring->kaws, err);
        plug__status_untick(&ticker);
        plug__ring_drop(ring);
    }
    plug__status_refresh();
    return err->status;
}


static long long
plug__functions_run(const char *name, plug__functions_kept *kept,
                    unsigned char *is_null, unsigned char *error)
{
    static const kaws_error never = {
        KAWS_CONFIG, 0, 0, "", "", "it was called though _init refused it"
    };
    const kaws_error *const answer = kept != NULL ? &kept->answer : &never;
    char text[PLUG__ABI_ERRMSG_SIZE];

    if (kept != NULL && !kept->done) {
        kept->done = true;
        if (!plug__server_replays()
            && plug__functions_try(kept->work, &kept->answer) != KAWS_OK)
            plug__server_say(PLUG__ERROR, "%s() failed: %s", name,
                             answer->text);
    }
    *is_null = *error = answer->status != KAWS_OK;
    if (answer->status == KAWS_OK)
        return 1;
    snprintf(text, sizeof text, "Function %s failed due to: %.440s.", name,
             answer->text);
    plug__server_raise(PLUG__ER_KEYRING_AWS_UDF, text);
    return 0;
}


/* An SQL function is three symbols. The manual of 5.7 misprints the first one's
 * name in its own CREATE FUNCTION statement, as rotate_cms; whoever pastes that
 * gets what was meant. */
#define PLUG__FUNCTIONS(X)                                                     \
    X(keyring_aws_rotate_cmk,  kaws_rotate_kms_key)                            \
    X(keyring_aws_rotate_cms,  kaws_rotate_kms_key)                            \
    X(keyring_aws_rotate_keys, kaws_rewrap_all)

#define X(name, work)                                                          \
    PLUG__EXPORT bool                                                          \
    name##_init(plug__abi_udf *udf, plug__abi_udf_args *args, char *message)   \
    {                                                                          \
        return plug__functions_begin(work, udf, args, message);                \
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
 * Uses: abi server ring status settings keyring
 * Gives: _mysql_plugin_declarations_ _mysql_plugin_interface_version_
 *        _mysql_sizeof_struct_st_plugin_
 *
 * A start: the conf file has to be valid and the data file has to add up; then
 * KMS is asked to seal and open one byte. A definite no ends the start. If KMS
 * cannot be reached, or has troubles of its own, it is waited for: the network
 * may come up after the server, and without its keys InnoDB gives up. From the
 * first outage on, one deadline is shared by init and by all calls that come
 * while the server starts. After it, it is only warned that KMS is away, for a
 * database must come up when KMS is slow.
 *
 * When this file is mapped, before the server looks at anything in it, a
 * constructor finds out which server this is and describes the plugin as that
 * one reads it. Two signs must agree: what the server calls its version, and
 * whether its error function has a C or a C++ name. If they do not (a fork, a
 * tool, something newer than we know), it publishes a description that is inert
 * in either layout: nothing in it but an init that refuses with a sentence.
 */

static void
plug__life_log(void *ctx, int level, const char *line)
{
    (void)ctx;
    plug__server_log(level, line);
}


static int64_t plug__life_deadline_ms;  /* of the monotonic clock; 0: none   */


/* The patience_ms hook. */
static int
plug__life_patience(void *ctx, const kaws_error *err)
{
    const int seconds = plug__settings.start_seconds;
    struct timespec t;
    int64_t now, first = 0, deadline;

    (void)ctx;
    if (seconds == 0 || !plug__server_starting() || plug__server_ending())
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    now      = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    deadline = now + seconds * 1000;
    if (__atomic_compare_exchange_n(&plug__life_deadline_ms, &first, deadline,
                                    false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        plug__server_say(PLUG__WARNING, "the server is starting, and waits for"
                         " KMS for up to %d s (keyring_aws_start_seconds): %s",
                         seconds, err->text);
    else
        deadline = first;
    return deadline > now ? (int)(deadline - now) : 0;
}


/* Whether a server may start although kaws_check said this. */
static bool
plug__life_can_wait(kaws_status status)
{
    return status == KAWS_NETWORK || status == KAWS_THROTTLED
        || status == KAWS_SERVICE || status == KAWS_REPLY;
}


static bool
plug__life_ask(plug__ring *ring, const kaws_config *cfg, kaws_error *err)
{
    kaws_status status;

    if (cfg->kms_key_id == NULL) {
        plug__server_log(PLUG__WARNING, "keyring_aws_cmk_id has to be set:"
                         " until then keys can only be fetched");
        return true;
    }
    status = kaws_check(ring->kaws, err);
    if (!plug__life_can_wait(status))
        return status == KAWS_OK;
    plug__server_say(PLUG__WARNING, "starting without KMS: %s; if the server"
                     " does not come up, or tables stay closed, bring KMS back,"
                     " and " PLUG__SERVER_AGAIN, err->text);
    return true;
}


static bool
plug__life_start(kaws_error *err)
{
    plug__ring *ring = NULL;
    kaws_config cfg;

    plug__settings_config(&cfg);
    cfg.hooks.log         = plug__life_log;
    cfg.hooks.patience_ms = plug__life_patience;
    if (!plug__server_has(mysql_malloc_service))
        plug__ring_fail(err, KAWS_CONFIG, "this server does not offer the"
                        " service mysql_malloc_service");
    else if (!plug__settings_wish(NULL))
        plug__ring_fail(err, KAWS_CONFIG, "keyring_aws_cmk_id or"
                        " keyring_aws_region is too long");
    else if (cfg.conf_file == NULL)
        plug__ring_fail(err, KAWS_CONFIG,
                        "keyring_aws_conf_file has to be set");
    else if (cfg.data_file == NULL)
        plug__ring_fail(err, KAWS_CONFIG,
                        "keyring_aws_data_file has to be set");
    else if (plug__ring_open(&ring, &cfg, err) == KAWS_OK) {
        if (plug__life_ask(ring, &cfg, err)) {
            plug__ring_publish(ring);
            return true;
        }
        plug__ring_drop(ring);
    }
    return false;
}


/* The file may have been mapped all the time since a former life, and then its
 * variables are as deinit left them: handle, ring, figures and wish are set
 * anew here, and nothing else is kept. */
static int
plug__life_init(void *handle)
{
    kaws_error err;

    plug__server_remember(handle);
    PLUG__STORE(&plug__life_deadline_ms, 0);
    if (!plug__life_start(&err)) {
        plug__server_say(PLUG__ERROR, "cannot start: %s; the server has no"
                         " keyring until you mend that, and %s", err.text,
                         plug__server_starting() ? PLUG__SERVER_AGAIN
                                                 : "install the plugin again");
        return 1;
    }
    plug__status_refresh();
    return 0;
}


/* Also called after an init that failed. */
static int
plug__life_deinit(void *handle)
{
    (void)handle;
    plug__ring_retire();
    plug__status_reset();
    plug__server_remember(NULL);
    return 0;
}


static int
plug__life_refuse(void *handle)
{
    (void)handle;
    fputs("keyring_aws: cannot start: this program does not look like MySQL"
          " 5.7, 8.0 or newer\n", stderr);
    return 1;
}


PLUG__EXPORT int _mysql_plugin_interface_version_ = PLUG__ABI_INTERFACE;
PLUG__EXPORT int _mysql_sizeof_struct_st_plugin_;

PLUG__EXPORT union {                    /* the second element ends the list  */
    plug__abi_plugin_57 v57[2];
    plug__abi_plugin_80 v80[2];
} _mysql_plugin_declarations_;


static const plug__abi_tail plug__life_tail = {
    plug__life_deinit, 0x0100, plug__status_table, plug__settings_table, NULL,
    PLUG__ABI_ALLOW_EARLY
};


static const plug__abi_head plug__life_head = {
    PLUG__ABI_KEYRING, &plug__keyring_calls, "keyring_aws",
    "The keyring_aws authors", "Keyring guarded by AWS KMS",
    PLUG__ABI_LICENCE_BSD, plug__life_init
};


/* A function out of a void *: what POSIX promises, said in C. */
static void
plug__life_resolve(void *printf_error, void *access_test, void *slave_thread)
{
    memcpy(&plug__server.printf_error, &printf_error, sizeof printf_error);
    memcpy(&plug__server.access_test, &access_test, sizeof access_test);
    memcpy(&plug__server.slave_thread, &slave_thread, sizeof slave_thread);
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
    plug__abi_plugin_57 *const v57 = &_mysql_plugin_declarations_.v57[0];
    plug__abi_plugin_80 *const v80 = &_mysql_plugin_declarations_.v80[0];

    plug__server.started = dlsym(server, "mysqld_server_started");
    if (version == NULL)
        version = "";
    v80->head = plug__life_head;        /* v57's head is the same bytes      */
    _mysql_sizeof_struct_st_plugin_ = (int)sizeof *v80;
    if (c_name != NULL && cxx == NULL && strncmp(version, "5.7.", 4) == 0) {
        plug__server.is_57 = true;
        v57->tail = plug__life_tail;
        _mysql_sizeof_struct_st_plugin_ = (int)sizeof *v57;
        plug__life_resolve(c_name, test,
                           dlsym(server, "thd_slave_thread"));
    } else if (cxx != NULL && c_name == NULL
               && strtol(version, NULL, 10) >= 8) {
        v80->tail = plug__life_tail;
        plug__life_resolve(cxx, test,
                           dlsym(server, "_Z16thd_slave_threadPK3THD"));
    } else {
        v80->head.init  = plug__life_refuse;
        v80->tail.flags = PLUG__ABI_ALLOW_EARLY;    /* lies beyond 5.7's end */
    }
}
