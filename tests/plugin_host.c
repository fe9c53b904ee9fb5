/* plugin_host.c - loads keyring_aws.so as MySQL does, and calls all of it
 *
 * Three programs from one source, since a process looks like one server only:
 *
 *     cc -std=c99 -DHOST_57 -rdynamic -o host_57 plugin_host.c -ldl -lpthread
 *     cc -std=c99 -DHOST_80 ...          (8.0, 8.4 and 9.x)
 *     cc -std=c99 -DHOST_UNKNOWN ...     (signs that contradict each other)
 *
 *     host_57 keyring_aws.so WORK endpoint=URL control=PORT [ca_file=FILE]
 *             [only=keys,life,...] [threads=32] [rounds=50]
 *
 * WORK is an empty folder to work in; endpoint and control are what
 * kms_emulator.py printed. Run under sanitizers or valgrind as you like: the
 * host's allocator keeps a header before each block, as the server's does, so
 * that memory from the wrong place cannot be freed unnoticed.
 *
 * The layouts here are written a second time, from the facts about MySQL, and
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
#include <time.h>
#include <unistd.h>

#if defined(HOST_57)
enum { IS_57 = 1, IS_UNKNOWN = 0 };
#elif defined(HOST_80)
enum { IS_57 = 0, IS_UNKNOWN = 0 };
#else
enum { IS_57 = 0, IS_UNKNOWN = 1 };
#endif

static const char *so_path, *work, *endpoint, *ca_file = "", *only = "";
static int control_port, thread_count = 32, round_count = 50;

enum { MAX_THREADS = 256 };

static const char *const key_1 =        /* the emulator has it from the start */
    "arn:aws:kms:us-east-1:111122223333:key/"
    "11111111-2222-3333-4444-555555555555";
static char key_2[256], key_3[256], key_foreign[256];   /* made by set_up()  */


/* ---- what is checked, counted -------------------------------------------- */

static pthread_mutex_t check_lock = PTHREAD_MUTEX_INITIALIZER;
static int passed, failed;


__attribute__((format(printf, 2, 3)))
static int
check(int ok, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&check_lock);
    if (ok)
        passed++;
    else
        failed++;
    printf("%s %d - ", ok ? "ok" : "not ok", passed + failed);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
    pthread_mutex_unlock(&check_lock);
    return ok;
}


/* What is worth a line only if it is not so. */
static int
must(int ok, const char *what)
{
    return ok || check(0, "%s", what);
}


static void
die(const char *what)
{
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(2);
}


static int
wanted(const char *section)
{
    const char *at = strstr(only, section);

    if (only[0] != '\0' && at == NULL)
        return 0;
    printf("# %s\n", section);
    return 1;
}


static int64_t
now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}


static void
nap_ms(int ms)
{
    const struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

    nanosleep(&t, NULL);
}


/* ---- orders for the emulator --------------------------------------------- */

/* POSTs JSON to the control port; the reply's body is in a static buffer. */
static const char *
control(const char *format, ...)
{
    static char reply[65536];
    char body[1024], head[256];
    struct sockaddr_in to;
    size_t got = 0;
    ssize_t n;
    va_list args;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    va_start(args, format);
    vsnprintf(body, sizeof body, format, args);
    va_end(args);
    memset(&to, 0, sizeof to);
    to.sin_family      = AF_INET;
    to.sin_port        = htons((uint16_t)control_port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("control port");
    snprintf(head, sizeof head, "POST / HTTP/1.0\r\nHost: x\r\n"
             "Content-Length: %zu\r\n\r\n", strlen(body));
    if (write(fd, head, strlen(head)) < 0 || write(fd, body, strlen(body)) < 0)
        die("control port");
    while (got < sizeof reply - 1
           && (n = read(fd, reply + got, sizeof reply - 1 - got)) > 0)
        got += (size_t)n;
    reply[got] = '\0';
    close(fd);
    if (strstr(reply, "\"result\"") == NULL) {
        printf("Bail out! the emulator answers %s with %s\n", body, reply);
        exit(2);
    }
    return strstr(reply, "\"result\": ") + 10;
}


static void
make_key(char out[256], const char *region, const char *account,
         const char *more)
{
    const char *answer = control("{\"do\": \"add_key\", \"region\": \"%s\","
                                 " \"account\": \"%s\"%s}",
                                 region, account, more);

    if (sscanf(answer, "\"%255[^\"]\"", out) != 1)
        die("add_key");
}


/* ---- the server: memory -------------------------------------------------- */

enum { BLOCK_MAGIC = 0x5ca1ab1e, BLOCK_HEADER = 32 };

static long blocks_alive;


static void *
server_malloc(unsigned memory_key, size_t len, int flags)
{
    unsigned char *block = malloc(BLOCK_HEADER + len);
    const uint32_t magic = BLOCK_MAGIC;

    (void)memory_key;
    (void)flags;
    if (block == NULL)
        return NULL;
    memset(block, 0x5a, BLOCK_HEADER);
    memcpy(block, &magic, sizeof magic);
    __atomic_add_fetch(&blocks_alive, 1, __ATOMIC_RELAXED);
    return block + BLOCK_HEADER;
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
    if (magic != BLOCK_MAGIC) {
        printf("Bail out! my_free of memory that is not the server's\n");
        abort();
    }
    memset(block, 0, sizeof magic);
    __atomic_sub_fetch(&blocks_alive, 1, __ATOMIC_RELAXED);
    free(block);
}


static void *
server_memdup(unsigned memory_key, const void *from, size_t len, int flags)
{
    void *to = server_malloc(memory_key, len, flags);

    if (to != NULL)
        memcpy(to, from, len);
    return to;
}


static char *
server_strdup(unsigned memory_key, const char *from, int flags)
{
    return server_memdup(memory_key, from, strlen(from) + 1, flags);
}


/* What the plugin must not call: its signature differs between versions. */
static void
server_forbidden(void)
{
    printf("Bail out! a service that must not be called was\n");
    abort();
}


/* ---- the server: sessions, errors, log ----------------------------------- */

typedef struct session {
    int   super;
    char *memory[8];                    /* of the statement that runs        */
    int   memory_count;
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
    session *s = thd;
    char *copy = malloc(len + 1);

    if (copy == NULL || s->memory_count == 8)
        die("statement memory");
    memcpy(copy, text, len);
    copy[len] = '\0';
    s->memory[s->memory_count++] = copy;
    return copy;
}


static void *
server_current_session(void)
{
    return current;
}


typedef struct { const char *at; size_t len; } lex_string;

static __thread char query[1024];       /* that the session runs             */


static lex_string
server_get_query(void *thd)
{
    const lex_string text = { query, strlen(query) };

    if (thd != current) {
        printf("Bail out! a session is asked for another one's statement\n");
        abort();
    }
    return text;
}


/* keyring_access_test(): true is no. */
static int operations_off;

_Bool _Z19keyring_access_testv(void);

_Bool
_Z19keyring_access_testv(void)
{
    return __atomic_load_n(&operations_off, __ATOMIC_RELAXED);
}


/* thd_slave_thread(): whether the session applies what a source did. */
static __thread int is_replica;

#if defined(HOST_57)
#define SLAVE_THREAD thd_slave_thread
#else
#define SLAVE_THREAD _Z16thd_slave_threadPK3THD
#endif

int SLAVE_THREAD(const void *thd);

int
SLAVE_THREAD(const void *thd)
{
    return thd == current && is_replica;
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
    if (strcmp(name, "privilege_super") != 0)
        return 1;
    *(char *)value = *(int *)context != 0;
    return 0;
}


static void
raise_error(unsigned number, const char *format, va_list args)
{
    if (current == NULL)
        return;
    current->error = number;
    vsnprintf(current->message, sizeof current->message, format, args);
}


#ifdef HOST_57
char server_version[] = "5.7.44-log";
#define PRINTF_ERROR my_printf_error
#elif defined(HOST_80)
char server_version[] = "9.7.4";
char mysqld_server_started = 1;         /* 5.7's host does without           */
#define PRINTF_ERROR _Z15my_printf_errorjPKciz
#else
char server_version[] = "5.7.44-log";   /* but its error function is C++     */
#define PRINTF_ERROR _Z15my_printf_errorjPKciz
#endif

void PRINTF_ERROR(unsigned number, const char *format, int flags, ...);

void
PRINTF_ERROR(unsigned number, const char *format, int flags, ...)
{
    va_list args;

    va_start(args, flags);
    raise_error(number, format, args);
    va_end(args);
}


typedef struct handle {                 /* st_plugin_int, as far as needed   */
    uint32_t    magic;
    const char *name;
} handle;

enum { HANDLE_MAGIC = 0x48414e44, LOG_LINES = 20000 };

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { int level; char *text; } log_lines[LOG_LINES];
static int log_count;


static int
server_log(void **plugin, int level, const char *format, ...)
{
    const handle *const h = *plugin;
    char line[2048];
    va_list args;

    if (h->magic != HANDLE_MAGIC) {
        printf("Bail out! a line is logged through a handle that is gone\n");
        abort();
    }
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    pthread_mutex_lock(&log_lock);
    if (log_count < LOG_LINES) {
        log_lines[log_count].level = level;
        log_lines[log_count].text  = strdup(line);
        log_count++;
    }
    pthread_mutex_unlock(&log_lock);
    if (getenv("HOST_LOG") != NULL)
        printf("# log %d %s\n", level, line);
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


/* How many lines of that level (-1: any) have all of the words in them. */
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


static void
log_show(void)
{
    pthread_mutex_lock(&log_lock);
    for (int i = 0; i < log_count; i++)
        printf("#     %d %s\n", log_lines[i].level, log_lines[i].text);
    pthread_mutex_unlock(&log_lock);
}


/* ---- the server: services ------------------------------------------------ */

static const struct {
    int (*log)(void **, int, const char *, ...);
} log_service = { server_log };

static const struct {
    void *(*my_malloc)(unsigned, size_t, int);
    void  (*my_realloc)(void);
    void  (*my_claim)(void);
    void  (*my_free)(void *);
    void *(*my_memdup)(unsigned, const void *, size_t, int);
    char *(*my_strdup)(unsigned, const char *, int);
    void  (*my_strndup)(void);
} malloc_service = { server_malloc, server_forbidden, server_forbidden,
                     server_free, server_memdup, server_strdup,
                     server_forbidden };

static const struct {
    void  (*thd_alloc)(void), (*thd_calloc)(void), (*thd_strdup)(void);
    char *(*thd_strmake)(void *, const char *, size_t);
    void  (*thd_memdup)(void), (*thd_make_lex_string)(void);
} alloc_service = { server_forbidden, server_forbidden, server_forbidden,
                    server_strmake, server_forbidden, server_forbidden };

static const struct {
    void *(*current_session)(void);
    void  (*others[12])(void);
    lex_string (*get_query)(void *);
    void  (*normalized)(void);
} parser_service = { server_current_session, { server_forbidden },
                     server_get_query, server_forbidden };

static const struct {
    char (*get)(void *, void **);
    void (*set)(void), (*create)(void), (*destroy)(void), (*copy)(void);
    void (*lookup)(void);
    char (*get_option)(void *, const char *, void *);
    void (*set_option)(void);
} security_service = { server_get_context, server_forbidden, server_forbidden,
                       server_forbidden, server_forbidden, server_forbidden,
                       server_get_option, server_forbidden };

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
       V_INVISIBLE = 0x40000 };

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
    char         names[16][64];         /* full names of its variables       */
    const char  *short_names[16];
    int          ready;
} plugin;

