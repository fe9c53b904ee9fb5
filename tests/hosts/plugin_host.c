/* plugin_host.c - loads keyring_aws.so as MySQL does, and calls all of it
 *
 * It is compiled to three programs, because a process can look like one server
 * only:
 *
 *     cc -std=c99 -DHOST_57 -rdynamic -o host_57 plugin_host.c -ldl -lpthread
 *     cc -std=c99 -DHOST_80 ...          (8.0, 8.4 and 9.x)
 *     cc -std=c99 -DHOST_UNKNOWN ...     (signs that contradict each other)
 *
 *     host_57 keyring_aws.so WORK endpoint=URL control=PORT [ca_file=FILE]
 *             [threads=32] [rounds=50]
 *
 * WORK is an empty folder; endpoint and control are what kms_emulator.py
 * printed. The programs test what a real server cannot show: the layouts of
 * 5.7, buffers at their exact lengths, memory given back to the wrong
 * allocator, two calls at a chosen moment. They also run all of the plugin
 * under sanitizers and valgrind. test_mysql*.py tests the rest in a real
 * server.
 *
 * The layouts here were written a second time, from the facts about MySQL. They
 * share nothing with the plugin's.
 */

#if !defined(HOST_57) && !defined(HOST_80) && !defined(HOST_UNKNOWN)
#error "choose a server: -DHOST_57, -DHOST_80 or -DHOST_UNKNOWN"
#endif

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(HOST_57)
enum { IS_57 = 1, IS_UNKNOWN = 0 };
#elif defined(HOST_80)
enum { IS_57 = 0, IS_UNKNOWN = 0 };
#else
enum { IS_57 = 0, IS_UNKNOWN = 1 };
#endif

static const char *so_path, *work, *endpoint, *ca_file = "";
static int control_port, thread_count = 32, round_count = 50;

enum { MAX_THREADS = 256 };

static const char key_1[] =             /* the emulator has it from the start */
    "arn:aws:kms:us-east-1:111122223333:key/"
    "11111111-2222-3333-4444-555555555555";
static char key_2[256], key_3[256];     /* alias/two of west and of east     */


/* ---- time ---------------------------------------------------------------- */

static void
die(const char *what)
{
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(2);
}


static int64_t clock_ahead_s;           /* of the monotonic clock            */
static struct timespec clock_stood;     /* what it tells while it stands     */
static int clock_stands;


/* The plugin's clock, too, because this program stands before libc. */
int
clock_gettime(clockid_t which, struct timespec *t)
{
    const int failed = (int)syscall(SYS_clock_gettime, which, t);

    if (which == CLOCK_MONOTONIC)
        t->tv_sec += __atomic_load_n(&clock_ahead_s, __ATOMIC_RELAXED);
    if (which == CLOCK_MONOTONIC
        && __atomic_load_n(&clock_stands, __ATOMIC_ACQUIRE))
        *t = clock_stood;
    return failed;
}


/* No time passes from now on, or it does again. */
static void
stop_the_clock(int stop)
{
    if (stop)
        clock_gettime(CLOCK_MONOTONIC, &clock_stood);
    __atomic_store_n(&clock_stands, stop, __ATOMIC_RELEASE);
}


static int64_t
now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}


static void
a_minute_passes(void)
{
    __atomic_add_fetch(&clock_ahead_s, 61, __ATOMIC_RELAXED);
}


static void
nap_ms(int ms)
{
    const struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

    nanosleep(&t, NULL);
}


/* ---- orders for the emulator --------------------------------------------- */

/* POSTs JSON to the control port; the result is in a static buffer. */
__attribute__((format(printf, 1, 2)))
static const char *
control(const char *format, ...)
{
    static char reply[65536];
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)control_port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)
    };
    char   *body, *result;
    size_t  got = 0;
    ssize_t n;
    va_list args;

    va_start(args, format);
    if (vasprintf(&body, format, args) < 0)
        die("control");
    va_end(args);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof to) != 0
        || dprintf(fd, "POST / HTTP/1.0\r\nHost: x\r\nContent-Length: %zu\r\n"
                   "\r\n%s", strlen(body), body) < 0)
        die("control port");
    while ((n = read(fd, reply + got, sizeof reply - 1 - got)) > 0)
        got += (size_t)n;
    reply[got] = '\0';
    close(fd);
    result = strstr(reply, "\"result\": ");
    if (result == NULL)
        die(body);
    free(body);
    return result + 10;
}


static void
fault(const char *action, const char *type, int times)
{
    control("{\"do\": \"fault\", \"action\": \"%s\", \"times\": %d, \"what\":"
            " \"error\", \"type\": \"%s\"}", action, times, type);
}


static void
latency(int ms)
{
    control("{\"do\": \"set\", \"latency_ms\": %d}", ms);
}


/* Requests for an action; "": for any. */
static int
count(const char *action)
{
    return (int)strtol(control("{\"do\": \"count\", \"action\": \"%s\"}",
                               action), NULL, 10);
}


/* ---- the server: memory -------------------------------------------------- */

/* Each block has a header, as the server's have: memory from another allocator
 * cannot be given back unnoticed. */
enum { BLOCK_MAGIC = 0x5ca1ab1e, BLOCK_HEADER = 32 };

static long blocks_alive;
static __thread int memory_ends;        /* the n-th block is not there       */


static void *
server_memdup(unsigned memory_key, const void *from, size_t len, int flags)
{
    unsigned char *const block = malloc(BLOCK_HEADER + len);
    const uint32_t magic = BLOCK_MAGIC;

    (void)memory_key;
    (void)flags;
    if (block == NULL)
        die("memory");
    if (memory_ends > 0 && --memory_ends == 0) {
        free(block);
        return NULL;
    }
    memcpy(block, &magic, sizeof magic);
    memcpy(block + BLOCK_HEADER, from, len);
    __atomic_add_fetch(&blocks_alive, 1, __ATOMIC_RELAXED);
    return block + BLOCK_HEADER;
}


static char *
server_strdup(unsigned memory_key, const char *from, int flags)
{
    return server_memdup(memory_key, from, strlen(from) + 1, flags);
}


static void
server_free(void *at)
{
    unsigned char *block;
    uint32_t magic;

    if (at == NULL)
        return;
    block = (unsigned char *)at - BLOCK_HEADER;
    memcpy(&magic, block, sizeof magic);
    if (magic != BLOCK_MAGIC)
        die("my_free of memory that is not the server's");
    memset(block, 0, sizeof magic);
    __atomic_sub_fetch(&blocks_alive, 1, __ATOMIC_RELAXED);
    free(block);
}


/* ---- the server: sessions, errors, log ----------------------------------- */

typedef struct session {
    int   super, is_replica;
    char *memory[8];                    /* of the statement that runs        */
    int   memory_count;
    char  query[1024];
    unsigned error;                     /* SQL error that was raised, or 0   */
    char  message[512];
} session;

static __thread session *current;       /* NULL: a thread of the server's own */


static void
end_statement(session *s)
{
    while (s->memory_count > 0)
        free(s->memory[--s->memory_count]);
    s->error      = 0;
    s->message[0] = '\0';
}


static char *
server_strmake(void *thd, const char *text, size_t len)
{
    session *const s = thd;
    char *const copy = strndup(text, len);

    if (copy == NULL || s->memory_count == 8)
        die("statement memory");
    s->memory[s->memory_count++] = copy;
    return copy;
}


static void *
server_current_session(void)
{
    return current;
}


typedef struct { const char *at; size_t len; } lex_string;


static lex_string
server_get_query(void *thd)
{
    const session *const s = thd;

    if (s != current)
        die("a session was asked for another one's statement");
    return (lex_string){ s->query, strnlen(s->query, 1023) };
}


static char
server_get_context(void *thd, void **context)
{
    *context = &((session *)thd)->super;
    return 0;
}


static char
server_get_option(void *context, const char *name, void *value)
{
    *(char *)value = *(int *)context != 0;
    return strcmp(name, "privilege_super") != 0;
}


#if defined(HOST_57)
char server_version[] = "5.7.44-log";
#define PRINTF_ERROR my_printf_error
#define SLAVE_THREAD thd_slave_thread
#elif defined(HOST_80)
char server_version[] = "9.7.4";
char mysqld_server_started = 1;         /* 5.7 has no such flag              */
#define PRINTF_ERROR _Z15my_printf_errorjPKciz
#define SLAVE_THREAD _Z16thd_slave_threadPK3THD
#else
char server_version[] = "5.7.44-log";   /* but its error function is C++     */
#define PRINTF_ERROR _Z15my_printf_errorjPKciz
#define SLAVE_THREAD _Z16thd_slave_threadPK3THD
#endif

static int operations_off;              /* keyring_operations                */

_Bool _Z19keyring_access_testv(void);
int SLAVE_THREAD(const void *thd);
void PRINTF_ERROR(unsigned number, const char *format, int flags, ...);

_Bool
_Z19keyring_access_testv(void)
{
    return __atomic_load_n(&operations_off, __ATOMIC_RELAXED);
}


int
SLAVE_THREAD(const void *thd)
{
    return thd == current && current->is_replica;
}


void
PRINTF_ERROR(unsigned number, const char *format, int flags, ...)
{
    va_list args;

    if (current == NULL)
        return;
    current->error = number;
    va_start(args, flags);
    vsnprintf(current->message, sizeof current->message, format, args);
    va_end(args);
}


typedef struct handle { uint32_t magic; } handle;   /* of st_plugin_int      */

enum { HANDLE_MAGIC = 0x48414e44, LOG_LINES = 20000 };

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { int level; char *text; } log_lines[LOG_LINES];
static int log_count;


static int
server_log(void **plugin, int level, const char *format, ...)
{
    const handle *const h = *plugin;
    char   *line;
    va_list args;

    if (h->magic != HANDLE_MAGIC)
        die("a line was logged through a handle that is gone");
    va_start(args, format);
    if (vasprintf(&line, format, args) < 0)
        die("log");
    va_end(args);
    pthread_mutex_lock(&log_lock);
    if (log_count == LOG_LINES)
        die("too many lines in the log");
    log_lines[log_count].level  = level;
    log_lines[log_count++].text = line;
    pthread_mutex_unlock(&log_lock);
    return 0;
}


static void
log_forget(void)
{
    pthread_mutex_lock(&log_lock);
    while (log_count > 0)
        free(log_lines[--log_count].text);
    pthread_mutex_unlock(&log_lock);
}


/* How many lines of that level (-1: any) have both words in them. */
static int
logged(int level, const char *word, const char *other)
{
    int n = 0;

    pthread_mutex_lock(&log_lock);
    for (int i = 0; i < log_count; i++)
        n += (level < 0 || log_lines[i].level == level)
          && strstr(log_lines[i].text, word) != NULL
          && strstr(log_lines[i].text, other) != NULL;
    pthread_mutex_unlock(&log_lock);
    return n;
}