/* The keyring that is installed, as plugin_foreach() finds it: each call holds
 * a reference, and UNINSTALL waits until the last is given back. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t  idle;
    plugin         *now;
    int             calls;
} installed = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0 };


static void
patch_services(void *dl)
{
    for (size_t i = 0; i < sizeof services / sizeof *services; i++) {
        const void **symbol = dlsym(dl, services[i].name);
        const uintptr_t v = symbol != NULL ? (uintptr_t)*symbol : 0;

        if (symbol == NULL || *symbol == services[i].service)
            continue;
        must(v <= services[i].version && v >> 8 == services[i].version >> 8,
             "services are asked for in versions that the server has");
        *symbol = services[i].service;
    }
}


/* plugin_dl_add(): whatever the stride, fields are copied by position. */
static int
read_description(plugin *p)
{
    const int *const version = dlsym(p->dl, "_mysql_plugin_interface_version_");
    const int *const stride  = dlsym(p->dl, "_mysql_sizeof_struct_st_plugin_");
    const char *from = dlsym(p->dl, "_mysql_plugin_declarations_");
    const keyring *info;
    size_t size;

    if (version == NULL || stride == NULL || from == NULL)
        return must(0, "the three symbols are there");
    size = (size_t)*stride < sizeof p->is ? (size_t)*stride : sizeof p->is;
    memset(&p->is, 0, sizeof p->is);
    memcpy(&p->is, from, size);
    memcpy(&info, from + *stride + offsetof(description, info), sizeof info);
    return must(*version >= 0x0100 && *version < 0x0107,
                "the interface version is one whose description is copied")
        && must(info == NULL, "one plugin is declared, at its own stride");
}


static const char *
option(const char *const *settings, const char *name)
{
    const size_t len   = strlen(name);
    const char  *found = NULL;

    for (; *settings != NULL; settings++) {
        if (strncmp(*settings, name, len) == 0 && (*settings)[len] == '=')
            found = *settings + len + 1;
    }
    return found;
}


static void
set_at_start(sys_var *var, const char *text)
{
    if ((var->flags & V_TYPE) == V_STR) {
        const char *value = text != NULL ? text : ((var_str *)var)->def;
        if (value != NULL)
            *(char **)var->at = server_strdup(0, value, 0);
    } else if ((var->flags & V_TYPE) == V_INT) {
        const var_int *v = (var_int *)var;
        int n = text != NULL ? (int)strtol(text, NULL, 10) : v->def;
        *(int *)var->at = n < v->min ? v->min : n > v->max ? v->max : n;
    } else {
        *(char *)var->at = text != NULL ? text[0] == '1'
                                        : ((var_bool *)var)->def;
    }
}


/* construct_options() and what follows: names get their prefix, values come
 * from the options given or the defaults. */
static void
set_variables(plugin *p, const char *const *settings)
{
    for (int i = 0; p->is.system_vars[i] != NULL; i++) {
        sys_var *const var = p->is.system_vars[i];

        p->short_names[i] = var->name;
        set_at_start(var, option(settings, var->name));
        snprintf(p->names[i], sizeof p->names[i], "keyring_aws_%s", var->name);
        var->name = p->names[i];
    }
}


static void
free_variables(plugin *p)
{
    for (int i = 0; p->is.system_vars[i] != NULL; i++) {
        sys_var *const var = p->is.system_vars[i];

        if ((var->flags & V_TYPE) == V_STR && (var->flags & V_MEMALLOC)) {
            server_free(*(char **)var->at);
            *(char **)var->at = NULL;
        }
        var->name = p->short_names[i];
    }
}


static void
discard(plugin *p)
{
    if (p->is.system_vars != NULL)
        free_variables(p);
    if (p->h != NULL) {
        memset(p->h, 0, sizeof *p->h);
        free(p->h);
    }
    dlclose(p->dl);
    free(p);
}


/* INSTALL PLUGIN, or early-plugin-load; NULL if it does not start. */
static plugin *
load(const char *const *settings)
{
    plugin *p = calloc(1, sizeof *p);
    int refused;

    if (p == NULL || (p->dl = dlopen(so_path, RTLD_NOW)) == NULL) {
        printf("Bail out! %s\n", p != NULL ? dlerror() : "memory");
        exit(2);
    }
    patch_services(p->dl);
    if (!read_description(p))
        exit(2);
    p->h = malloc(sizeof *p->h);
    if (p->h == NULL)
        die("memory");
    p->h->magic = HANDLE_MAGIC;
    p->h->name  = "keyring_aws";
    if (p->is.system_vars != NULL)
        set_variables(p, settings);
    refused = p->is.init == NULL || p->is.init(p->h) != 0;
    if (refused && p->is.deinit != NULL)
        p->is.deinit(p->h);             /* as the server does                */
    if (refused) {
        discard(p);
        return NULL;
    }
    pthread_mutex_lock(&installed.lock);
    installed.now = p;
    pthread_mutex_unlock(&installed.lock);
    return p;
}


static __thread struct { plugin *p; int times; } held;


/* NULL: none is installed. A thread that holds it already still has it. */
static plugin *
hold(void)
{
    if (held.times == 0) {
        pthread_mutex_lock(&installed.lock);
        held.p = installed.now;
        if (held.p != NULL)
            installed.calls++;
        pthread_mutex_unlock(&installed.lock);
    }
    held.times += held.p != NULL;
    return held.p;
}


static void
let_go(void)
{
    if (--held.times > 0)
        return;
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
    must(p->is.check_uninstall == NULL || p->is.check_uninstall(p->h) == 0,
         "UNINSTALL is not refused");
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
    size_t        len;
} value;


static int
value_type(value *v)
{
    (void)v;
    return 0;
}


/* As the server's: in buf if it fits, else somewhere else. */
static const char *
value_str(value *v, char *buf, int *len)
{
    const size_t room = (size_t)*len;

    *len = (int)v->len;
    if (v->text == NULL || v->len >= room)
        return v->text;
    memcpy(buf, v->text, v->len);
    buf[v->len] = '\0';
    return buf;
}


static sys_var *
find_variable(plugin *p, const char *name)
{
    for (int i = 0; p->is.system_vars[i] != NULL; i++) {
        if (strcmp(p->short_names[i], name) == 0)
            return p->is.system_vars[i];
    }
    printf("Bail out! no variable %s\n", name);
    exit(2);
}


static const char *
read_text(plugin *p, const char *name)
{
    const char *text = *(char **)find_variable(p, name)->at;

    return text != NULL ? text : "";
}


typedef struct assignment { const char *name, *text; size_t len; } assignment;


typedef union save { const char *text; int number; char room[8]; } save_room;


static int
check_one(plugin *p, const assignment *a, save_room *out)
{
    sys_var *const var = find_variable(p, a->name);
    value v = { value_type, value_str, NULL, NULL, NULL, a->text, a->len };

    if (var->flags & V_READONLY)
        return 1;
    if ((var->flags & V_TYPE) == V_INT && a->text != NULL) {
        out->number = (int)strtol(a->text, NULL, 10);
        return 0;
    }
    return var->check(current, var, out, &v);
}


/* plugin_var_memalloc_global_update() */
static void
update_one(plugin *p, const assignment *a, save_room *save)
{
    sys_var *const var = find_variable(p, a->name);

    if ((var->flags & V_TYPE) == V_STR) {
        char *const old  = *(char **)var->at;
        char *const mine = server_strdup(0, save->text, 0);

        var->update(current, var, var->at, &mine);
        server_free(old);
    } else {
        var->update(current, var, var->at, &save->number);
    }
}


/* ONLY_CHECKED: as when another variable of the statement is refused later.
 * HALFWAY: what others see between the first update and the second. */
enum { FOR_GOOD, ONLY_CHECKED, HALFWAY };

/* SET GLOBAL a = ..., b = ...: all checks, then, if all agree, all updates. The
 * session's error stays to be looked at. 0 is success. */
static int
set_global(plugin *p, int mode, const assignment *list, int count)
{
    save_room saves[4];
    int refused = 0, n = 0;

    end_statement(current);
    for (int i = 0; i < count; i++)
        n += snprintf(query + n, sizeof query - (size_t)n, "%s %s=%.200s",
                      i == 0 ? "SET" : ",", list[i].name,
                      list[i].text != NULL ? list[i].text : "NULL");
    for (int i = 0; i < count && !refused; i++)
        refused = check_one(p, &list[i], &saves[i]);
    if (mode != FOR_GOOD)
        count = mode == HALFWAY;
    for (int i = 0; i < count && !refused; i++)
        update_one(p, &list[i], &saves[i]);
    return refused;
}


static int
set_one(plugin *p, const char *name, const char *text)
{
    const assignment a = { name, text, text != NULL ? strlen(text) : 0 };

    return set_global(p, FOR_GOOD, &a, 1);
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

typedef struct {
    unsigned       arg_count;
    int           *arg_type;
    char         **args;
    unsigned long *lengths;
    char          *maybe_null;
    char         **attributes;
    unsigned long *attribute_lengths;
    void          *extension;
} udf_args;

typedef char      udf_begin(udf_init *, udf_args *, char *);
typedef long long udf_run(udf_init *, udf_args *, unsigned char *,
                          unsigned char *);
typedef void      udf_end(udf_init *);

typedef struct function {
    void      *dl;
    udf_begin *begin;
    udf_run   *run;
    udf_end   *end;
} function;


static void
find_symbol(void *dl, const char *name, const char *suffix, void *out)
{
    char full[64];
    void *symbol;

    snprintf(full, sizeof full, "%s%s", name, suffix);
    symbol = dlsym(dl, full);
    if (symbol == NULL)
        die(full);
    memcpy(out, &symbol, sizeof symbol);
}


static function
create_function(const char *name)
{
    function f;

    f.dl = dlopen(so_path, RTLD_NOW);
    if (f.dl == NULL)
        die("dlopen");
    find_symbol(f.dl, name, "_init", &f.begin);
    find_symbol(f.dl, name, "", &f.run);
    find_symbol(f.dl, name, "_deinit", &f.end);
    return f;
}


static void
drop_function(function *f)
{
    dlclose(f->dl);
}


/* SELECT f(): its value; -1 for NULL, -2 where it could not be initialised,
 * with the session's message either way. */
static long long
select_function(const function *f, unsigned arg_count)
{
    udf_init init = { 0, 0, 0, NULL, 1, NULL };
    udf_args args = { 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL };
    unsigned char is_null = 0, error = 0;
    long long result;

    if (current != NULL)
        end_statement(current);
    args.arg_count = arg_count;
    if (f->begin(&init, &args, current != NULL ? current->message
                                               : (char[512]){ 0 }) != 0)
        return -2;
    must(init.maybe_null && !init.const_item,
         "a function may answer NULL and is no constant");
    result = f->run(&init, &args, &is_null, &error);
    f->end(&init);
    return is_null || error ? -1 : result;
}


/* ---- keyring calls, as the server makes them ----------------------------- */

static int
generate(const char *id, const char *type, const char *user, size_t len)
{
    plugin *const p = hold();
    int failure = 1;

    if (p != NULL) {
        failure = p->is.info->generate(id, type, user, len);
        let_go();
    }
    return failure;
}


static int
store(const char *id, const char *type, const char *user, const void *key,
      size_t len)
{
    plugin *const p = hold();
    int failure = 1;

    if (p != NULL) {
        failure = p->is.info->store(id, type, user, key, len);
        let_go();
    }
    return failure;
}


static int
remove_key(const char *id, const char *user)
{
    plugin *const p = hold();
    int failure = 1;

    if (p != NULL) {
        failure = p->is.info->remove(id, user);
        let_go();
    }
    return failure;
}


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
    static char garbage[BLOCK_HEADER + 1];
    fetched f;
    plugin *const p = hold();
    char  *type = garbage + BLOCK_HEADER;
    void  *key  = type;
    size_t len  = 99999;

    memset(&f, 0, sizeof f);
    f.failure = 1;
    if (p == NULL)
        return f;
    f.failure = p->is.info->fetch(id, &type, user, &key, &len);
    let_go();
    if (!must(type != garbage + BLOCK_HEADER && key != garbage + BLOCK_HEADER
              && len != 99999,
              "fetch writes all three outputs"))
        exit(2);
    if (key == NULL || type == NULL) {
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
    const fetched f = fetch(id, user);

    return !f.failure && f.len == 0;
}


/* Walks with the buffers that this server would give; how many names there are,
 * or -1; and whether (id, user) is among them. */
static int
walk(size_t user_room, const char *id, const char *user, int *seen)
{
    plugin *const p = hold();
    char  *key_id  = malloc(1025);
    char  *user_id = malloc(user_room);
    void  *it = NULL;
    int    n  = 0;

    *seen = 0;
    if (p == NULL || key_id == NULL || user_id == NULL)
        die("walk");
    p->is.info->walk_begin(&it);
    if (it == NULL)
        n = -1;
    while (it != NULL && p->is.info->walk_next(it, key_id, user_id) == 0) {
        n++;
        *seen += strcmp(key_id, id) == 0 && strcmp(user_id, user) == 0;
    }
    if (it != NULL)
        p->is.info->walk_end(it);
    let_go();
    free(key_id);
    free(user_id);
    return n;
}


static uint64_t
status_value(plugin *p, const char *name)
{
    for (const show_var *v = p->is.status_vars; v->name != NULL; v++) {
        if (strcmp(v->name, name) == 0 && v->type == 4)
            return __atomic_load_n((uint64_t *)(void *)v->value,
                                   __ATOMIC_RELAXED);
    }
    check(0, "there is a status variable %s", name);
    return 0;
}


/* ---- settings that the tests start with ---------------------------------- */

static char set_conf[512], set_data[512], set_cmk[512], set_endpoint[512],
            set_ca[512];
static const char *plain[] = { set_conf, set_data, set_cmk, set_endpoint,
                               set_ca, "start_seconds=0", NULL };


static void
write_file(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die(path);
    close(fd);
}


static void
fresh_data(const char *name)
{
    snprintf(set_data, sizeof set_data, "data_file=%s/keyring/%s", work, name);
}


static const char *
data_path(void)
{
    return strchr(set_data, '=') + 1;
}


static void
set_up(void)
{
    char conf[400];

    snprintf(conf, sizeof conf, "%s/conf", work);
    write_file(conf, "AKIDEXAMPLE\nnot-a-real-secret/for-tests-only+0123456\n");
    snprintf(set_conf, sizeof set_conf, "conf_file=%s", conf);
    snprintf(set_cmk, sizeof set_cmk, "cmk_id=%s", key_1);
    snprintf(set_endpoint, sizeof set_endpoint, "endpoint=%s", endpoint);
    snprintf(set_ca, sizeof set_ca, "ca_file=%s", ca_file);
    fresh_data("data");
    make_key(key_2, "us-west-2", "111122223333", ", \"alias\": \"alias/two\"");
    make_key(key_3, "us-east-1", "111122223333", ", \"alias\": \"alias/two\"");
    make_key(key_foreign, "us-east-1", "444455556666", "");
}


/* The plain settings and one or two more, which win. */
static plugin *
load_with(const char *one, const char *two)
{
    const char *list[sizeof plain / sizeof *plain + 2];
    int n = 0;

    for (; plain[n] != NULL; n++)
        list[n] = plain[n];
    list[n++] = one;
    list[n]   = one != NULL ? two : NULL;
    list[n + 1] = NULL;
    return load(list);
}


static int
started(plugin *p)
{
    if (p == NULL)
        log_show();
    return check(p != NULL, "it starts");
}


/* What is said on stderr while what() runs. */
static const char *
stderr_of(void (*what)(void))
{
    static char text[4096];
    char path[400];
    ssize_t n;
    int fd, saved;

    snprintf(path, sizeof path, "%s/stderr", work);
    fflush(stderr);
    saved = dup(2);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || saved < 0 || dup2(fd, 2) < 0)
        die(path);
    what();
    fflush(stderr);
    dup2(saved, 2);
    n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    close(fd);
    close(saved);
    return text;
}


/* ---- tests: a server that is not recognised ------------------------------ */

static int unknown_init;


static void
init_unknown(void)
{
    plugin *p = calloc(1, sizeof *p);

    if (p == NULL || (p->dl = dlopen(so_path, RTLD_NOW)) == NULL)
        die("dlopen");
    patch_services(p->dl);
    read_description(p);
    check(p->is.type == 10 && p->is.info->version == 0x0101,
          "it is a keyring plugin");
    check(p->is.deinit == NULL && p->is.version == 0
          && p->is.status_vars == NULL && p->is.system_vars == NULL,
          "nothing but init is there");
    unknown_init = p->is.init != NULL && p->is.init(NULL) != 0;
    dlclose(p->dl);
    free(p);
}


static void
test_unknown(void)
{
    const char *const said = stderr_of(init_unknown);
    const size_t      len  = strcspn(said, "\n");

    check(unknown_init != 0, "init refuses");
    check(strstr(said, "keyring_aws: cannot start: ") == said
          && strstr(said, "MySQL") != NULL && strlen(said) == len + 1,
          "and says why, in one line: %.*s", (int)len, said);
}


/* ---- tests: before the plugin is loaded ---------------------------------- */