/* ---- what is checked, counted -------------------------------------------- */

static pthread_mutex_t check_lock = PTHREAD_MUTEX_INITIALIZER;
static int passed, failed;


/* Shows the log if it fails. */
__attribute__((format(printf, 2, 3)))
static int
check(int ok, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&check_lock);
    *(ok ? &passed : &failed) += 1;
    printf("%s %d - ", ok ? "ok" : "not ok", passed + failed);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    pthread_mutex_lock(&log_lock);
    for (int i = 0; !ok && i < log_count; i++)
        printf("#     %d %s\n", log_lines[i].level, log_lines[i].text);
    pthread_mutex_unlock(&log_lock);
    fflush(stdout);
    pthread_mutex_unlock(&check_lock);
    return ok;
}


/* A check that is worth a line only if it fails. */
static int
must(int ok, const char *what)
{
    return ok || check(0, "%s", what);
}


/* ---- the server: services ------------------------------------------------ */

/* What is skipped is NULL: the plugin must not call it, because its signature
 * differs between versions. */
static const struct {
    int (*log)(void **, int, const char *, ...);
} log_service = { server_log };

static const struct {
    void  (*skipped[3])(void);          /* my_malloc, my_realloc, my_claim   */
    void  (*my_free)(void *);
    void *(*my_memdup)(unsigned, const void *, size_t, int);
    char *(*my_strdup)(unsigned, const char *, int);
} malloc_service = { { NULL }, server_free, server_memdup, server_strdup };

static const struct {
    void  (*skipped[3])(void);          /* thd_alloc, thd_calloc, thd_strdup */
    char *(*thd_strmake)(void *, const char *, size_t);
} alloc_service = { { NULL }, server_strmake };

static const struct {
    void *(*current_session)(void);
    void  (*skipped[12])(void);
    lex_string (*get_query)(void *);
} parser_service = { server_current_session, { NULL }, server_get_query };

static const struct {
    char (*get)(void *, void **);
    void (*skipped[5])(void);           /* set, create, destroy, copy, lookup */
    char (*get_option)(void *, const char *, void *);
} security_service = { server_get_context, { NULL }, server_get_option };

static const struct {
    const char *name;
    uintptr_t   version;
    const void *service;
} services[] = {
    { "my_plugin_log_service",    0x0100, &log_service      },
    { "mysql_malloc_service",     0x0100, &malloc_service   },
    { "mysql_parser_service",     0x0100, &parser_service   },
    { "security_context_service", 0x0101, &security_service },
    { "thd_alloc_service",        0x0100, &alloc_service    }
};


/* ---- the server: plugins ------------------------------------------------- */

typedef struct sys_var {
    int         flags;
    const char *name, *comment;
    int       (*check)(void *thd, struct sys_var *var, void *save, void *value);
    void      (*update)(void *thd, struct sys_var *var, void *at,
                        const void *save);
    void       *at;
} sys_var;

typedef struct { sys_var head; const char *def; }           var_str;
typedef struct { sys_var head; int def, min, max, block; }  var_int;
typedef struct { sys_var head; char def; }                  var_bool;

enum { V_BOOL = 1, V_INT = 2, V_STR = 5, V_TYPE = 0x7f, V_READONLY = 0x200,
       V_NODEFAULT = 0x4000, V_MEMALLOC = 0x8000, V_NOPERSIST = 0x10000,
       V_INVISIBLE = 0x40000, VARIABLES = 26 };

typedef struct { const char *name; char *value; int type, scope; } show_var;

typedef struct keyring {
    int  version;
    char (*store)(const char *, const char *, const char *, const void *,
                  size_t);
    char (*fetch)(const char *, char **, const char *, void **, size_t *);
    char (*remove)(const char *, const char *);
    char (*generate)(const char *, const char *, const char *, size_t);
    void (*walk_begin)(void **);
    void (*walk_end)(void *);
    char (*walk_next)(void *, char *, char *);
} keyring;

typedef struct description {            /* the server's own struct           */
    int         type;
    keyring    *info;
    const char *name, *author, *descr;
    int         license;
    int       (*init)(void *);
#ifndef HOST_57
    int       (*check_uninstall)(void *);
#endif
    int       (*deinit)(void *);
    unsigned    version;
    show_var   *status_vars;
    sys_var   **system_vars;
    void       *reserved;
    unsigned long flags;
} description;

typedef struct plugin {
    void        *dl;
    description  is;
    handle      *h;
    char         names[VARIABLES][64];  /* full names of its variables       */
    const char  *short_names[VARIABLES];
} plugin;

/* The keyring that is installed, as plugin_foreach() finds it: each call holds
 * a reference, and UNINSTALL waits until the last is given back. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t  idle;
    plugin         *now;
    int             calls;
} installed = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0 };


/* dlopen(), and plugin_dl_add(): services are set, and whatever the stride of
 * the description, its fields are copied by position. */
static plugin *
map_plugin(void)
{
    plugin *const p = calloc(1, sizeof *p);
    const int *version, *stride;
    const char *from;
    const keyring *second;

    if (p == NULL || (p->dl = dlopen(so_path, RTLD_NOW)) == NULL)
        die(so_path);
    for (size_t i = 0; i < sizeof services / sizeof *services; i++) {
        const void **const symbol = dlsym(p->dl, services[i].name);
        const uintptr_t v = symbol != NULL ? (uintptr_t)*symbol : 0;

        if (symbol == NULL || *symbol == services[i].service)
            continue;
        must(v <= services[i].version && v >> 8 == services[i].version >> 8,
             "services are asked for in versions that the server has");
        *symbol = services[i].service;
    }
    version = dlsym(p->dl, "_mysql_plugin_interface_version_");
    stride  = dlsym(p->dl, "_mysql_sizeof_struct_st_plugin_");
    from    = dlsym(p->dl, "_mysql_plugin_declarations_");
    if (version == NULL || stride == NULL || from == NULL)
        die("the three symbols are missing");
    memcpy(&p->is, from, (size_t)*stride < sizeof p->is ? (size_t)*stride
                                                        : sizeof p->is);
    memcpy(&second, from + *stride + offsetof(description, info),
           sizeof second);
    must(*version >= 0x0100 && *version < 0x0107,
         "the interface version is one whose description is copied");
    must(second == NULL, "one plugin is declared, at its own stride");
    return p;
}


/* construct_options() and what follows: names get their prefix, values come
 * from the options given or the defaults. */
static void
set_variables(plugin *p, const char *const *settings)
{
    for (int i = 0; p->is.system_vars[i] != NULL; i++) {
        sys_var *const var = p->is.system_vars[i];
        const var_int *const number = (const var_int *)var;
        const size_t len = strlen(var->name);
        const char *text = NULL;

        for (const char *const *at = settings; *at != NULL; at++) {
            if (strncmp(*at, var->name, len) == 0 && (*at)[len] == '=')
                text = *at + len + 1;
        }
        if ((var->flags & V_TYPE) == V_STR) {
            text = text != NULL ? text : ((var_str *)var)->def;
            *(char **)var->at = text ? server_strdup(0, text, 0) : NULL;
        } else if ((var->flags & V_TYPE) == V_INT) {
            *(int *)var->at = text ? (int)strtol(text, NULL, 10) : number->def;
        } else {
            *(char *)var->at = text ? text[0] == '1' : ((var_bool *)var)->def;
        }
        p->short_names[i] = var->name;
        snprintf(p->names[i], sizeof p->names[i], "keyring_aws_%s", var->name);
        var->name = p->names[i];
    }
}


static void
discard(plugin *p)
{
    for (int i = 0; p->is.system_vars[i] != NULL; i++) {
        sys_var *const var = p->is.system_vars[i];

        if ((var->flags & V_TYPE) == V_STR && (var->flags & V_MEMALLOC)) {
            server_free(*(char **)var->at);
            *(char **)var->at = NULL;
        }
        var->name = p->short_names[i];
    }
    memset(p->h, 0, sizeof *p->h);
    free(p->h);
    dlclose(p->dl);
    free(p);
}


/* ---- settings that the tests start with ---------------------------------- */

static char set_conf[512], set_data[512], set_cmk[512], set_endpoint[512],
            set_ca[512];
static const char *const plain[] = { set_conf, set_data, set_cmk, set_endpoint,
                                     set_ca, "start_seconds=0" };
enum { PLAIN = sizeof plain / sizeof *plain };


static const char *
fresh_data(const char *name)
{
    snprintf(set_data, sizeof set_data, "data_file=%s/keyring/%s", work, name);
    return strchr(set_data, '=') + 1;
}


static void
make_key(char out[256], const char *region)
{
    const char *const answer = control(
        "{\"do\": \"add_key\", \"region\": \"%s\", \"account\":"
        " \"111122223333\", \"alias\": \"alias/two\"}", region);

    if (sscanf(answer, "\"%255[^\"]\"", out) != 1)
        die("add_key");
}


static void
set_up(void)
{
    static const char conf[] =
        "AKIDEXAMPLE\nnot-a-real-secret/for-tests-only+0123456\n";
    int fd;

    snprintf(set_conf, sizeof set_conf, "conf_file=%s/conf", work);
    fd = open(strchr(set_conf, '=') + 1, O_WRONLY | O_CREAT, 0600);
    if (fd < 0 || write(fd, conf, sizeof conf - 1) != (ssize_t)sizeof conf - 1)
        die("conf");
    close(fd);
    snprintf(set_cmk, sizeof set_cmk, "cmk_id=%s", key_1);
    snprintf(set_endpoint, sizeof set_endpoint, "endpoint=%s", endpoint);
    snprintf(set_ca, sizeof set_ca, "ca_file=%s", ca_file);
    make_key(key_2, "us-west-2");
    make_key(key_3, "us-east-1");
}


/* INSTALL PLUGIN, or early-plugin-load, until init, with the plain settings and
 * one or two more, which win. */
static plugin *
add_plugin(const char *one, const char *two)
{
    const char *settings[PLAIN + 3] = { NULL };
    plugin *const p = map_plugin();

    memcpy(settings, plain, sizeof plain);
    settings[PLAIN]     = one;
    settings[PLAIN + 1] = one != NULL ? two : NULL;
    p->h = malloc(sizeof *p->h);
    if (p->h == NULL)
        die("memory");
    p->h->magic = HANDLE_MAGIC;
    set_variables(p, settings);
    return p;
}


/* The rest of it; NULL if the plugin does not start. */
static plugin *
initialize_plugin(plugin *p)
{
    if (p->is.init(p->h) != 0) {
        p->is.deinit(p->h);             /* as the server does                */
        discard(p);
        return NULL;
    }
    pthread_mutex_lock(&installed.lock);
    installed.now = p;
    pthread_mutex_unlock(&installed.lock);
    return p;
}