static void
test_unloaded(void)
{
    static const char *const names[] = { "keyring_aws_rotate_cmk",
        "keyring_aws_rotate_cms", "keyring_aws_rotate_keys" };
    session s = { 1, { NULL }, 0, 0, "" };
    udf_init init = { 0, 0, 0, NULL, 1, NULL };
    unsigned char is_null = 0, error = 0;

    current = &s;
    for (int i = 0; i < 3; i++) {
        function f = create_function(names[i]);

        check(select_function(&f, 0) == -2
              && strstr(s.message, "not loaded") != NULL,
              "%s() before the plugin: %s", names[i], s.message);
        s.error = 0;
        f.run(&init, NULL, &is_null, &error);
        check(is_null && error && s.error == 3198,
              "and if it is run all the same: NULL and %s", s.message);
        drop_function(&f);
    }
    current = NULL;
}


/* ---- tests: the description ---------------------------------------------- */

static void
test_layout(void)
{
    static const char *const variables[] = { "cmk_id", "region", "conf_file",
        "data_file", "accounts", "endpoint", "ca_file", "connect_timeout",
        "timeout", "start_seconds", "open_mode" };
    plugin *const p = load_with(NULL, NULL);
    int n = 0;

    if (!started(p))
        return;
    check(p->is.type == 10 && p->is.info->version == 0x0101,
          "a keyring plugin of interface 0x0101");
    check(strcmp(p->is.name, "keyring_aws") == 0 && p->is.license == 2
          && p->is.author != NULL && p->is.descr != NULL,
          "%s, BSD, by %s: %s", p->is.name, p->is.author, p->is.descr);
    check((p->is.flags & 4) != 0, "it allows to be loaded early");
    check(p->is.reserved == NULL && p->is.version == 0x0100, "version 1.0");
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const sys_var *const v = find_variable(p, variables[i]);
        n += v->comment != NULL && v->at != NULL;
    }
    check(n == 11 && p->is.system_vars[11] == NULL, "eleven variables");
    check(find_variable(p, "cmk_id")->flags & V_NODEFAULT,
          "keyring_aws_cmk_id has no DEFAULT");
    check((find_variable(p, "accounts")->flags & V_READONLY)
          && (find_variable(p, "accounts")->flags & V_NOPERSIST),
          "keyring_aws_accounts is set by my.cnf alone");
    check(find_variable(p, "open_mode")->flags & V_INVISIBLE,
          "keyring_aws_open_mode is hidden");
    check(strcmp(read_text(p, "region"), "us-east-1") == 0,
          "keyring_aws_region is us-east-1 by default");
    unload(p);
}


/* ---- tests: how it starts, and how it does not --------------------------- */

/* Starts with that setting must fail with one error line that has the words. */
static void
refused(const char *setting, const char *what, const char *words)
{
    plugin *p;

    log_forget();
    p = load_with(setting, NULL);
    if (!check(p == NULL && logged(0, "", "") == 1 && logged(0, words, "") == 1,
               "does not start: %s", what))
        log_show();
    unload(p);
}


static void
test_bad_conf(void)
{
    static const struct { const char *name, *text; } bad[] = {
        { "empty", "" }, { "one_line", "AKIDEXAMPLE\n" },
        { "no_secret", "AKIDEXAMPLE\n\n" },
        { "four_lines", "AKIDEXAMPLE\na-secret\na-token\nmore\n" }
    };
    char path[400], setting[512];

    snprintf(setting, sizeof setting, "conf_file=%s/nowhere", work);
    refused(setting, "no conf file", "nowhere");
    refused("conf_file=", "an empty name of it", "keyring_aws_conf_file");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(path, sizeof path, "%s/%s", work, bad[i].name);
        write_file(path, bad[i].text);
        snprintf(setting, sizeof setting, "conf_file=%s", path);
        refused(setting, bad[i].name, bad[i].name);
        check(logged(-1, "a-secret", "") == 0, "no line shows the secret");
    }
    snprintf(path, sizeof path, "%s/wrong", work);
    write_file(path, "AKIDEXAMPLE\nanother-secret/for-tests-only+0123456\n");
    snprintf(setting, sizeof setting, "conf_file=%s", path);
    refused(setting, "a wrong secret", "InvalidSignatureException");
    write_file(path, "AKIDNOBODY\nanother-secret/for-tests-only+0123456\n");
    refused(setting, "unknown credentials", "UnrecognizedClientException");
}


static void
test_bad_data(void)
{
    char path[400], setting[512];

    snprintf(path, sizeof path, "%s/zero", work);
    write_file(path, "");
    snprintf(setting, sizeof setting, "data_file=%s", path);
    refused(setting, "a data file of 0 bytes", "zero");
    snprintf(path, sizeof path, "%s/garbage", work);
    write_file(path, "this is no keyring, and longer than any header would be:"
               " .........................................................."
               " ..........................................................");
    snprintf(setting, sizeof setting, "data_file=%s", path);
    refused(setting, "a data file that is none", "garbage");
    refused("data_file=/dev/null/folder/data", "a folder that cannot be made",
            "/dev/null");
    refused("data_file=", "an empty name of the data file",
            "keyring_aws_data_file");
    refused("data_file=/dev/null/\n[ERROR] x\x1b[31m/data",
            "a folder of odd bytes", "/dev/null/\\x0a[ERROR] x\\x1b[31m");
    check(logged(-1, "\n", "") == 0 && logged(-1, "\x1b", "") == 0,
          "and no odd byte in the log");
    refused("endpoint=http://svc:Pa#ss@host/", "a password in the endpoint",
            "'http://***@host/'");
}


static void
test_bad_key(void)
{
    char setting[700], long_id[600];

    refused("cmk_id=alias/nobody", "an unknown alias", "alias/nobody");
    refused("cmk_id=99999999-2222-3333-4444-555555555555", "an unknown key id",
            "NotFoundException");
    refused("region=mars", "an impossible region", "mars");
    memset(long_id, 'a', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = '\0';
    snprintf(setting, sizeof setting, "cmk_id=%s", long_id);
    refused(setting, "a KMS key id of 599 bytes", "too long");
    control("{\"do\": \"set_key\", \"arn\": \"%s\", \"state\": \"Disabled\"}",
            key_1);
    refused(NULL, "a disabled KMS key", "DisabledException");
    control("{\"do\": \"set_key\", \"arn\": \"%s\", \"state\": \"Enabled\"}",
            key_1);
}


static void
test_kms_troubles(void)
{
    static const char *const faults[] = {
        "\"what\": \"throttle\"", "\"what\": \"reply\", \"body\": \"html\"",
        "\"what\": \"error\", \"type\": \"KMSInternalException\"",
        "\"what\": \"black_hole\""
    };
    plugin *p;

    for (int i = -1; i < 4; i++) {
        const char *const what = i < 0 ? "KMS refuses connections" : faults[i];

        log_forget();
        control(i < 0 ? "{\"do\": \"stop\"}"
                      : "{\"do\": \"fault\", \"action\": \"*\", \"times\": 0, "
                        "%s}", what);
        p = load_with("timeout=700", "connect_timeout=300");
        if (!check(p != NULL && logged(0, "", "") == 0 && logged(1, "", "") > 0,
                   "starts with a warning: %s", what))
            log_show();
        control(i < 0 ? "{\"do\": \"start\"}" : "{\"do\": \"clear_faults\"}");
        if (p != NULL) {
            check(!generate("once_back", "AES", NULL, 32)
                  && fetches("once_back", NULL, "AES", 32)
                  && !remove_key("once_back", NULL),
                  "and works when KMS is back");
            unload(p);
        }
    }
}


static void
test_start(void)
{
    const long before = blocks_alive;

    fresh_data("start");
    test_bad_conf();
    test_bad_data();
    test_bad_key();
    test_kms_troubles();
    check(blocks_alive == before, "all of the server's memory came back");
}


/* ---- tests: a server that is still starting ------------------------------ */

/* As a connection's thread, which KMS is not away for. */
static void *
fetch_in_session(void *id)
{
    session s = { 0, { NULL }, 0, 0, "" };

    current = &s;
    return fetches(id, NULL, "AES", 32) ? NULL : id;
}


/* KMS, which is away, comes back after 1 s. */
static void *
kms_returns(void *unused)
{
    nap_ms(1000);
    control("{\"do\": \"start\"}");
    return unused;
}


/* Whether the plugin starts (id NULL), or a fetch succeeds, and how long that
 * takes; with a KMS that is away, and returns or does not. */
static int64_t
without_kms(plugin **p, const char *setting, const char *id, int returns,
            int *ok)
{
    const int64_t begun = now_ms();
    pthread_t thread;
    int64_t took;

    log_forget();
    control("{\"do\": \"stop\"}");
    if (returns)
        pthread_create(&thread, NULL, kms_returns, NULL);
    if (id == NULL)
        *p = load_with(setting, NULL);
    *ok  = id == NULL ? *p != NULL : fetches(id, NULL, "AES", 32);
    took = now_ms() - begun;
    if (returns)
        pthread_join(thread, NULL);
    else
        control("{\"do\": \"start\"}");
    return took;
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
    pthread_t thread;
    int64_t took;
    void *bad;
    int ok;

    check(!generate("wanted", "AES", NULL, 32), "a key, as it starts");
    took = without_kms(&p, NULL, "wanted", 1, &ok);
    check(ok && took >= 900 && logged(0, "", "") == 0
          && logged(1, "waits for KMS", "") == 0,
          "a fetch waits, too, and it was said before: %d ms", (int)took);
    raise(SIGTERM);                     /* blocked, as in a server           */
    took = without_kms(&p, NULL, "wanted", 0, &ok);
    check(!ok && took < 900
          && logged(0, "start the server again", "set innodb_force_recovery")
             == 1, "not if it is to end, but it says what to do: %d ms",
          (int)took);
    sigwait(ending, &ok);
    set_started(1);
    pthread_create(&thread, NULL, fetch_in_session, "wanted");
    pthread_join(thread, &bad);
    check(bad == NULL, "a session fetches");
    took = without_kms(&p, NULL, "wanted", 0, &ok);
    check(!ok && took < 900 && logged(0, "", "") == 1
          && logged(0, "cannot fetch", "") == 1,
          "a server that is up does not wait: %d ms", (int)took);
}


static void
test_starting(void)
{
    sigset_t ending, before;
    plugin *p = NULL;
    int64_t took;
    int ok;

    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ending, &before);
    fresh_data("starting");
    set_started(0);
    took = without_kms(&p, "start_seconds=60", NULL, 1, &ok);
    if (!check(ok && took >= 900 && took < 9000 && logged(0, "", "") == 0
               && logged(1, "waits for KMS", "up to 60 s") == 1
               && logged(1, "starting without KMS", "") == 0,
               "it starts when KMS comes back: %d ms", (int)took))
        log_show();
    if (p != NULL)
        test_patience(p, &ending);
    unload(p);

    set_started(0);
    took = without_kms(&p, "start_seconds=1", NULL, 0, &ok);
    check(ok && took >= 1000 && took < 3000
          && logged(1, "starting without KMS", "innodb_force_recovery") == 1,
          "or without KMS, in the end: %d ms", (int)took);
    took = without_kms(&p, NULL, "wanted", 0, &ok);
    took += without_kms(&p, NULL, "wanted", 0, &ok);
    check(!ok && took < 900, "its time is spent: %d ms for two", (int)took);
    unload(p);
    set_started(1);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}