static plugin *
load_with(const char *one, const char *two)
{
    return initialize_plugin(add_plugin(one, two));
}


/* A plugin that has to start, on a data file of that name. */
static plugin *
start(const char *name)
{
    plugin *p;

    fresh_data(name);
    p = load_with(NULL, NULL);
    if (!check(p != NULL, "it starts: %s", name))
        exit(2);
    return p;
}


static __thread plugin *held;           /* a reference of this thread        */


/* NULL: none is installed. */
static plugin *
hold(void)
{
    pthread_mutex_lock(&installed.lock);
    held = installed.now;
    installed.calls += held != NULL;
    pthread_mutex_unlock(&installed.lock);
    return held;
}


static void
let_go(void)
{
    held = NULL;
    pthread_mutex_lock(&installed.lock);
    if (--installed.calls == 0)
        pthread_cond_broadcast(&installed.idle);
    pthread_mutex_unlock(&installed.lock);
}


/* UNINSTALL PLUGIN; nothing, if it did not start. */
static void
unload(plugin *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&installed.lock);
    installed.now = NULL;
    while (installed.calls > 0)
        pthread_cond_wait(&installed.idle, &installed.lock);
    pthread_mutex_unlock(&installed.lock);
#ifndef HOST_57
    must(p->is.check_uninstall == NULL, "UNINSTALL is not refused");
#endif
    must(p->is.deinit(p->h) == 0, "deinit succeeds");
    discard(p);
}


/* ---- the server: SET GLOBAL ---------------------------------------------- */

typedef struct value {                  /* st_mysql_value                    */
    int         (*value_type)(struct value *);
    const char *(*val_str)(struct value *, char *buf, int *len);
    int         (*val_real)(struct value *, double *);
    int         (*val_int)(struct value *, long long *);
    int         (*is_unsigned)(struct value *);
    const char   *text;                 /* NULL: SQL NULL                    */
} value;


/* As the server's: in buf if it fits, else somewhere else. */
static const char *
value_str(value *v, char *buf, int *len)
{
    const size_t room = (size_t)*len, size = v->text ? strlen(v->text) : 0;

    *len = (int)size;
    return v->text == NULL || size >= room ? v->text
                                           : memcpy(buf, v->text, size + 1);
}


static sys_var *
find_variable(plugin *p, const char *name)
{
    for (int i = 0; p->is.system_vars[i] != NULL; i++) {
        if (strcmp(p->short_names[i], name) == 0)
            return p->is.system_vars[i];
    }
    die(name);
    return NULL;
}


typedef struct assignment {
    const char *name, *text;
    union { const char *text; int number; } save;
} assignment;


static int
check_one(plugin *p, assignment *a)
{
    sys_var *const var = find_variable(p, a->name);
    value v = { NULL, value_str, NULL, NULL, NULL, a->text };

    if ((var->flags & V_TYPE) != V_INT)
        return var->check(current, var, &a->save, &v);
    a->save.number = (int)strtol(a->text, NULL, 10);
    return 0;
}


/* plugin_var_memalloc_global_update(), one at a time in the whole server. */
static void
update_one(plugin *p, assignment *a)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    sys_var *const var = find_variable(p, a->name);
    char *old, *mine;

    pthread_mutex_lock(&lock);
    if ((var->flags & V_TYPE) == V_INT) {
        var->update(current, var, var->at, &a->save.number);
    } else {
        old  = *(char **)var->at;
        mine = server_strdup(0, a->save.text, 0);
        var->update(current, var, var->at, &mine);
        server_free(old);
    }
    pthread_mutex_unlock(&lock);
}


enum { FOR_GOOD, ONLY_CHECKED, HALFWAY };

/* SET GLOBAL a = ..., b = ...: all checks, then, if all pass, all updates;
 * ONLY_CHECKED: none, as when another variable of the statement is refused;
 * HALFWAY: only the first, which others may see. 0 is success. */
static int
set_global(plugin *p, int mode, assignment *list, int n)
{
    const int updates = mode == FOR_GOOD ? n : mode == HALFWAY;
    size_t used = 0;

    end_statement(current);
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(current->query + used,
                                 sizeof current->query - used, ", %s=%.200s",
                                 list[i].name,
                                 list[i].text ? list[i].text : "NULL");
    for (int i = 0; i < n; i++) {
        if (check_one(p, &list[i]) != 0)
            return 1;
    }
    for (int i = 0; i < updates; i++)
        update_one(p, &list[i]);
    return 0;
}


static int
set_one(plugin *p, const char *name, const char *text)
{
    return set_global(p, FOR_GOOD, &(assignment){ name, text, { NULL } }, 1);
}


/* What tools write before a statement. */
static const char *const before_statement[] = {
    "", "/* a tool */ ", "/**/\n\t# a line\n-- SET\n/* a *//***/"
};


/* INSTALL PLUGIN until init, as in 8.0: the server sets persisted values, one
 * by one, and gives up if one is refused. Then this returns NULL. Each time a
 * different tool does it. */
static plugin *
add_persisted(const char *one, assignment *persisted, int n)
{
    plugin *const p = add_plugin(one, NULL);
    static int tool;

    end_statement(current);
    snprintf(current->query, sizeof current->query,
             "%sinstall plugin keyring_aws SONAME 'keyring_aws.so'",
             before_statement[tool++ % 3]);
    for (int i = 0; i < n; i++) {
        if (check_one(p, &persisted[i]) != 0) {
            discard(p);
            return NULL;
        }
        update_one(p, &persisted[i]);
    }
    return p;
}


/* ---- the server: SQL functions ------------------------------------------- */

typedef struct {
    char          maybe_null;
    unsigned      decimals;
    unsigned long max_length;
    char         *ptr;
    char          const_item;
    void         *extension;
} udf_init;

typedef struct { unsigned arg_count; void *skipped[7]; } udf_args;

typedef struct function {
    void      *dl;
    char     (*begin)(udf_init *, udf_args *, char *);
    long long (*run)(udf_init *, udf_args *, unsigned char *, unsigned char *);
    void     (*end)(udf_init *);
} function;

typedef struct {                        /* a place where a function stands   */
    const function *f;
    udf_init init;
} place;


static function
create_function(const char *name)
{
    function    f;
    void *const out[] = { &f.begin, &f.run, &f.end };
    char        symbol[64];

    f.dl = dlopen(so_path, RTLD_NOW);
    for (int i = 0; i < 3; i++) {
        void *at;

        snprintf(symbol, sizeof symbol, "keyring_aws_rotate_%s%s", name,
                 i == 0 ? "_init" : i == 1 ? "" : "_deinit");
        if (f.dl == NULL || (at = dlsym(f.dl, symbol)) == NULL)
            die(symbol);
        memcpy(out[i], &at, sizeof at);
    }
    return f;
}


static int
open_place(place *p, const function *f, unsigned arg_count)
{
    udf_args args = { arg_count, { NULL } };
    char     message[512];

    p->f = f;
    memset(&p->init, 0xa5, sizeof p->init);         /* the stack, as found   */
    if (f->begin(&p->init, &args, current ? current->message : message) != 0)
        return 0;
    return must(p->init.maybe_null == 1 && p->init.const_item == 0,
                "a function may answer NULL and is no constant");
}


/* Its value; -1 for NULL and an error. */
static long long
run_place(place *p)
{
    unsigned char is_null = 7, error = 7;
    long long     result;

    end_statement(current);
    result = p->f->run(&p->init, NULL, &is_null, &error);
    if (is_null == 1 && error == 1 && current->error == 3198)
        return -1;
    must(is_null == 0 && error == 0 && current->error == 0,
         "a function answers a value, or NULL and an error");
    return result;
}


/* SELECT f(): its value; -1 for NULL, -2 if it could not be prepared. */
static long long
select_function(const function *f, unsigned arg_count)
{
    long long result;
    place     p;

    if (!open_place(&p, f, arg_count))
        return -2;
    result = run_place(&p);
    f->end(&p.init);
    return result;
}


/* ---- keyring calls, as the server makes them ----------------------------- */

static unsigned char bytes[4097];       /* of keys to store                  */


/* Of the plugin that this thread holds; else nobody uninstalls it meanwhile. */
static const keyring *
ring(void)
{
    return held != NULL ? held->is.info : installed.now->is.info;
}


#define generate(...)               ring()->generate(__VA_ARGS__)
#define remove_key(...)             ring()->remove(__VA_ARGS__)
#define store(id, type, user, len)  ring()->store(id, type, user, bytes, len)


typedef struct fetched {
    int    failure;
    size_t len;                         /* 0: absent                         */
    char   type[16];
    unsigned char bytes[4096];
} fetched;


/* All outputs start as garbage and must all be written. */
static fetched
fetch(const char *id, const char *user)
{
    static char garbage[1];
    char   *type = garbage;
    void   *key  = garbage;
    size_t  len  = 99999;
    fetched f    = { .failure = ring()->fetch(id, &type, user, &key, &len) };

    if (type == garbage || key == garbage || len == 99999)
        die("fetch does not write all three outputs");
    if (key == NULL || type == NULL || f.failure) {
        must(key == NULL && type == NULL && len == 0,
             "an absent key's outputs are NULL, NULL and 0");
        return f;
    }
    f.len = len;
    snprintf(f.type, sizeof f.type, "%s", type);
    memcpy(f.bytes, key, len <= sizeof f.bytes ? len : sizeof f.bytes);
    server_free(type);
    server_free(key);
    return f;
}


static int
fetches(const char *id, const char *user, const char *type, size_t len)
{
    const fetched f = fetch(id, user);

    return !f.failure && f.len == len && strcmp(f.type, type) == 0;
}


static int
absent(const char *id, const char *user)
{
    return fetches(id, user, "", 0);
}


/* Walks with the buffers that this server would give; how many names there are,
 * or -1; and how often (id, user) is among them. */
static int
walk(size_t user_room, const char *id, const char *user, int *seen)
{
    char *const key_id  = malloc(1025);
    char *const user_id = malloc(user_room);
    void *it = NULL;
    int   n  = 0;

    *seen = 0;
    if (key_id == NULL || user_id == NULL)
        die("walk");
    ring()->walk_begin(&it);
    while (it != NULL && ring()->walk_next(it, key_id, user_id) == 0) {
        n++;
        *seen += strcmp(key_id, id) == 0 && strcmp(user_id, user) == 0;
    }
    ring()->walk_end(it);
    free(key_id);
    free(user_id);
    return it != NULL ? n : -1;
}