/* ---- tests: keys --------------------------------------------------------- */

static void
test_generate_and_store(void)
{
    static unsigned char bytes[4097];
    fetched first, again;

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 7);
    check(!generate("g32", "AES", NULL, 32) && fetches("g32", NULL, "AES", 32),
          "generate and fetch AES, 32 bytes");
    first = fetch("g32", NULL);
    again = fetch("g32", NULL);
    check(memcmp(first.bytes, again.bytes, 32) == 0, "twice the same bytes");
    check(!generate("g16", "aes", NULL, 16) && fetches("g16", NULL, "AES", 16),
          "a type in lower case is kept in upper case");
    check(!generate("gs", "Secret", NULL, 1024)
          && fetches("gs", NULL, "SECRET", 1024), "generate SECRET, 1024");
    check(!generate("gr", "RSA", NULL, 77) && fetches("gr", NULL, "RSA", 77)
          && !generate("gd", "DSA", NULL, 1) && fetches("gd", NULL, "DSA", 1),
          "generate RSA and DSA");
    check(!store("s16", "AES", NULL, bytes, 16)
          && memcmp(fetch("s16", NULL).bytes, bytes, 16) == 0,
          "store and fetch AES, 16 bytes, zero bytes among them");
    check(!store("s4096", "SECRET", NULL, bytes, 4096)
          && fetches("s4096", NULL, "SECRET", 4096)
          && memcmp(fetch("s4096", NULL).bytes, bytes, 4096) == 0,
          "store and fetch 4096 bytes");
    check(!store("s1", "SECRET", NULL, bytes, 1)
          && fetches("s1", NULL, "SECRET", 1), "store and fetch one byte");
    log_forget();
    check(generate("g32", "AES", NULL, 32) && store("g32", "AES", "", bytes, 32)
          && logged(-1, "g32", "") == 2, "an existing name is refused");
    again = fetch("g32", NULL);
    check(memcmp(first.bytes, again.bytes, 32) == 0, "and its key not changed");
}


static void
test_refusals(void)
{
    static const struct {
        const char *type;
        size_t      len;
        int         stores;             /* store would take it               */
    } bad[] = {
        { "AES", 17, 0 }, { "AES", 0, 0 }, { "AES", 64, 0 }, { "", 32, 0 },
        { "AESX", 32, 0 }, { "AE", 32, 0 }, { "HMAC\n", 32, 0 },
        { NULL, 32, 0 }, { "SECRET", 0, 0 }, { "SECRET", 1025, 1 },
        { "SECRET", 4097, 0 }, { "SECRET", (size_t)-5, 0 }, { "RSA", 5000, 0 }
    };
    static unsigned char bytes[4097];
    int lines = 0;

    log_forget();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check(generate("bad", bad[i].type, NULL, bad[i].len)
              && (bad[i].stores
                  || store("bad", bad[i].type, NULL, bytes, bad[i].len)),
              "refused: %.3s, %zu bytes", bad[i].type ? bad[i].type : "no type",
              bad[i].len);
        lines += bad[i].stores ? 1 : 2;
    }
    check(logged(0, "bad", "") == lines, "each with one line in the log");
    check(absent("bad", NULL), "and nothing was stored");
}


static void
test_names(void)
{
    char id_255[257], user_255[257];
    const char *odd = "odd '\"\\ %00 \x01 \r\n%s\t \xff\xfe \xc3\xa4";
    int seen;

    memset(id_255, 'i', 256);
    memset(user_255, 'u', 256);
    id_255[255] = user_255[255] = id_255[256] = user_255[256] = '\0';
    check(!generate("who", "AES", NULL, 16) && fetches("who", "", "AES", 16)
          && generate("who", "AES", "", 16),
          "no user and an empty one are one");
    check(!generate("who", "AES", "u@h", 24)
          && fetches("who", "u@h", "AES", 24) && fetches("who", NULL, "AES", 16)
          && !generate("whou", "AES", "@h", 32),
          "another user is another name");
    check(!generate(id_255, "AES", "x", 16) && fetches(id_255, "x", "AES", 16),
          "a key id of 255 bytes");
    check(!generate("long user", "AES", user_255, 16)
          && fetches("long user", user_255, "AES", 16),
          "a user id of 255 bytes");
    log_forget();
    check(!generate(odd, "AES", odd, 16) && fetches(odd, odd, "AES", 16)
          && generate(odd, "AES", odd, 16) && generate(odd, "X", odd, 16)
          && logged(-1, "\n", "") == 0 && logged(-1, "\x01", "") == 0
          && logged(0, "'odd \\x27\"\\x5c %00 \\x01 \\x0d\\x0a%s\\x09 ",
                    " \\xff\\xfe \\xc3\\xa4'") == 1,
          "a name of odd bytes, and no odd byte in the log");
    id_255[255] = 'i';
    check(generate(id_255, "AES", NULL, 16) && generate("", "AES", NULL, 16)
          && generate(NULL, "AES", NULL, 16)
          && store(NULL, "AES", NULL, "0123456789abcdef", 16)
          && store("no key", "AES", NULL, NULL, 16) && remove_key(NULL, NULL)
          && fetch(NULL, NULL).failure,
          "no key id, an empty one, one of 256 bytes, no key: refused");
    id_255[255] = '\0';
    log_forget();
    if (IS_57)
        check(walk(96, "long user", user_255, &seen) > 10 && seen == 0
              && logged(0, "long user", "left out") == 1,
              "a walk leaves out a user id that 96 bytes cannot hold");
    else
        check(walk(256, "long user", user_255, &seen) > 10 && seen == 1,
              "a walk hands out a user id of 255 bytes");
    check(!remove_key("long user", user_255), "it can be removed");
}


static void
test_walk(void)
{
    plugin *const p = hold();
    char  id[1025], user[1025];
    void *it = NULL;
    int   seen, before, n = 0;

    before = walk(IS_57 ? 96 : 256, "who", "u@h", &seen);
    check(seen == 1, "a walk finds (who, u@h) once among %d", before);
    walk(IS_57 ? 96 : 256, "who", "", &seen);
    check(seen == 1, "and (who, no user) once");
    p->is.info->walk_begin(&it);
    check(!remove_key("who", "u@h") && !generate("later", "AES", NULL, 16),
          "changes while a walk is under way");
    while (p->is.info->walk_next(it, id, user) == 0)
        n++;
    check(n == before && p->is.info->walk_next(it, id, user) != 0
          && p->is.info->walk_next(it, id, user) != 0,
          "it shows what was there when it began");
    p->is.info->walk_end(it);
    p->is.info->walk_end(NULL);
    check(p->is.info->walk_next(NULL, id, user) != 0, "no walk, no name");
    let_go();
}


static void
test_remove(void)
{
    log_forget();
    check(!remove_key("g16", NULL) && absent("g16", NULL)
          && remove_key("g16", NULL) && logged(-1, "g16", "") == 1,
          "remove, and remove what is not there");
    check(!generate("g16", "AES", NULL, 32) && fetches("g16", NULL, "AES", 32),
          "the name can be used again");
    log_forget();
    check(absent("dummy_daemon_proxy_keyring_id", NULL)
          && logged(-1, "", "") == 0,
          "fetching what is not there is no failure, and no line");
}


static void
test_walk_outlives(plugin *p)
{
    char  id[1025], user[1025];
    void *it = NULL;
    int   n = 0;

    p->is.info->walk_begin(&it);
    unload(p);
    p = load_with(NULL, NULL);
    if (!started(p))
        return;
    while (p->is.info->walk_next(it, id, user) == 0)
        n++;
    p->is.info->walk_end(it);
    check(n > 10, "a walk survives UNINSTALL and INSTALL: %d names", n);
    check(fetches("g32", NULL, "AES", 32) && fetches("who", NULL, "AES", 16),
          "and so do the keys");
    unload(p);
}


static void
test_keys(void)
{
    long before = blocks_alive;
    plugin *p;

    fresh_data("keys");
    p = load_with(NULL, NULL);
    if (!started(p))
        return;
    test_generate_and_store();
    test_refusals();
    test_names();
    test_walk();
    test_remove();
    test_walk_outlives(p);
    check(blocks_alive == before, "all of the server's memory came back");
}