static uint64_t
status_value(plugin *p, const char *name)
{
    for (const show_var *v = p->is.status_vars; v->name != NULL; v++) {
        if (strcmp(v->name + 12, name) == 0)
            return __atomic_load_n((uint64_t *)(void *)v->value,
                                   __ATOMIC_RELAXED);
    }
    die(name);
    return 0;
}


/* Whether a new key is sealed with that KMS key: the ARN in the file's last
 * entry says so. */
static int
sealed_with(const char *arn)
{
    static int  number;
    static char content[1 << 20];
    const char *entry;
    char    id[32];
    ssize_t len;
    int     fd;

    snprintf(id, sizeof id, "sealed-%d-", number++);
    if (generate(id, "AES", NULL, 32) != 0)
        return 0;
    fd  = open(strchr(set_data, '=') + 1, O_RDONLY);
    len = read(fd, content, sizeof content);
    close(fd);
    entry = len > 0 ? memmem(content, (size_t)len, id, strlen(id)) : NULL;
    return entry != NULL && memmem(entry, (size_t)(content + len - entry), arn,
                                   strlen(arn)) != NULL;
}


/* ---- tests: a server that is not recognised ------------------------------ */

/* The sentence goes to stderr; test_host.py looks at it. */
static void
test_unknown(void)
{
    plugin *const p = map_plugin();

    check(p->is.type == 10 && p->is.info->version == 0x0101,
          "it is a keyring plugin");
    check(p->is.deinit == NULL && p->is.version == 0
          && p->is.status_vars == NULL && p->is.system_vars == NULL,
          "nothing but init is there");
    check(p->is.init(NULL) != 0, "init refuses");
    dlclose(p->dl);
    free(p);
}


/* ---- tests: the description ---------------------------------------------- */

#define TEXT     (V_STR | V_MEMALLOC)
#define MY_CNF   (V_READONLY | V_NOPERSIST)
#define DEFAULTS "/var/lib/mysql-keyring/keyring_aws_"

static const struct {
    const char *name;
    int         flags;
    const char *text;                   /* default of a text                 */
    int         number[4];              /* else: default, least, most, step  */
} variables[VARIABLES] = {
    { "cmk_id",          TEXT | V_NODEFAULT, NULL, { 0 } },
    { "region",          TEXT | V_NODEFAULT, "us-east-1", { 0 } },
    { "conf_file",       TEXT | MY_CNF, DEFAULTS "conf", { 0 } },
    { "auth",            TEXT | MY_CNF, "file", { 0 } },
    { "profile",         TEXT | MY_CNF, NULL, { 0 } },
    { "config_file",     TEXT | MY_CNF, NULL, { 0 } },
    { "credentials_file", TEXT | MY_CNF, NULL, { 0 } },
    { "role_arn",        TEXT | MY_CNF, NULL, { 0 } },
    { "role_external_id", TEXT | MY_CNF, NULL, { 0 } },
    { "role_session_name", TEXT | MY_CNF, NULL, { 0 } },
    { "data_file",       TEXT | MY_CNF, DEFAULTS "data", { 0 } },
    { "create",          V_BOOL | MY_CNF, NULL, { 1 } },
    { "read_only",       V_BOOL | MY_CNF, NULL, { 0 } },
    { "accounts",        TEXT | MY_CNF, NULL, { 0 } },
    { "endpoint",        TEXT | MY_CNF, NULL, { 0 } },
    { "sts_endpoint",    TEXT | MY_CNF, NULL, { 0 } },
    { "failover_regions", TEXT | MY_CNF, NULL, { 0 } },
    { "fips",            V_BOOL | MY_CNF, NULL, { 0 } },
    { "dualstack",       V_BOOL | MY_CNF, NULL, { 0 } },
    { "ca_file",         TEXT | MY_CNF, NULL, { 0 } },
    { "proxy",           TEXT | MY_CNF, NULL, { 0 } },
    { "connect_timeout", V_INT, NULL, { 1000, 100, 3600000, 1 } },
    { "timeout",         V_INT, NULL, { 10000, 100, 3600000, 1 } },
    { "cache_seconds",   V_INT, NULL, { 0, 0, 86400, 1 } },
    { "start_seconds",   V_INT | MY_CNF, NULL, { 30, 0, 240, 1 } },
    { "open_mode",       V_BOOL | V_READONLY | V_INVISIBLE, NULL, { 0 } }
};


static void
test_layout(void)
{
    plugin *const p = start("layout");

    check(p->is.type == 10 && p->is.info->version == 0x0101
          && p->is.version == 0x0100 && p->is.reserved == NULL,
          "a keyring plugin of interface 0x0101, version 1.0");
    check(strcmp(p->is.name, "keyring_aws") == 0 && p->is.license == 2
          && p->is.author != NULL && p->is.descr != NULL,
          "%s, BSD, by %s: %s", p->is.name, p->is.author, p->is.descr);
    check((p->is.flags & 4) != 0, "it allows to be loaded early");
    for (int i = 0; i < VARIABLES; i++) {
        const sys_var *const v = p->is.system_vars[i];
        const char *const text = ((const var_str *)v)->def;
        const int  is_text = (v->flags & V_TYPE) == V_STR;

        check(strcmp(p->short_names[i], variables[i].name) == 0
              && v->flags == variables[i].flags && v->comment[0] != '\0'
              && (v->update != NULL) == !(v->flags & V_READONLY)
              && (v->check != NULL) == !!(v->flags & V_NODEFAULT)
              && (!is_text || (text == NULL) == (variables[i].text == NULL))
              && (!is_text || text == NULL
                  || strcmp(text, variables[i].text) == 0)
              && ((v->flags & V_TYPE) != V_INT
                  || memcmp(&((const var_int *)v)->def, variables[i].number,
                            sizeof variables[i].number) == 0)
              && ((v->flags & V_TYPE) != V_BOOL
                  || ((const var_bool *)v)->def == variables[i].number[0]),
              "keyring_aws_%s: %s", variables[i].name, v->comment);
    }
    check(p->is.system_vars[VARIABLES] == NULL, "and no other variable");
    unload(p);
}


/* ---- tests: how it does not start ---------------------------------------- */

static char long_id[600];

static const struct {
    const char *setting, *fault, *words;    /* of the one error line         */
} refusals[] = {
    { NULL, "AccessDeniedException", "AccessDeniedException" },
    { NULL, "DisabledException", "DisabledException" },
    { "conf_file=", NULL, "keyring_aws_conf_file has to be set" },
    { "data_file=", NULL, "keyring_aws_data_file has to be set" },
    { long_id, NULL, "keyring_aws_cmk_id is too long" },
    { "region=mars", NULL, "mars" },
    { "data_file=/dev/null/\n[ERROR] x\x1b[31m/data", NULL,
      "/dev/null/\\x0a[ERROR] x\\x1b[31m" },
    { "endpoint=http://svc:Pa#ss@host/", NULL, "'http://***@host/'" },
};


static void
test_refusals(void)
{
    plugin *p;

    fresh_data("refusals");
    memset(long_id, 'a', sizeof long_id - 1);
    memcpy(long_id, "cmk_id=", 7);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        log_forget();
        if (refusals[i].fault != NULL)
            fault("GenerateDataKeyWithoutPlaintext", refusals[i].fault, 1);
        p = load_with(refusals[i].setting, NULL);
        check(p == NULL && logged(0, "", "") == 1
              && logged(0, "cannot start", refusals[i].words) == 1
              && logged(-1, "\n", "") + logged(-1, "\x1b", "") == 0,
              "it does not start: %s", refusals[i].words);
        unload(p);
    }
}


/* ---- tests: a server that is still starting ------------------------------ */

static void *
fetch_in_session(void *id)
{
    session s = { 0 };

    current = &s;
    return fetches(id, NULL, "AES", 32) ? NULL : id;
}


static void *
kms_returns(void *unused)
{
    nap_ms(1000);
    control("{\"do\": \"start\"}");
    return unused;
}


/* Whether the plugin starts (id NULL), or a fetch succeeds, while KMS is away,
 * and returns after 1 s or does not; and how long that takes. */
static int
without_kms(plugin **p, const char *setting, const char *id, int returns,
            int *took)
{
    const int64_t begun = now_ms();
    pthread_t thread;
    int ok;

    log_forget();
    control("{\"do\": \"stop\"}");
    if (returns)
        pthread_create(&thread, NULL, kms_returns, NULL);
    if (id == NULL)
        *p = load_with(setting, NULL);
    ok    = id == NULL ? *p != NULL : fetches(id, NULL, "AES", 32);
    *took = (int)(now_ms() - begun);
    if (returns)
        pthread_join(thread, NULL);
    else
        control("{\"do\": \"start\"}");
    return ok;
}


static void
set_started(int is)
{
#if defined(HOST_80)
    __atomic_store_n(&mysqld_server_started, (char)is, __ATOMIC_RELAXED);
#else
    (void)is;
#endif
}


static void
test_patience(plugin *p, const sigset_t *ending)
{
    session   s = { 0 };                /* the starting thread may have one  */
    pthread_t thread;
    void     *bad;
    int       took = 0;

    current = &s;
    check(!generate("wanted", "AES", NULL, 32), "a key, as it starts");
    current = NULL;
    check(without_kms(&p, NULL, "wanted", 1, &took) && took >= 900
          && logged(0, "", "") == 0 && logged(1, "waits for KMS", "") == 0,
          "a fetch waits, too, and it was said before: %d ms", took);
    raise(SIGTERM);                     /* blocked, as in a server           */
    check(!without_kms(&p, NULL, "wanted", 0, &took) && took < 5000
          && logged(0, "start the server again", "innodb_force_recovery") == 1,
          "not if it is to end, but it says what to do: %d ms", took);
    check(!without_kms(&p, NULL, "wanted", 0, &took)
          && logged(0, "start the server again", "") == 0, "and only once");
    sigwait(ending, &took);
    set_started(1);
    usleep(600 * 1000);                 /* until a probe is due              */
    pthread_create(&thread, NULL, fetch_in_session, "wanted");
    pthread_join(thread, &bad);
    check(bad == NULL, "a session fetches");
    check(!without_kms(&p, NULL, "wanted", 0, &took) && took < 5000
          && logged(0, "", "") == 1 && logged(0, "cannot fetch", "") == 1,
          "a server that is up does not wait: %d ms", took);
}


static void
test_starting(void)
{
    function mapped = create_function("cmk");   /* the file stays mapped     */
    sigset_t ending, before;
    plugin  *p = NULL;
    int      took = 0, more = 0;

    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ending, &before);
    fresh_data("starting");
    set_started(0);
    check(without_kms(&p, "start_seconds=60", NULL, 1, &took)
          && took >= 900 && took < 30000 && logged(0, "", "") == 0
          && logged(1, "waits for KMS", "up to 60 s") == 1
          && logged(1, "starting without KMS", "") == 0,
          "it starts when KMS comes back: %d ms", took);
    if (p != NULL)
        test_patience(p, &ending);
    unload(p);

    set_started(0);
    check(without_kms(&p, "start_seconds=4", NULL, 0, &took) && took >= 4000
          && took < 20000
          && logged(1, "starting without KMS", "innodb_force_recovery") == 1,
          "or without KMS, in the end: %d ms", took);
    check(!without_kms(&p, NULL, "wanted", 0, &took)
          && !without_kms(&p, NULL, "wanted", 0, &more) && took + more < 7900,
          "its time is spent: %d ms for two", took + more);
    unload(p);
    check(without_kms(&p, "start_seconds=1", NULL, 0, &took) && took >= 1000
          && logged(1, "waits for KMS", "up to 1 s") == 1,
          "installed again, it has all its time: %d ms", took);
    unload(p);
    set_started(1);
    dlclose(mapped.dl);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}


/* ---- tests: keys --------------------------------------------------------- */

/* What SQL cannot ask for: no type, a length that overflows, zero bytes. The
 * rest is in test_mysql.py. */
static void
test_kinds(void)
{
    static const struct { const char *type; size_t len; } bad[] = {
        { NULL, 32 }, { "", 32 }, { "AESX", 32 }, { "AE", 32 }, { "AES", 0 },
        { "SECRET", 0 }, { "SECRET", (size_t)-5 }, { "RSA", (size_t)-5 }
    };
    fetched f;
    char    id[32];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(id, sizeof id, "bad-%zu", i);
        log_forget();
        check(generate(id, bad[i].type, NULL, bad[i].len)
              && store(id, bad[i].type, NULL, bad[i].len)
              && logged(0, "", "") == 2 && logged(0, "cannot store", id) == 1
              && absent(id, NULL), "refused, each in a line: %s, %zu bytes",
              bad[i].type ? bad[i].type : "no type", bad[i].len);
    }
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 7);
    check(!store("most", "secret", NULL, 4096)
          && !generate("first", "AES", NULL, 32), "two keys");
    f = fetch("most", NULL);
    check(f.len == 4096 && memcmp(f.bytes, bytes, 4096) == 0
          && strcmp(f.type, "SECRET") == 0 && absent("none", NULL)
          && logged(-1, "cannot fetch", "") == 0,
          "4096 bytes are stored and fetched; an absent key is no failure");
}


static void
test_names(void)
{
    const char *const odd = "odd '\"\\ %00 \x01 \r\n%s\t \xff\xfe \xc3\xa4";
    const size_t room = IS_57 ? 96 : 256;
    char many[257];
    int  seen;

    memset(many, 'n', 256);
    many[256] = '\0';
    check(!generate("who", "AES", NULL, 16) && fetches("who", "", "AES", 16)
          && generate("who", "AES", "", 16)
          && !generate("who", "AES", "u@h", 24)
          && fetches("who", "u@h", "AES", 24) && !generate("whou", "AES", "@h",
                                                           32),
          "no user and an empty one are one, another is another");
    check(generate(many, "AES", NULL, 16) && generate("", "AES", NULL, 16)
          && generate(NULL, "AES", NULL, 16)
          && store(NULL, "AES", NULL, 16) && remove_key(NULL, NULL)
          && (ring()->store)("no key", "AES", NULL, NULL, 16)
          && fetch(NULL, NULL).failure,
          "no key id, an empty one, one of 256 bytes, no key: refused");
    check(!generate(many + 1, "AES", NULL, 16), "a key id of 255 bytes");
    log_forget();
    check(!generate(odd, "AES", odd, 16) && fetches(odd, odd, "AES", 16)
          && generate(odd, "AES", odd, 16) && generate(odd, "X", odd, 16)
          && logged(-1, "\n", "") + logged(-1, "\x01", "") == 0
          && logged(1, "'odd \\x27\"\\x5c %00 \\x01 \\x0d\\x0a%s\\x09 ",
                    " \\xff\\xfe \\xc3\\xa4'") == 1,
          "a name of odd bytes, and no odd byte in the log");
    log_forget();
    for (size_t len = 94; len <= 97; len++) {
        const char *const user = many + 256 - len;

        must(!generate("owned", "AES", user, 16), "owners of any length");
        walk(room, "owned", user, &seen);
        check(seen == !(IS_57 && len > 95),
              "a walk with its buffer of %zu and an owner of %zu bytes: %d",
              room, len, seen);
    }
    walk(room, "owned", many + 1, &seen);
    check(logged(0, "owned", "left out") == (IS_57 ? 2 : 0),
          "each owner that is left out has a line");
}


static void
test_walk(plugin **p)
{
    char  id[1025], user[1025];
    void *it = NULL, *other = NULL;
    int   seen, before, n = 0;

    before = walk(1025, "who", "u@h", &seen);
    check(seen == 1, "a walk finds (who, u@h) once among %d", before);
    check(walk(1025, "who", "", &seen) == before && seen == 1,
          "and (who, no user) once");
    (*p)->is.info->walk_begin(&it);
    check(!remove_key("who", "u@h") && !generate("later", "AES", NULL, 16),
          "changes while a walk is under way");
    while ((*p)->is.info->walk_next(it, id, user) == 0)
        n++;
    check(n == before && (*p)->is.info->walk_next(it, id, user) != 0
          && strcmp(id, "owned") == 0,
          "it shows what was there when it began");
    (*p)->is.info->walk_end(it);
    (*p)->is.info->walk_end(NULL);
    check((*p)->is.info->walk_next(NULL, id, user) != 0, "no walk, no name");

    (*p)->is.info->walk_begin(&other);
    unload(*p);
    *p = load_with(NULL, NULL);
    for (n = 0; (*p)->is.info->walk_next(other, id, user) == 0; n++)
        ;
    (*p)->is.info->walk_end(other);
    check(n == before && fetches("first", NULL, "AES", 32),
          "a walk, and the keys, survive UNINSTALL and INSTALL: %d names", n);
}


static void
test_keys(void)
{
    plugin *p = start("keys");
    void   *it = NULL;

    p->is.info->walk_begin(&it);
    check(it != NULL, "no keys are no reason to refuse a walk");
    p->is.info->walk_end(it);
    test_kinds();
    test_names();
    test_walk(&p);
    for (int i = 1; i <= 2; i++) {
        memory_ends = i;
        log_forget();
        check(fetch("first", NULL).failure
              && logged(0, "cannot fetch key 'first'", "out of memory") == 1,
              "no memory for part %d of a key: no part is given", i);
        memory_ends = 0;
        must(fetches("first", NULL, "AES", 32), "and then there is some");
    }
    log_forget();
    check(!remove_key("most", NULL) && absent("most", NULL)
          && logged(-1, "cannot", "") == 0 && remove_key("most", NULL)
          && logged(1, "cannot remove key 'most'", "") == 1,
          "remove, and remove what is not there");
    unload(p);
}


/* The server's migration mode: read only, and a user id has 96 bytes. */
static void
test_migration(void)
{
    struct stat b;
    char owner_95[96], owner_96[97];
    const char *data;
    plugin *p = start("migration");
    int seen;

    memset(owner_95, 'u', sizeof owner_95);
    memset(owner_96, 'u', sizeof owner_96);
    owner_95[95] = owner_96[96] = '\0';
    check(!generate("m1", "AES", owner_95, 32)
          && !generate("m2", "AES", owner_96, 32), "two keys to migrate");
    unload(p);
    p = load_with("open_mode=1", NULL);
    log_forget();
    check(p != NULL && fetches("m1", owner_95, "AES", 32)
          && walk(96, "m1", owner_95, &seen) == 1 && seen == 1
          && logged(0, "m2", "left out") == 1,
          "open_mode=1: an owner of 96 bytes is left out of the walk");
    check(generate("m3", "AES", NULL, 32) && remove_key("m1", owner_95)
          && store("m3", "AES", NULL, 16), "nothing can be changed");
    unload(p);
    data = fresh_data("migration_none");
    unload(load_with("open_mode=1", NULL));
    check(stat(data, &b) != 0, "open_mode=1 makes no data file");
}


static void
test_create(void)
{
    struct stat b;
    const char *data = fresh_data("create");
    plugin *p;

    log_forget();
    p = load_with("create=0", NULL);
    check(p == NULL && stat(data, &b) != 0
          && logged(0, data, "none is made (must_exist; in MySQL"
                    " keyring_aws_create = OFF)") == 1,
          "create=0 without a data file: it is refused, and none is made");
    p = load_with("create=1", NULL);
    check(p != NULL && stat(data, &b) == 0 && !generate("c1", "AES", NULL, 32),
          "create=1 makes it");
    unload(p);
    p = load_with("create=0", NULL);
    check(p != NULL && fetches("c1", NULL, "AES", 32),
          "create=0 with a data file is like create=1");
    unload(p);
}


/* ---- tests: SET GLOBAL --------------------------------------------------- */

static const char *
text_of(plugin *p, const char *name)
{
    return *(char **)find_variable(p, name)->at;
}


/* The real server tries more of them, but without a sanitizer. */
static void
test_refused_values(plugin *p)
{
    static const char *const bad[] = { NULL, "", long_id, "alias/nobody" };
    session *const s = current;

    memset(long_id, 'x', 512);          /* one byte more than there is room  */
    long_id[512] = '\0';
    for (int i = 0; i < 4; i++) {
        log_forget();
        check(set_one(p, "cmk_id", bad[i]) != 0 && s->error == 1231
              && logged(0, "keyring_aws_cmk_id", "") == 1
              && strcmp(text_of(p, "cmk_id"), key_1) == 0,
              "SET to %.20s is refused: %s", bad[i] ? bad[i] : "NULL",
              s->message);
    }
    check(set_one(p, "cmk_id", long_id + 1) != 0
          && strstr(s->message, "too long") == NULL && sealed_with(key_1),
          "a text of 511 bytes is not too long: KMS judges it");
}


/* KMS key and region in one statement: what others see halfway, and what other
 * sessions check meanwhile. It begins with alias/two in us-east-1. */