/* The server's migration mode. */
static void
test_migration(void)
{
    struct stat a, b;
    plugin *p;
    char user_200[201];
    int seen;

    fresh_data("migration");
    memset(user_200, 'u', 200);
    user_200[200] = '\0';
    p = load_with(NULL, NULL);
    check(p != NULL && !generate("m1", "AES", NULL, 32)
          && !generate("m2", "AES", user_200, 32), "two keys to migrate");
    unload(p);
    stat(data_path(), &a);
    p = load_with("open_mode=1", NULL);
    log_forget();
    check(p != NULL && fetches("m1", NULL, "AES", 32)
          && walk(96, "m1", "", &seen) == 1 && seen == 1
          && logged(0, "m2", "left out") == 1,
          "open_mode=1: a user id of 200 bytes is left out of the walk");
    check(generate("m3", "AES", NULL, 32) && remove_key("m1", NULL)
          && store("m3", "AES", NULL, user_200, 16), "nothing can be changed");
    unload(p);
    stat(data_path(), &b);
    check(a.st_ino == b.st_ino && a.st_size == b.st_size
          && a.st_mtim.tv_sec == b.st_mtim.tv_sec
          && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec, "nor was it");
    fresh_data("migration_none");
    log_forget();
    p = load_with("open_mode=1", NULL);
    check(stat(data_path(), &b) != 0, "open_mode=1 makes no data file");
    unload(p);
}


/* ---- tests: SET GLOBAL --------------------------------------------------- */

static void
key_state(const char *arn, const char *state)
{
    control("{\"do\": \"set_key\", \"arn\": \"%s\", \"state\": \"%s\"}", arn,
            state);
}


static void
set_fails(plugin *p, const char *name, const char *text, const char *why)
{
    char before[600];

    snprintf(before, sizeof before, "%s", read_text(p, name));
    check(set_one(p, name, text) != 0 && current->error == 1231
          && strstr(current->message, why) != NULL
          && strcmp(read_text(p, name), before) == 0,
          "SET %s to %.40s fails, nothing changes: %s", name,
          text != NULL ? text : "NULL", current->message);
}