static void
test_pair(plugin *p)
{
    assignment west[] = { { "cmk_id", "alias/two", { NULL } },
                          { "region", "us-west-2", { NULL } },
                          { "timeout", "9000", { NULL } } };
    assignment east[] = { { "region", "us-east-1", { NULL } },
                          { "cmk_id", "alias/two", { NULL } } };
    session *const s = current;
    session  other = { .query = "SET one" };    /* the same text             */

    check(set_one(p, "cmk_id", "alias/two") == 0 && sealed_with(key_3),
          "an alias, in its first region");
    check(set_global(p, ONLY_CHECKED, west, 2) == 0 && sealed_with(key_3)
          && strcmp(text_of(p, "region"), "us-east-1") == 0,
          "a statement that is checked, and then refused, changes nothing");
    check(set_global(p, HALFWAY, west, 3) == 0 && sealed_with(key_2),
          "the first update counts for the whole statement");
    snprintf(s->query, sizeof s->query, "SET timeout");
    west[2].save.number = 9000;
    update_one(p, &west[2]);
    check(sealed_with(key_2), "a timeout is SET in between: nothing else");
    check(set_global(p, FOR_GOOD, west, 3) == 0 && sealed_with(key_2)
          && strcmp(text_of(p, "region"), "us-west-2") == 0
          && *(int *)find_variable(p, "timeout")->at == 9000, "all of it");

    snprintf(s->query, sizeof s->query, "SET one");
    must(check_one(p, &east[0]) == 0, "the region is checked");
    current = &other;
    must(check_one(p, &west[1]) == 0, "another session checks one, too");
    current = s;
    check(check_one(p, &east[1]) == 0,
          "what another session checks meanwhile does not count");
    update_one(p, &east[0]);
    check(sealed_with(key_3), "and the first statement's pair seals");
    current = &other;
    update_one(p, &west[1]);
    current = s;
    check(sealed_with(key_2) && strcmp(text_of(p, "region"), "us-west-2") == 0,
          "the region of the other session is taken after it");
    end_statement(&other);
}


typedef struct sealer { char id[32]; int failure; } sealer;


static const char data_key[] = "GenerateDataKeyWithoutPlaintext";


static void *
seal(void *arg)
{
    sealer *const s = arg;

    s->failure = generate(s->id, "AES", NULL, 32);
    return NULL;
}


/* Keys that need a KMS key which the library did not try last: one thread asks
 * KMS, and the others wait and share its answer. By turns, what was SET last is
 * what seals next. */
static void
test_adopting(plugin *p)
{
    enum { SEALERS = 4 };
    assignment second = { "cmk_id", key_2, { NULL } };
    sealer    sealers[SEALERS];
    pthread_t threads[SEALERS];
    int before, bad;

    for (int denied = 0; denied < 2; denied++) {
        must(set_one(p, "cmk_id", denied ? key_1 : key_3) == 0
             && set_global(p, ONLY_CHECKED, &second, 1) == 0,
             "a KMS key that is SET, and another that is tried after it");
        latency(150);
        if (denied)
            fault(data_key, "AccessDeniedException", 1);
        before = count(data_key);
        bad    = 0;
        log_forget();
        for (int i = 0; i < SEALERS; i++) {
            snprintf(sealers[i].id, sizeof sealers[i].id, "at-once-%d-%d",
                     denied, i);
            pthread_create(&threads[i], NULL, seal, &sealers[i]);
        }
        for (int i = 0; i < SEALERS; i++) {
            pthread_join(threads[i], NULL);
            bad += sealers[i].failure;
        }
        latency(0);
        check(bad == (denied ? SEALERS : 0)
              && logged(0, "AccessDenied", "") == bad
              && count(data_key) - before == 1 + SEALERS - bad,
              "%d keys at once, KMS %s: it was asked %d times", SEALERS,
              denied ? "denies it" : "agrees", count(data_key) - before);
        check(sealed_with(denied ? key_1 : key_3), "then the SET key seals");
    }
}


/* A seal is making the ring use one KMS key, slowly, while another is SET: what
 * was SET last has to win, whichever of the two comes back first. */
static void
test_set_while_adopting(plugin *p)
{
    assignment second = { "cmk_id", key_2, { NULL } };
    sealer     slow   = { "slow", 1 }, other = { "other", 1 };
    pthread_t  thread, waits;
    int        before;

    must(set_one(p, "cmk_id", key_3) == 0
         && set_global(p, ONLY_CHECKED, &second, 1) == 0, "as above");
    before = count("Decrypt");
    control("{\"do\": \"fault\", \"action\": \"Decrypt\", \"what\":"
            " \"latency\", \"ms\": 500}");
    pthread_create(&thread, NULL, seal, &slow);
    for (int i = 0; i < 200 && count("Decrypt") == before; i++)
        nap_ms(10);
    check(set_one(p, "cmk_id", key_1) == 0 && sealed_with(key_1),
          "the KMS key that was SET meanwhile seals the next key");
    pthread_join(thread, NULL);
    check(!slow.failure && sealed_with(key_1), "and the keys after it");

    must(set_one(p, "cmk_id", key_3) == 0
         && set_global(p, ONLY_CHECKED, &second, 1) == 0, "once more");
    latency(300);
    fault(data_key, "AccessDeniedException", 1);
    before = count(data_key);
    pthread_create(&thread, NULL, seal, &slow);
    for (int i = 0; i < 200 && count(data_key) == before; i++)
        nap_ms(1);
    pthread_create(&waits, NULL, seal, &other);
    nap_ms(50);
    snprintf(current->query, sizeof current->query, "SET what was checked");
    update_one(p, &(assignment){ "cmk_id", NULL, { key_1 } });
    pthread_join(thread, NULL);
    pthread_join(waits, NULL);
    latency(0);
    check(slow.failure && !other.failure, "a key that waited does not fail with"
          " what KMS said of another KMS key");
    check(sealed_with(key_1), "and the right KMS key seals");
}


static void
test_settings(void)
{
    session s = { .super = 1 };
    plugin *p = start("settings");

    current = &s;
    test_refused_values(p);
    test_pair(p);
    test_adopting(p);
    test_set_while_adopting(p);
    unload(p);
    p = load_with("cmk_id=", "region=");
    log_forget();
    check(p != NULL && generate("early", "AES", NULL, 32)
          && logged(0, "keyring_aws_cmk_id has to be set", "") == 1
          && !fetches("early", NULL, "AES", 32)
          && fetches("sealed-0-", NULL, "AES", 32),
          "installed without a KMS key: only what is there is fetched");
    check(set_one(p, "cmk_id", "alias/two") == 0 && sealed_with(key_3),
          "until one is SET; an empty region is the default one");
    unload(p);
    end_statement(&s);
    current = NULL;
}


/* ---- tests: persisted values that are set before init -------------------- */

static plugin *
install_persisted(assignment *persisted, int n)
{
    plugin *const p = add_persisted(NULL, persisted, n);

    return p != NULL ? initialize_plugin(p) : NULL;
}


static void
test_persisted_pair(void)
{
    assignment pair[] = { { "timeout", "3000", { NULL } },
                          { "cmk_id", "alias/two", { NULL } },
                          { "region", "us-west-2", { NULL } } };
    char    third[sizeof key_3 + 7];
    plugin *p;
    int     before;

    for (int turn = 0; turn < 2; turn++) {
        before = count("");
        p = add_persisted(NULL, pair, 3);
        check(p != NULL && count("") == before,
              "the server sets them, and KMS is not asked");
        log_forget();
        p = p != NULL ? initialize_plugin(p) : NULL;
        check(p != NULL
              && strcmp(text_of(p, "cmk_id"), "alias/two") == 0
              && strcmp(text_of(p, "region"), "us-west-2") == 0
              && logged(2, "is '3000' now, and was '10000'", "PERSIST") == 1
              && logged(2, "'alias/two' now, and was 'arn:", "PERSIST: K") == 1
              && logged(2, "'us-west-2' now, and was 'us-", "PERSIST: K") == 1,
              "it starts with my.cnf's KMS key, and notes them");
        check(sealed_with(key_2), "the next key is sealed with the pair");
        unload(p);
        pair[1] = pair[2];              /* and in the other order            */
        pair[2] = (assignment){ "cmk_id", "alias/two", { NULL } };
    }
    p = load_with(NULL, NULL);
    check(p != NULL && sealed_with(key_1),
          "after RESET PERSIST, my.cnf's KMS key seals again");
    unload(p);
    p = install_persisted(&(assignment){ "cmk_id", key_3, { NULL } }, 1);
    must(p != NULL, "it starts with another");
    unload(p);
    log_forget();
    snprintf(third, sizeof third, "cmk_id=%s", key_3);
    p = load_with(third, NULL);
    check(p != NULL && logged(-1, "PERSIST", "") == 0,
          "if my.cnf has it now, it is no persisted one");
    unload(p);
}


static const struct {
    const char *name, *text, *words;
} no_persisted[] = {
    { "cmk_id", "arn:aws:kms:us-east-1:999999999999:key/"
                "11111111-2222-3333-4444-555555555555", "999999999999" },
    { "cmk_id", "alias/with blanks", "alias/with blanks" },
    { "region", "mars", "mars" },
};


/* What is refused: it is not used, and not trusted by the next INSTALL. */
static void
test_persisted_refusals(void)
{
    const size_t n = sizeof no_persisted / sizeof *no_persisted;
    plugin *p;

    for (size_t i = 0; i < n; i++) {
        assignment one = { no_persisted[i].name, no_persisted[i].text,
                           { NULL } };

        log_forget();
        p = install_persisted(&one, 1);
        check(p == NULL && logged(-1, " now", "") == 0
              && logged(0, "cannot start: a value of SET PERSIST was refused",
                        no_persisted[i].words) == 1,
              "it does not start with a persisted %s", no_persisted[i].text);
        unload(p);
    }
    p = load_with(NULL, NULL);
    check(p != NULL && sealed_with(key_1), "and does without it");
    unload(p);
}


/* 8.0 sets the persisted values again when another plugin is installed. */
static void
test_persisted_again(void)
{
    static const char *const sets[] = {
        "SET GLOBAL ...", "/* INSTALL */ SET GLOBAL ...", "/* INSTALL",
        "/*!99999 INSTALL */ SET GLOBAL ...", "# INSTALL", "-- INSTALL", "/*",
        "--", "#"
    };
    plugin *p      = load_with(NULL, NULL);
    int     before = count("");

    for (int i = 0; i < 3; i++) {
        snprintf(current->query, sizeof current->query,
                 "%sINSTALL PLUGIN other", before_statement[i]);
        check(check_one(p, &(assignment){ "cmk_id", key_3, { NULL } }) == 0
              && count("") == before, "then KMS is not asked, either");
        end_statement(current);
    }
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        before = count("");
        snprintf(current->query, sizeof current->query, "%s", sets[i]);
        check(check_one(p, &(assignment){ "cmk_id", key_3, { NULL } }) == 0
              && count("") > before, "but if a session sets it");
        end_statement(current);
    }
    unload(p);
}