static void
test_set_cmk_id(plugin *p)
{
    const assignment two[] = { { "cmk_id", key_3, strlen(key_3) },
                               { "region", "mars", 4 } };
    char too_long[700];

    memset(too_long, 'x', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    set_fails(p, "cmk_id", "alias/nobody", "NotFoundException");
    set_fails(p, "cmk_id", key_foreign, "account");
    set_fails(p, "cmk_id", NULL, "value");
    set_fails(p, "cmk_id", "", "value");
    set_fails(p, "cmk_id", too_long, "long");
    snprintf(too_long, sizeof too_long, "%s%cx", key_3, '\0');
    check(set_global(p, FOR_GOOD, &(assignment){ "cmk_id", too_long,
                                                 strlen(key_3) + 2 }, 1) != 0,
          "a zero byte in it is refused");
    check(!generate("by_1", "AES", NULL, 32), "the old KMS key still seals");

    check(set_global(p, ONLY_CHECKED, two, 1) == 0
          && set_global(p, FOR_GOOD, two, 2) != 0, "checked, but not set");
    key_state(key_3, "Disabled");
    check(!generate("still_1", "AES", NULL, 32), "does not change the KMS key");
    key_state(key_3, "Enabled");

    check(set_one(p, "cmk_id", key_2) == 0
          && strcmp(read_text(p, "cmk_id"), key_2) == 0,
          "SET cmk_id to a KMS key of another region");
    key_state(key_1, "Disabled");
    check(!generate("by_2", "AES", NULL, 32)
          && fetches("by_2", NULL, "AES", 32), "which seals from then on");
    key_state(key_1, "Enabled");
    check(fetches("by_1", NULL, "AES", 32), "and the old key still opens");
}


static void
test_set_region(plugin *p)
{
    const assignment west = { "region", "us-west-2", 9 };

    set_fails(p, "region", "mars", "region");
    set_fails(p, "region", "", "value");
    check(set_one(p, "cmk_id", "alias/two") == 0
          && set_global(p, ONLY_CHECKED, &west, 1) == 0,
          "checked, but not set");
    key_state(key_2, "Disabled");
    check(!generate("still_east", "AES", NULL, 32), "does not change region");
    key_state(key_2, "Enabled");
    check(set_one(p, "region", "us-west-2") == 0
          && strcmp(read_text(p, "region"), "us-west-2") == 0,
          "SET region takes an alias there");
    key_state(key_3, "Disabled");
    check(!generate("by_alias", "AES", NULL, 32),
          "and the KMS key it has there seals");
    key_state(key_3, "Enabled");
    set_fails(p, "region", "eu-central-1", "NotFoundException");
    set_fails(p, "cmk_id", "alias/keyring", "NotFoundException");
    check(fetches("by_1", NULL, "AES", 32) && fetches("by_2", NULL, "AES", 32)
          && fetches("by_alias", NULL, "AES", 32), "all keys still fetch");
}


/* KMS key and region in one statement; region and alias are us-west-2's. */
static void
test_set_both(plugin *p)
{
    const assignment east[] = { { "region", "us-east-1", 9 },
                                { "cmk_id", "alias/keyring", 13 },
                                { "region", "us-west-2", 9 } };
    const assignment west[] = { { "cmk_id", "alias/keyring", 13 },
                                { "cmk_id", "alias/two", 9 },
                                { "region", "us-west-2", 9 } };
    session *const s = current;
    session  other = { 0, { NULL }, 0, 0, "" };
    save_room save;

    check(set_global(p, FOR_GOOD, east, 3) != 0 && s->error == 1231
          && strstr(s->message, "NotFoundException") != NULL,
          "a variable set twice: what it is in the end is judged: %s",
          s->message);
    check(!strcmp(read_text(p, "region"), "us-west-2")
          && !generate("by_two", "AES", NULL, 32), "and nothing changes");

    snprintf(query, sizeof query, "SET one");
    must(check_one(p, &east[0], &save) == 0, "the region is checked");
    current = &other;
    snprintf(query, sizeof query, "SET other");
    must(check_one(p, &west[1], &save) == 0, "another session checks, too");
    current = s;
    snprintf(query, sizeof query, "SET one");
    check(check_one(p, &east[1], &save) == 0,
          "what another session checks meanwhile does not count");
    end_statement(&other);

    check(set_global(p, HALFWAY, east, 2) == 0, "the first of two updates");
    save.number = 10000;
    update_one(p, &(assignment){ "timeout", "10000", 5 }, &save);
    key_state(key_3, "Disabled");
    check(!generate("halfway", "AES", NULL, 32), "counts for both");
    key_state(key_3, "Enabled");
    check(set_global(p, FOR_GOOD, east, 2) == 0
          && set_global(p, FOR_GOOD, west, 3) == 0, "there and back");
    key_state(key_3, "Disabled");
    check(!generate("back", "AES", NULL, 32), "and it seals again");
    key_state(key_3, "Enabled");
}


static void
test_set_timeouts(plugin *p)
{
    int64_t took;
    int failure;

    check(set_one(p, "timeout", "400") == 0
          && set_one(p, "connect_timeout", "300") == 0
          && *(int *)find_variable(p, "timeout")->at == 400, "SET timeout");
    control("{\"do\": \"fault\", \"action\": \"Decrypt\", \"times\": 0, "
            "\"what\": \"black_hole\"}");
    took    = -now_ms();
    failure = fetch("by_1", NULL).failure;
    took   += now_ms();
    check(failure && took > 300 && took < 3000,
          "KMS is silent: a fetch gives up after %d ms", (int)took);
    control("{\"do\": \"clear_faults\"}");
    set_one(p, "timeout", "10000");
    set_one(p, "connect_timeout", "1000");
    check(fetches("by_1", NULL, "AES", 32), "and works afterwards");
}


static void
test_set_without_kms(plugin *p)
{
    set_one(p, "timeout", "500");
    control("{\"do\": \"stop\"}");
    set_fails(p, "cmk_id", key_1, "");
    control("{\"do\": \"start\"}");
    check(set_one(p, "cmk_id", key_1) == 0, "but works when KMS is back");
    control("{\"do\": \"stop\"}");
    check(generate("down", "AES", NULL, 32), "SET, then KMS goes: no generate");
    control("{\"do\": \"start\"}");
    set_one(p, "timeout", "10000");
    check(!generate("down", "AES", NULL, 32), "and comes: the new key seals");
}


/* The manual's own procedure: start without, set it later. */
static void
test_no_cmk_id(void)
{
    session *const s = current;
    function f;
    plugin *p;
    int seen;

    log_forget();
    p = load_with("cmk_id=", NULL);
    if (!started(p))
        return;
    check(logged(1, "keyring_aws_cmk_id", "") == 1,
          "starts without a cmk_id, with a warning");
    check(fetches("by_1", NULL, "AES", 32) && fetches("by_2", NULL, "AES", 32)
          && walk(1025, "by_1", "", &seen) > 2 && seen == 1,
          "keys are fetched and listed");
    log_forget();
    check(generate("new", "AES", NULL, 32)
          && store("new", "AES", NULL, "0123456789abcdef", 16)
          && logged(0, "keyring_aws_cmk_id has to be set", "") == 2,
          "generate and store say: keyring_aws_cmk_id has to be set");
    f = create_function("keyring_aws_rotate_keys");
    check(select_function(&f, 0) == -1 && s->error == 3198
          && strstr(s->message, "keyring_aws_cmk_id has to be set") != NULL,
          "so do the functions: %s", s->message);
    set_fails(p, "cmk_id", key_foreign, "");
    check(set_one(p, "cmk_id", key_2) == 0 && !generate("new", "AES", NULL, 32)
          && fetches("new", NULL, "AES", 32) && select_function(&f, 0) == 1,
          "after SET all of it works");
    drop_function(&f);
    unload(p);
}


static void
test_settings(void)
{
    session s = { 1, { NULL }, 0, 0, "" };
    const long before = blocks_alive;
    plugin *p;

    fresh_data("settings");
    current = &s;
    p = load_with(NULL, NULL);
    if (started(p)) {
        test_set_cmk_id(p);
        test_set_region(p);
        test_set_both(p);
        test_set_timeouts(p);
        test_set_without_kms(p);
        unload(p);
        test_no_cmk_id();
    }
    end_statement(&s);
    current = NULL;
    check(blocks_alive == before, "all of the server's memory came back");
}


/* ---- tests: SQL functions ------------------------------------------------ */

static void
test_privilege(const function *f, session *s)
{
    const session before = *s;

    s->super = 0;
    check(select_function(f, 0) == -2 && strstr(s->message, "SUPER") != NULL,
          "without SUPER: %s", s->message);
    s->super = 1;
    check(select_function(f, 1) == -2 && strstr(s->message, "argument") != NULL,
          "with an argument: %s", s->message);
    current = NULL;
    check(select_function(f, 0) == -2, "without a session");
    current = s;
    s->super = before.super;
}


/* Prepared with SUPER, run without. */
static void
test_revoked(const function *f, session *s)
{
    udf_init init = { 0, 0, 0, NULL, 1, NULL };
    udf_args args = { 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL };
    unsigned char is_null = 0, error = 0;

    end_statement(s);
    check(f->begin(&init, &args, s->message) == 0, "prepared with SUPER");
    s->super = 0;
    f->run(&init, &args, &is_null, &error);
    check(is_null && error && s->error == 3198
          && strstr(s->message, "SUPER") != NULL, "run without: %s",
          s->message);
    s->super = 1;
    f->end(&init);
}


typedef struct {                        /* a place where a function stands   */
    const function *f;
    udf_init init;
} place;


static int
open_place(place *p, const function *f)
{
    udf_args args = { 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL };

    p->f = f;
    memset(&p->init, 0xa5, sizeof p->init);         /* the stack, as found   */
    return f->begin(&p->init, &args, current->message) == 0;
}


/* 1, or -1 for NULL and an error. */
static int
run_place(place *p)
{
    unsigned char is_null = 0, error = 0;
    long long     result;

    end_statement(current);
    result = p->f->run(&p->init, NULL, &is_null, &error);
    return is_null && error && current->error == 3198 ? -1 : (int)result;
}


static int
rotations(void)
{
    return (int)strtol(control("{\"do\": \"count\", \"action\":"
                               " \"RotateKeyOnDemand\"}"), NULL, 10);
}


/* What a statement's first call came to is what all its calls answer, at all
 * places of the function, by either of its names. */
static void
test_once(const function *cmk, const function *cms, session *s)
{
    session other = { 1, { NULL }, 0, 0, "" };
    const int before = rotations();
    place one, two, theirs;

    check(open_place(&one, cmk) && open_place(&two, cms)
          && run_place(&two) == 1 && run_place(&one) == 1
          && run_place(&one) == 1 && rotations() == before + 1,
          "a statement with two places, run three times, rotates once");
    current = &other;
    check(open_place(&theirs, cmk) && run_place(&theirs) == 1
          && rotations() == before + 2, "another session has its own");
    cmk->end(&theirs.init);
    current = s;
    cms->end(&two.init);
    check(run_place(&one) == 1 && rotations() == before + 2,
          "one place is closed, the other keeps it");
    cmk->end(&one.init);
    check(open_place(&one, cmk) && run_place(&one) == 1
          && rotations() == before + 3, "the next statement rotates");
    cmk->end(&one.init);
    check(open_place(&one, cmk), "a place that is never run");
    cmk->end(&one.init);

    control("{\"do\": \"fault\", \"action\": \"RotateKeyOnDemand\","
            " \"what\": \"error\", \"type\": \"AccessDeniedException\"}");
    log_forget();
    check(open_place(&one, cmk) && run_place(&one) == -1
          && strstr(s->message, "AccessDenied") != NULL
          && run_place(&one) == -1
          && strstr(s->message, "AccessDenied") != NULL
          && rotations() == before + 4 && logged(0, "AccessDenied", "") == 1,
          "an error is kept, too: %s", s->message);
    cmk->end(&one.init);
    is_replica = 1;
    check(select_function(cmk, 0) == 1 && rotations() == before + 4,
          "a replica that applies a statement does not repeat the work");
    is_replica = 0;
    __atomic_store_n(&operations_off, 1, __ATOMIC_RELAXED);
    check(select_function(cmk, 0) == -1 && rotations() == before + 4
          && strstr(s->message, "keyring_operations is OFF") != NULL,
          "keyring_operations=OFF: %s", s->message);
    __atomic_store_n(&operations_off, 0, __ATOMIC_RELAXED);
    check(select_function(cmk, 0) == 1, "and ON: it rotates");
}


typedef struct { const function *f; long long result; session s; } runner;


static void *
run_function(void *arg)
{
    runner *const r = arg;

    memset(&r->s, 0, sizeof r->s);
    r->s.super = 1;
    current = &r->s;
    r->result = select_function(r->f, 0);
    end_statement(current);
    return NULL;
}


/* While one re-wrap runs: progress, a second one, UNINSTALL and INSTALL. */
static void
test_running(plugin **p, const function *keys)
{
    runner r = { keys, 0, { 0, { NULL }, 0, 0, "" } };
    session *const s = current;
    pthread_t thread;
    uint64_t done, n, total = 0, last = 0;
    int steps = 0, went_back = 0;
    char id[32];

    for (int i = 0; i < 60; i++) {
        snprintf(id, sizeof id, "many-%d", i);
        must(!generate(id, "AES", NULL, 32), "a key to re-wrap");
    }
    control("{\"do\": \"set\", \"latency_ms\": 150}");
    pthread_create(&thread, NULL, run_function, &r);
    nap_ms(100);
    check(select_function(keys, 0) == -1 && s->error == 3198
          && strstr(s->message, "already running") != NULL,
          "a second one: %s", s->message);
    for (int i = 0; i < 100; i++, nap_ms(10)) {
        done = status_value(*p, "Keyring_aws_rewrap_done");
        n    = status_value(*p, "Keyring_aws_rewrap_total");
        if (n == 0 && total > 0)
            break;                      /* 0 of 0: none is running           */
        total      = n;
        steps     += done > last && done < total;
        went_back += done < last;
        last       = done;
    }
    check(total >= 60 && steps >= 2 && went_back == 0,
          "the status variables show its progress, %d steps of %d", steps,
          (int)total);
    pthread_join(thread, NULL);
    check(r.result == 1, "it ends well");

    pthread_create(&thread, NULL, run_function, &r);
    nap_ms(100);
    unload(*p);
    pthread_join(thread, NULL);
    check(r.result == 1, "it survives UNINSTALL");
    *p = load_with(NULL, NULL);
    pthread_create(&thread, NULL, run_function, &r);
    nap_ms(100);
    unload(*p);
    *p = load_with(NULL, NULL);
    pthread_join(thread, NULL);
    control("{\"do\": \"set\", \"latency_ms\": 0}");
    check(*p != NULL && r.result == 1, "and UNINSTALL and INSTALL");
    check(fetches("many-7", NULL, "AES", 32)
          && !generate("after", "AES", NULL, 32), "after which all works");
}


static void
test_functions(void)
{
    session s = { 1, { NULL }, 0, 0, "" };
    function cmk, cms, keys;
    plugin *p;

    fresh_data("functions");
    current = &s;
    cmk  = create_function("keyring_aws_rotate_cmk");   /* before the plugin */
    p    = load_with(NULL, NULL);
    cms  = create_function("keyring_aws_rotate_cms");
    keys = create_function("keyring_aws_rotate_keys");
    if (!started(p) || !must(!generate("one", "AES", NULL, 32), "a key"))
        return;
    test_privilege(&cmk, &s);
    test_privilege(&keys, &s);
    test_revoked(&keys, &s);
    check(select_function(&cmk, 0) == 1, "rotate_cmk() is 1");
    check(select_function(&cms, 0) == 1, "rotate_cms() is 1");
    test_once(&cmk, &cms, &s);
    check(select_function(&keys, 0) == 1 && fetches("one", NULL, "AES", 32),
          "rotate_keys() is 1, and keys fetch");
    check(set_one(p, "cmk_id", key_2) == 0 && select_function(&keys, 0) == 1,
          "rotate_keys() after SET cmk_id");
    key_state(key_1, "Disabled");
    check(fetches("one", NULL, "AES", 32), "the old KMS key is not needed now");
    key_state(key_1, "Enabled");
    control("{\"do\": \"fault\", \"action\": \"*\", \"times\": 0, \"what\": "
            "\"error\", \"type\": \"AccessDeniedException\"}");
    log_forget();
    check(select_function(&keys, 0) == -1 && s.error == 3198
          && strncmp(s.message, "Function keyring_aws_rotate_keys failed due"
                     " to: ", 48) == 0 && logged(0, "AccessDenied", "") == 1,
          "KMS denies it: %s", s.message);
    check(select_function(&cmk, 0) == -1 && s.error == 3198,
          "and the other: %s", s.message);
    control("{\"do\": \"clear_faults\"}");
    test_running(&p, &keys);
    unload(p);
    check(select_function(&cmk, 0) == -2
          && strstr(s.message, "not loaded") != NULL, "after UNINSTALL: %s",
          s.message);
    p = load_with(NULL, NULL);
    check(p != NULL && select_function(&keys, 0) == 1, "after INSTALL: 1");
    unload(p);
    drop_function(&cmk);
    drop_function(&cms);
    drop_function(&keys);
    end_statement(&s);
    current = NULL;
}


/* ---- tests: status variables --------------------------------------------- */

static void
test_status(void)
{
    plugin *p;
    uint64_t requests;
    int n = 0;

    fresh_data("status");
    p = load_with(NULL, NULL);
    if (!started(p))
        return;
    for (const show_var *v = p->is.status_vars; v->name != NULL; v++)
        n += strncmp(v->name, "Keyring_aws_", 12) == 0 && v->type == 4
          && v->scope == 1;
    check(n == 7, "seven status variables, global and of 8 bytes");
    check(status_value(p, "Keyring_aws_keys") == 0
          && status_value(p, "Keyring_aws_kms_requests") > 0,
          "the start counts");
    requests = status_value(p, "Keyring_aws_kms_requests");
    generate("a", "AES", NULL, 32);
    generate("b", "AES", NULL, 32);
    remove_key("a", NULL);
    fetch("b", NULL);
    check(status_value(p, "Keyring_aws_keys") == 1
          && status_value(p, "Keyring_aws_kms_requests") == requests + 3
          && status_value(p, "Keyring_aws_kms_errors") == 0
          && status_value(p, "Keyring_aws_kms_time") > 0, "operations count");
    control("{\"do\": \"fault\", \"action\": \"Decrypt\", \"what\": \"error\","
            " \"type\": \"KMSInternalException\"}");
    check(!fetch("b", NULL).failure
          && status_value(p, "Keyring_aws_kms_retries") == 1,
          "retries are counted");
    unload(p);
    p = load_with(NULL, NULL);
    check(p != NULL && status_value(p, "Keyring_aws_keys") == 1
          && status_value(p, "Keyring_aws_kms_retries") == 0,
          "installed again, it counts afresh");
    unload(p);
}


/* ---- tests: threads ------------------------------------------------------ */

typedef struct { int number, bad; } worker;


static void *
work_on_keys(void *arg)
{
    worker *const w = arg;
    char id[64], user[32];
    int seen;

    snprintf(user, sizeof user, "user%d@host", w->number % 3);
    for (int i = 0; i < 6; i++) {
        snprintf(id, sizeof id, "t-%d-%d", w->number, i);
        w->bad += i % 2 ? generate(id, "AES", user, 32)
                        : store(id, "AES", user, "0123456789abcdef", 16);
        w->bad += !fetches(id, user, "AES", i % 2 ? 32 : 16);
        w->bad += i < 3 && remove_key(id, user);
        w->bad += i < 3 && !absent(id, user);
        w->bad += walk(1025, "", "", &seen) < 0;
    }
    return NULL;
}


static void *
set_meanwhile(void *arg)
{
    session s = { 1, { NULL }, 0, 0, "" };
    plugin *const p = arg;
    int bad = 0;

    current = &s;
    for (int i = 0; i < 6; i++) {
        bad += set_one(p, "cmk_id", i % 2 ? key_1 : key_3);
        bad += set_one(p, "timeout", i % 2 ? "10000" : "9000");
        bad += status_value(p, "Keyring_aws_kms_requests") == 0;
        nap_ms(5);
    }
    end_statement(&s);
    current = NULL;
    return bad ? "bad" : NULL;
}


/* Every thread's last three keys must be there. */
static int
count_kept(void)
{
    char id[64], user[32];
    int kept = 0;

    for (int t = 0; t < thread_count; t++) {
        for (int i = 0; i < 6; i++) {
            snprintf(id, sizeof id, "t-%d-%d", t, i);
            snprintf(user, sizeof user, "user%d@host", t % 3);
            kept += i < 3 ? absent(id, user)
                          : fetches(id, user, "AES", i % 2 ? 32 : 16);
        }
    }
    return kept;
}


static void
test_threads(void)
{
    static pthread_t threads[MAX_THREADS];
    static worker    workers[MAX_THREADS];
    pthread_t setter;
    void *set_bad;
    plugin *p;
    int bad = 0, seen;

    fresh_data("threads");
    p = load_with(NULL, NULL);
    if (!started(p))
        return;
    pthread_create(&setter, NULL, set_meanwhile, p);
    for (int t = 0; t < thread_count; t++) {
        workers[t].number = t;
        pthread_create(&threads[t], NULL, work_on_keys, &workers[t]);
    }
    for (int t = 0; t < thread_count; t++) {
        pthread_join(threads[t], NULL);
        bad += workers[t].bad;
    }
    pthread_join(setter, &set_bad);
    if (!check(bad == 0, "%d threads at once: %d failures", thread_count, bad))
        log_show();
    check(set_bad == NULL, "SET GLOBAL meanwhile");
    check(count_kept() == thread_count * 6
          && walk(1025, "", "", &seen) == thread_count * 3
          && status_value(p, "Keyring_aws_keys")
             == (uint64_t)thread_count * 3, "nothing is lost");
    unload(p);
    p = load_with(NULL, NULL);
    check(p != NULL && count_kept() == thread_count * 6,
          "nor after INSTALL");
    unload(p);
}


/* ---- tests: UNINSTALL and INSTALL under load ----------------------------- */

static int load_stop;


static void *
load_keys(void *arg)
{
    worker *const w = arg;
    char id[64];
    int seen;

    for (int i = 0; !__atomic_load_n(&load_stop, __ATOMIC_RELAXED); i++) {
        plugin *const p = hold();

        snprintf(id, sizeof id, "r-%d-%d", w->number, i);
        if (p != NULL) {                /* it stays while we hold it         */
            w->bad += generate(id, "AES", NULL, 32);
            w->bad += !fetches(id, NULL, "AES", 32);
            w->bad += !fetches("anchor", NULL, "AES", 32);
            w->bad += walk(1025, "anchor", "", &seen) < 1 || seen != 1;
            w->bad += remove_key(id, NULL);
            let_go();
        }
        nap_ms(1);
    }
    return NULL;
}


static void *
load_functions(void *arg)
{
    session s = { 1, { NULL }, 0, 0, "" };
    function f = create_function("keyring_aws_rotate_keys");
    worker *const w = arg;

    current = &s;
    while (!__atomic_load_n(&load_stop, __ATOMIC_RELAXED)) {
        const long long result = select_function(&f, 0);

        w->number += result == 1;
        w->bad += result != 1 && strstr(s.message, "not loaded") == NULL;
        if (result != 1 && strstr(s.message, "not loaded") == NULL)
            check(0, "a function under load: %s", s.message);
        nap_ms(3);
    }
    end_statement(&s);
    drop_function(&f);
    return NULL;
}


/* with_functions: they keep the file mapped, so that the plugin lives on in the
 * same memory; without, each round maps it anew. */
static void
rounds(int count, int with_functions)
{
    enum { LOADERS = 4 };
    worker workers[LOADERS + 1];
    pthread_t threads[LOADERS + 1];
    plugin *p = load_with(NULL, NULL);
    int bad = 0;

    memset(workers, 0, sizeof workers);
    if (!started(p))
        return;
    generate("anchor", "AES", NULL, 32);
    __atomic_store_n(&load_stop, 0, __ATOMIC_RELAXED);
    for (int t = 0; t < LOADERS + with_functions; t++) {
        workers[t].number = t < LOADERS ? t : 0;
        pthread_create(&threads[t], NULL, t < LOADERS ? load_keys
                                                      : load_functions,
                       &workers[t]);
    }
    for (int i = 0; i < count && p != NULL; i++) {
        nap_ms(20);
        unload(p);
        p = load_with(NULL, NULL);
    }
    __atomic_store_n(&load_stop, 1, __ATOMIC_RELAXED);
    for (int t = 0; t < LOADERS + with_functions; t++) {
        pthread_join(threads[t], NULL);
        bad += workers[t].bad;
    }
    if (!check(p != NULL && bad == 0, "%d rounds under load%s: %d failures",
               count, with_functions ? ", functions among it" : "", bad))
        log_show();
    if (with_functions)
        check(workers[LOADERS].number > 0, "the function ran %d times",
              workers[LOADERS].number);
    if (p != NULL) {
        check(fetches("anchor", NULL, "AES", 32), "a key from the beginning");
        unload(p);
    }
}


static void
test_life(void)
{
    const long before = blocks_alive;

    fresh_data("life");
    log_forget();
    rounds(round_count, 1);
    rounds(round_count / 5 + 1, 0);
    check(blocks_alive == before, "all of the server's memory came back");
}


/* ---- main ---------------------------------------------------------------- */

static void
read_arguments(char **argv)
{
    static const struct { const char *name; const char **text; int *number; }
    known[] = {
        { "endpoint=", &endpoint, NULL }, { "ca_file=", &ca_file, NULL },
        { "only=", &only, NULL },         { "control=", NULL, &control_port },
        { "threads=", NULL, &thread_count }, { "rounds=", NULL, &round_count }
    };

    for (; *argv != NULL; argv++) {
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            const size_t len = strlen(known[i].name);
            if (strncmp(*argv, known[i].name, len) != 0)
                continue;
            if (known[i].text != NULL)
                *known[i].text = *argv + len;
            else
                *known[i].number = (int)strtol(*argv + len, NULL, 10);
        }
    }
}


#define SECTIONS(X)                                                           \
    X(unloaded) X(layout) X(start) X(starting) X(keys) X(migration)           \
    X(settings) X(functions) X(status) X(threads) X(life)

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
    read_arguments(argv + 3);
    if (thread_count > MAX_THREADS)
        thread_count = MAX_THREADS;
    if (IS_UNKNOWN) {
        test_unknown();
    } else {
        set_up();
#define X(section)                                                            \
        if (wanted(#section))                                                 \
            test_##section();
        SECTIONS(X)
#undef X
    }
    log_forget();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