/* An INSTALL that ends before init: another plugin's value was refused. */
static void
test_persisted_in_vain(void)
{
    assignment west[] = { { "cmk_id", key_2, { NULL } },
                          { "region", "us-west-2", { NULL } } };
    session  other = { .super = 1 }, *const s = current;
    plugin  *p = add_persisted(NULL, west, 2);

    must(p != NULL, "they are set");
    discard(p);
    log_forget();
    p = load_with(NULL, NULL);
    check(p != NULL && sealed_with(key_1) && logged(-1, "PERSIST", "") == 0,
          "values of an INSTALL that failed are not those of the next");
    unload(p);
    p = add_persisted(NULL, west, 2);
    must(p != NULL, "they are set again");
    current = &other;
    snprintf(other.query, sizeof other.query, "SET /* INSTALL */ GLOBAL ...");
    check(check_one(p, &(assignment){ "cmk_id", key_3, { NULL } }) != 0
          && strstr(other.message, "is not loaded") != NULL,
          "another session cannot SET before init: %s", other.message);
    end_statement(&other);
    current = s;
    p = initialize_plugin(p);
    check(p != NULL && sealed_with(key_2), "and the persisted ones count");
    unload(p);
}


/* MySQL 8.0 does so. 5.7 has no SET PERSIST, and newer servers set the values
 * after init, which test_mysql_log.py tests. The functions keep the file
 * mapped, so that what an INSTALL leaves in its memory meets the next. */
static void
test_persisted(void)
{
    const function mapped = create_function("cmk");
    session s = { .super = 1 };

    if (!IS_57) {
        fresh_data("persisted");
        current = &s;
        test_persisted_pair();
        test_persisted_refusals();
        test_persisted_again();
        test_persisted_in_vain();
        end_statement(&s);
        current = NULL;
    }
    dlclose(mapped.dl);
}


/* ---- tests: SQL functions ------------------------------------------------ */

/* What a real server cannot show: a session that ends a place which another one
 * has, and the symbols of 5.7. The rest is in test_mysql.py. */
static void
test_statements(const function *cmk, const function *cms, session *s)
{
    static const char rotate[] = "RotateKeyOnDemand";
    session   other  = { .super = 1 };
    const int before = count(rotate);
    place one, two, theirs;

    check(open_place(&one, cmk, 0) && open_place(&two, cms, 0)
          && run_place(&two) == 1 && run_place(&one) == 1
          && run_place(&one) == 1 && count(rotate) == before + 1,
          "a statement with two places, run three times, rotates once");
    current = &other;
    check(open_place(&theirs, cmk, 0) && run_place(&theirs) == 1
          && count(rotate) == before + 2, "another session has its own");
    cmk->end(&theirs.init);
    current = s;
    cms->end(&two.init);
    check(run_place(&one) == 1 && count(rotate) == before + 2,
          "one place is closed, the other remembers");
    s->super = 0;
    check(run_place(&one) == 1, "also if SUPER was revoked meanwhile");
    cmk->end(&one.init);
    check(!open_place(&one, cmk, 0) && strstr(s->message, "SUPER") != NULL
          && run_place(&one) == -1 && strstr(s->message, "_init") != NULL,
          "not prepared without SUPER, and not run then: %s", s->message);
    cmk->end(&one.init);
    s->super = 1;
    check(select_function(cmk, 1) == -2, "with an argument");
    must(open_place(&one, cmk, 0), "prepared with SUPER");
    s->super = 0;
    check(run_place(&one) == -1 && strstr(s->message, "SUPER") != NULL,
          "run without: %s", s->message);
    s->super = 1;
    cmk->end(&one.init);
    fault(rotate, "AccessDeniedException", 1);
    log_forget();
    must(open_place(&one, cmk, 0), "prepared");
    check(run_place(&one) == -1 && run_place(&one) == -1
          && count(rotate) == before + 3 && logged(0, "AccessDenied", "") == 1,
          "an error is remembered, too: %s", s->message);
    cmk->end(&one.init);
    s->is_replica = 1;
    check(select_function(cmk, 0) == 1 && count(rotate) == before + 3,
          "a replica answers 1, and does nothing");
    s->is_replica = 0;
    __atomic_store_n(&operations_off, 1, __ATOMIC_RELAXED);
    check(select_function(cmk, 0) == -1 && count(rotate) == before + 3
          && strstr(s->message, "keyring_operations is OFF") != NULL,
          "keyring_operations = OFF: %s", s->message);
    __atomic_store_n(&operations_off, 0, __ATOMIC_RELAXED);
}


typedef struct { const function *f; long long result; session s; } runner;


static void *
run_function(void *arg)
{
    runner *const r = arg;

    r->s = (session){ .super = 1 };
    current   = &r->s;
    r->result = select_function(r->f, 0);
    end_statement(current);
    return NULL;
}


/* UNINSTALL, with and without INSTALL, while a re-wrap runs. */
static void
test_running(plugin **p, const function *keys)
{
    runner    r = { .f = keys };
    pthread_t thread;
    uint64_t  done, last = 0;
    int       steps = 0, went_back = 0;
    char      id[32];

    for (int i = 0; i < 60; i++) {
        snprintf(id, sizeof id, "many-%d", i);
        must(!generate(id, "AES", NULL, 32), "a key to re-wrap");
    }
    latency(150);
    for (int again = 0; again < 2; again++) {
        pthread_create(&thread, NULL, run_function, &r);
        for (int i = 0; steps < 4 + again && i < 300; i++, nap_ms(10)) {
            done       = status_value(*p, "rewrap_done");
            steps     += done > last;
            went_back += done < last;
            last       = done;
        }
        unload(*p);
        *p = again ? load_with(NULL, NULL) : NULL;
        pthread_join(thread, NULL);
        check(r.result == 1, "a re-wrap survives UNINSTALL%s",
              again ? " and INSTALL" : "");
        if (!again)
            *p = load_with(NULL, NULL);
        last = 0;
    }
    latency(0);
    check(steps >= 4 && went_back == 0,
          "the status variables show its progress, in %d steps", steps);
    check(fetches("many-7", NULL, "AES", 32)
          && status_value(*p, "rewrap_total") == 0
          && !generate("after", "AES", NULL, 32), "after which all works");
}


static void
test_functions(void)
{
    session  s = { .super = 1 };
    function cmk, cms, keys;
    plugin  *p;

    current = &s;
    cmk  = create_function("cmk");      /* before the plugin                 */
    p    = start("functions");
    cms  = create_function("cms");
    keys = create_function("keys");
    must(!generate("one", "AES", NULL, 32), "a key");
    test_statements(&cmk, &cms, &s);
    check(set_one(p, "cmk_id", key_2) == 0 && select_function(&keys, 0) == 1
          && fetches("one", NULL, "AES", 32),
          "rotate_keys() to a KMS key of another region");
    test_running(&p, &keys);
    unload(p);
    check(select_function(&cmk, 0) == -2
          && strstr(s.message, "not loaded") != NULL, "after UNINSTALL: %s",
          s.message);
    p = load_with("cmk_id=", NULL);
    check(p != NULL && select_function(&keys, 0) == -1
          && strstr(s.message, "keyring_aws_cmk_id has to be set") != NULL,
          "after INSTALL without a KMS key: %s", s.message);
    unload(p);
    p = load_with(NULL, NULL);
    check(p != NULL && select_function(&keys, 0) == 1, "and with one: 1");
    unload(p);
    dlclose(cmk.dl);
    dlclose(cms.dl);
    dlclose(keys.dl);
    end_statement(&s);
    current = NULL;
}


/* ---- tests: status variables --------------------------------------------- */

static const char *const figures[] = {
    "keys", "kms_requests", "kms_errors", "kms_retries", "kms_time",
    "cache_hits", "rewrap_done", "rewrap_total", "failovers"
};
enum { FIGURES = sizeof figures / sizeof *figures, TIME = 4 };


/* Fetches "b", and checks by how much each figure grows. */
static void
figures_grow(plugin *p, const char *error, int keys, int requests, int errors,
             int retries)
{
    const int want[FIGURES] = { keys, requests, errors, retries };
    uint64_t  before[FIGURES];

    for (int i = 0; i < FIGURES; i++)
        before[i] = status_value(p, figures[i]);
    if (error != NULL)
        fault("Decrypt", error, 1);
    if (keys > 0)
        must(!generate("b", "AES", NULL, 32), "a key");
    else
        fetch("b", NULL);
    for (int i = 0; i < FIGURES; i++) {
        const int grown = (int)(status_value(p, figures[i]) - before[i]);
        check(i == TIME ? grown > 0 : grown == want[i], "%s: %s grows by %d",
              error ? error : keys ? "generate" : "fetch", figures[i], grown);
    }
}


static void
test_status(void)
{
    session s = { .super = 1 };
    plugin *p = start("status");
    uint64_t requests = status_value(p, "kms_requests");
    const show_var *v = p->is.status_vars;

    for (int n = 0; n < FIGURES && v->name != NULL; n++, v++)
        check(strncmp(v->name, "Keyring_aws_", 12) == 0
              && strcmp(v->name + 12, figures[n]) == 0 && v->type == 4
              && v->scope == 1, "%s, global and of 8 bytes", v->name);
    if (!IS_57) {                       /* whose texts have another number   */
        check(v->name != NULL
              && strcmp(v->name, "Keyring_aws_region_in_use") == 0
              && v->type == 6 && v->scope == 1
              && strcmp(*(char **)(void *)v->value, "us-east-1") == 0,
              "the region in use, a global text");
        v++;
    }
    check(v->name == NULL && requests > 0, "no other; and the start counts");
    figures_grow(p, NULL, 1, 1, 0, 0);
    figures_grow(p, NULL, 0, 1, 0, 0);
    figures_grow(p, "AccessDeniedException", 0, 1, 1, 0);
    figures_grow(p, "KMSInternalException", 0, 2, 1, 1);
    current  = &s;
    requests = status_value(p, "kms_requests");
    check(set_one(p, "cmk_id", "alias/nobody") != 0
          && status_value(p, "kms_requests") > requests,
          "a SET that is refused counts");
    current = NULL;
    unload(p);
    end_statement(&s);
    p = load_with(NULL, NULL);
    check(status_value(p, "keys") == 1 && status_value(p, "kms_retries") == 0,
          "installed again, it counts afresh");
    unload(p);
}


/* ---- tests: UNINSTALL and INSTALL while many threads work ---------------- */

typedef struct { int number, bad, done; } worker;

static int load_stop;


/* Makes, fetches and removes keys until it is told to stop; of the first six it
 * keeps three. */
static void *
work_on_keys(void *arg)
{
    worker *const w = arg;
    char id[64], user[32];
    int  seen;

    snprintf(user, sizeof user, "user%d@host", w->number % 3);
    for (int i = 0; i < 6
                    || !__atomic_load_n(&load_stop, __ATOMIC_RELAXED); ) {
        snprintf(id, sizeof id, "t-%d-%d", w->number, i);
        if (hold() != NULL) {           /* it stays while we hold it         */
            w->bad += i % 2 ? generate(id, "AES", user, 32)
                            : store(id, "AES", user, 16);
            w->bad += !fetches(id, user, "AES", i % 2 ? 32 : 16);
            w->bad += (i < 3 || i > 5) && remove_key(id, user);
            w->bad += (i < 3 || i > 5) && !absent(id, user);
            w->bad += walk(1025, "steady", "", &seen) < 1 || seen != 1;
            let_go();
            i++;
        }
        nap_ms(1);
    }
    return NULL;
}


static void *
work_on_settings(void *arg)
{
    session s = { .super = 1 };
    worker *const w = arg;
    plugin *p;

    current = &s;
    for (int i = 0; !__atomic_load_n(&load_stop, __ATOMIC_RELAXED); i++) {
        if ((p = hold()) != NULL) {
            w->bad += set_one(p, "cmk_id", i % 2 ? key_1 : key_3);
            w->bad += set_one(p, "timeout", i % 2 ? "10000" : "9000");
            w->bad += status_value(p, "kms_requests") == 0;
            let_go();
        }
        nap_ms(5);
    }
    end_statement(&s);
    return NULL;
}


static void *
work_on_functions(void *arg)
{
    session  s = { .super = 1 };
    function f = create_function("keys");
    worker *const w = arg;

    current = &s;
    for (int more = 0; (w->done == 0 && more < 1000)
                       || !__atomic_load_n(&load_stop, __ATOMIC_RELAXED); ) {
        const long long result = select_function(&f, 0);

        more += __atomic_load_n(&load_stop, __ATOMIC_RELAXED);
        w->done += result == 1;
        w->bad  += result != 1
                && !must(strstr(s.message, "not loaded") != NULL, s.message);
        nap_ms(3);
    }
    end_statement(&s);
    dlclose(f.dl);
    return NULL;
}


/* with_functions: they keep the file mapped, so that the plugin is installed
 * into the same memory again; without, each round maps the file again. */
static void
rounds(const char *name, int n, int keyers, int with_functions)
{
    static worker    workers[MAX_THREADS + 3];
    static pthread_t threads[MAX_THREADS + 3];
    const int count_all = keyers + 2 + with_functions;
    plugin   *p = start(name);
    int       bad = 0, kept = 1, seen;

    memset(workers, 0, sizeof workers);
    generate("steady", "AES", NULL, 32);
    __atomic_store_n(&load_stop, 0, __ATOMIC_RELAXED);
    for (int t = 0; t < count_all; t++) {
        workers[t].number = t;
        pthread_create(&threads[t], NULL,
                       t < keyers ? work_on_keys : t < keyers + 2
                       ? work_on_settings : work_on_functions, &workers[t]);
    }
    for (int i = 0; i < n && p != NULL; i++) {
        nap_ms(20);
        unload(p);
        p = load_with(NULL, NULL);
    }
    __atomic_store_n(&load_stop, 1, __ATOMIC_RELAXED);
    for (int t = 0; t < count_all; t++) {
        pthread_join(threads[t], NULL);
        bad += workers[t].bad;
    }
    check(p != NULL && bad == 0
          && (!with_functions || workers[keyers + 2].done > 0),
          "%d rounds, %d threads%s: %d failures", n, count_all,
          with_functions ? ", functions among it" : "", bad);
    for (int t = 0; t < keyers * 3; t++) {
        char id[64], user[32];

        snprintf(id, sizeof id, "t-%d-%d", t / 3, t % 3 + 3);
        snprintf(user, sizeof user, "user%d@host", t / 3 % 3);
        kept += fetches(id, user, "AES", t % 3 == 1 ? 16 : 32);
    }
    check(kept == keyers * 3 + 1 && walk(1025, "steady", "", &seen) == kept
          && status_value(p, "keys") == (uint64_t)kept,
          "no key is lost, and none comes back: %d", kept);
    unload(p);
}


static void
test_life(void)
{
    log_forget();
    rounds("mapped", round_count, thread_count, 1);
    rounds("unmapped", round_count / 5 + 1, 4, 0);
}


/* ---- tests: lines that repeat -------------------------------------------- */

/* Fetches the key that often, which fails; how many lines that made. */
static int
failing(const char *id, int times)
{
    log_forget();
    for (int i = 0; i < times; i++)
        must(fetch(id, NULL).failure, "a fetch that fails");
    return logged(0, "cannot fetch key", "");
}


static void
denied(const char *type)
{
    control("{\"do\": \"clear_faults\"}");
    if (type != NULL)
        fault("Decrypt", type, 0);
}


static void *
fail_often(void *id)
{
    for (int i = 0; i < 50; i++)
        must(fetch(id, NULL).failure, "a fetch that fails");
    return NULL;
}


/* A key or a cause of its own is a line of its own; all else is counted. */
static void
test_thinned(void)
{
    const char *const more = " in the last 6";
    char id[32], a[256] = "", b[256] = "";

    for (int i = 0; i < 40; i++) {
        snprintf(id, sizeof id, "thin-%d", i);
        must(!generate(id, "AES", NULL, 16), "a key");
    }
    denied("AccessDeniedException");
    check(failing("thin-0", 9) == 1 && failing("thin-1", 2) == 1
          && failing("thin-0", 3) == 0, "a line for each key");
    denied("DisabledException");
    check(failing("thin-0", 2) == 1 && logged(0, "Disabled", "'thin-0'") == 1,
          "another cause is another line");
    a_minute_passes();
    check(failing("thin-0", 2) == 1 + 2 && logged(0, "happened 1 ", more) == 2
          && logged(0, "'thin-0': ", "happened 11 ") == 1
          && logged(0, "'thin-1': ", "happened 1 ") == 1,
          "after a minute it is said again, with counts");
    denied(NULL);
    log_forget();
    check(fetches("thin-0", NULL, "AES", 16)
          && logged(0, "'thin-0': ", "happened 1 ") == 1
          && logged(0, "", "") == 1, "it works again: the count is said");
    denied("AccessDeniedException");
    check(failing("thin-0", 2) == 1 && logged(0, "happened", "") == 0,
          "and the next failure at once");
    check(failing("thin-1", 1) == 0, "but not that of another key");
    memset(a, 1, 255);                  /* the log shows their beginning     */
    memset(b, 1, 255);
    b[254] = '2';
    must(!generate(a, "AES", NULL, 16) && !generate(b, "AES", NULL, 16),
         "two keys");
    check(failing(a, 2) == 1 && failing(b, 2) == 1,
          "keys whose names end differently have a line each");
    must(!remove_key(a, NULL) && !remove_key(b, NULL), "they are removed");
    a[254] = 1;
    log_forget();
    must(generate(a, "no", a, 16) && generate(a, "no", b, 16), "no such type");
    check(logged(0, "cannot generate key", "") == 2,
          "owners whose names end differently, too");
    log_forget();
    a_minute_passes();
    must(!generate("thin", "AES", NULL, 16), "a key");
    check(logged(0, "happened", "") == 4 && logged(2, "added a key", "") == 1,
          "a count is said with the next line of any kind");
    must(!remove_key("thin", NULL), "it is removed");
}


static void
test_many_lines(void)
{
    static const char lost[] = "INNODBKey-c066725f-eb3f-11f1-8d23-02fc00000001"
                               "-2";
    char id[32];
    int  lines = 0;
    pthread_t threads[8];
    int  total = 0;

    a_minute_passes();
    (void)fetch(lost, NULL);
    (void)failing("thin-0", 4);
    for (int i = 1; i < 40; i++) {
        snprintf(id, sizeof id, "thin-%d", i);
        lines += failing(id, 1);
        total += logged(0, "'thin-0': ", "happened 3 ");
    }
    check(lines == 39 + 1 && total == 1,
          "more keys than are kept: each has a line, and no count is lost");
    log_forget();
    (void)fetch(lost, NULL);
    check(logged(0, lost, "made a new one") == 0 && logged(0, lost, "") == 0,
          "a key that is missing is said once, and they do not push that out");
    must(!generate(lost, "AES", NULL, 32), "it is made again");
    check(logged(0, lost, "made a new one") == 1, "which is said, too");
    must(!remove_key(lost, NULL), "it is removed");
    check(failing("thin-0", 1) == 1, "what was pushed out is said again");
    log_forget();
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, fail_often, "thin-0");
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    check(logged(-1, "", "") == 0, "threads count together");
}


static void
test_lines(void)
{
    plugin *p = start("lines");

    test_thinned();
    test_many_lines();
    denied("KMSInternalException");     /* is tried three times; then it is  */
    stop_the_clock(1);                  /* not, until a probe is due, and    */
    (void)failing("thin-3", 3);         /* that is another line              */
    stop_the_clock(0);
    log_forget();
    unload(p);
    check(logged(0, "'thin-0': ", "happened 400 more times") == 1
          && logged(0, "'thin-3': ", "happened 1 more time ") == 1,
          "at the end the counts are said");
    denied(NULL);
    p = start("lines");
    denied("AccessDeniedException");
    check(failing("thin-0", 2) == 1, "installed again, it begins again");
    log_forget();
    must(!generate("x", "AES", NULL, 16) && !remove_key("x", NULL)
         && !generate("x", "AES", NULL, 16) && !remove_key("x", NULL), "keys");
    check(logged(2, "removed a key", "40 keys") == 2,
          "a note is never left out, though it is the same");
    denied(NULL);
    unload(p);
}


static void (*const sections[])(void) = {
    test_layout, test_refusals, test_starting, test_keys, test_migration,
    test_create, test_settings, test_persisted, test_functions, test_status,
    test_lines, test_life
};


/* ---- main ---------------------------------------------------------------- */

int
main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s keyring_aws.so WORK endpoint=URL"
                " control=PORT [...]\n", argv[0]);
        return 2;
    }
    so_path = argv[1];
    work    = argv[2];
    for (int i = 3; i < argc; i++) {
        if (strncmp(argv[i], "endpoint=", 9) == 0)
            endpoint = argv[i] + 9;
        if (strncmp(argv[i], "ca_file=", 8) == 0)
            ca_file = argv[i] + 8;
        (void)sscanf(argv[i], "control=%d", &control_port);
        (void)sscanf(argv[i], "threads=%d", &thread_count);
        (void)sscanf(argv[i], "rounds=%d", &round_count);
    }
    if (thread_count > MAX_THREADS)
        thread_count = MAX_THREADS;
    if (IS_UNKNOWN) {
        test_unknown();
    } else {
        set_up();
        for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
            sections[i]();
            check(blocks_alive == 0, "the server's memory came back: %zu", i);
        }
    }
    log_forget();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
