/* component_host.c - loads keyring_aws.so as servers load a keyring component
 *
 *     cc -std=c99 -rdynamic -o component_host component_host.c -ldl -lpthread
 *     cc -std=c99 -o component_host ...       (its symbols are not seen, as
 *                                             those of mysql_migrate_keyring)
 *
 * It reads commands from standard input, one a line, and answers each with a
 * line (see tests/test_component_host.py, which plays lives of servers with
 * it):
 *
 *     ID COMMAND WORD...          is done at once
 *     ID & COMMAND WORD...        is done on a thread of its own
 *     ID parent COMMAND WORD...   is done by the parent, after `fork`
 *
 *     ID RESULT WORD...           what the component returned, and gave
 *     log PRIORITY NUMBER SUBSYSTEM TEXT      a line that it logged
 *
 * In a word, %XX stands for every byte that is not printable ASCII, and for %.
 * A word that is only % is empty; one that is only ~ is NULL. What the
 * component must never do is a line on standard error. At the end of the input
 * the program ends, and takes nothing down: that is for commands.
 *
 * The layouts here were written a second time, from the facts about MySQL. They
 * share nothing with the component's.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ARGS = 16, LINE = 1 << 17, SLOTS = 8, ALL = 64 };

typedef struct job {                    /* one command                       */
    char   line[LINE];                  /* the id; the args point into it    */
    const struct command *command;
    char  *args[ARGS];                  /* NULL for ~                        */
    size_t lens[ARGS];
    size_t count;
    FILE  *out;                         /* the answer's words                */
    int    apart;
} job;

typedef struct command {
    const char *name;
    size_t      least, most;            /* number of arguments               */
    int       (*run)(job *j);
} command;

static FILE *answers;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;
static pthread_t threads[ALL];          /* that jobs have been given         */
static int thread_count;


__attribute__((format(printf, 1, 2)))
static void
complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("component_host: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}


static void
die(const char *what)
{
    complain("%s: %s", what, strerror(errno));
    _exit(2);
}


/* ---- words --------------------------------------------------------------- */

static void
put_bytes(FILE *out, const void *data, size_t len)
{
    const unsigned char *at = data;

    fputs(len == 0 ? " %" : " ", out);
    for (size_t i = 0; i < len; i++)
        if (at[i] > 0x20 && at[i] < 0x7f && at[i] != '%' && at[i] != '~')
            fputc(at[i], out);
        else
            fprintf(out, "%%%02X", at[i]);
}


static void
put_text(FILE *out, const char *text)
{
    put_bytes(out, text, strlen(text));
}


static void
put_number(FILE *out, long long number)
{
    fprintf(out, " %lld", number);
}


/* Decodes a word in its place, and ends it with a NUL; its length. */
static size_t
take_word(char *word)
{
    const char *at = word;
    size_t   len = 0;
    unsigned byte;

    while (*at != '\0')
        if (*at != '%') {
            word[len++] = *at++;
        } else if (strspn(at + 1, "0123456789ABCDEF") >= 2
                   && sscanf(at + 1, "%2x", &byte) == 1) {
            word[len++] = (char)byte;
            at += 3;
        } else {
            at++;
        }
    word[len] = '\0';
    return len;
}


static size_t
number_of(const job *j, int n)
{
    return strtoul(j->args[n], NULL, 10);
}


/* ---- the server: symbols ------------------------------------------------- */

typedef struct session {                /* a thread's                        */
    unsigned error;                     /* SQL error that was raised, or 0   */
    char     message[512];
} session;

static __thread session current;
static char who[16] = "super";          /* super, admin, nobody, or none     */
static int  killed;

char  server_version[60];               /* set after an early load           */
_Bool mysqld_server_started;

int thd_killed(const void *thd);
void *_Z19thd_get_current_thdv(void);
int _Z16thd_slave_threadPK3THD(const void *thd);
_Bool _Z19keyring_access_testv(void);
void _Z15my_printf_errorjPKciz(unsigned number, const char *format, int flags,
                               ...);
int _ZN16log_builtins_imp7messageEiz(int type, ...);


int
thd_killed(const void *thd)
{
    return thd == &current && __atomic_load_n(&killed, __ATOMIC_RELAXED);
}


void *
_Z19thd_get_current_thdv(void)
{
    return strcmp(who, "none") != 0 ? &current : NULL;
}


int
_Z16thd_slave_threadPK3THD(const void *thd)
{
    (void)thd;
    return 0;
}


_Bool
_Z19keyring_access_testv(void)
{
    return 0;
}


void
_Z15my_printf_errorjPKciz(unsigned number, const char *format, int flags, ...)
{
    va_list args;

    current.error = number;
    va_start(args, flags);
    vsnprintf(current.message, sizeof current.message, format, args);
    va_end(args);
}


/* Pairs of an item's type and its value, up to the text. */
int
_ZN16log_builtins_imp7messageEiz(int type, ...)
{
    enum { NUMBER = 1 << 1, SUBSYSTEM = 1 << 9, COMPONENT = 1 << 10,
           PRIORITY = 1 << 16, TEXT = 1 << 18 };
    long long   priority = -1, number = 0;
    const char *subsystem = "", *text = NULL;
    va_list     args;
    int         item;

    if (type != 1)
        complain("a line for log %d, which is not the error log", type);
    va_start(args, type);
    while (text == NULL)
        switch (item = va_arg(args, int)) {
        case PRIORITY:  priority  = va_arg(args, long long);    break;
        case NUMBER:    number    = va_arg(args, long long);    break;
        case SUBSYSTEM: subsystem = va_arg(args, const char *); break;
        case COMPONENT: (void)va_arg(args, const char *);       break;
        case TEXT:      text      = va_arg(args, const char *); break;
        default:
            complain("an item of a log line is of type %d", item);
            text = "";
        }
    va_end(args);
    pthread_mutex_lock(&output);
    fprintf(answers, "log %lld %lld", priority, number);
    put_text(answers, subsystem);
    put_text(answers, text);
    fputc('\n', answers);
    fflush(answers);
    pthread_mutex_unlock(&output);
    return 0;
}


/* ---- the server: services ------------------------------------------------ */

static int
get_session(void **thd)
{
    *thd = _Z19thd_get_current_thdv();
    return 0;
}


static int
get_context(void *thd, void **context)
{
    if (thd != &current)
        complain("the security context of another session is asked for");
    *context = &current;
    return 0;
}


static int
get_option(void *context, const char *name, void *value)
{
    if (context != &current || strcmp(name, "privilege_super") != 0)
        complain("option %s of a security context is asked for", name);
    *(char *)value = strcmp(who, "super") == 0;
    return 0;
}


/* A predicate: 1 is yes. */
static int
has_grant(void *context, const char *name, size_t len)
{
    static const char admin[] = "ENCRYPTION_KEY_ADMIN";

    if (context != &current || len != sizeof admin - 1
        || memcmp(name, admin, len) != 0)
        complain("the privilege %.*s is asked for", (int)len, name);
    return strcmp(who, "admin") == 0;
}


static void
emit_error(int number, int flags, va_list args)
{
    (void)flags;
    current.error = (unsigned)number;
    vsnprintf(current.message, sizeof current.message,
              number == 3198 ? "Function %s failed due to: %s." : "?", args);
}


static int
trap(void)
{
    complain("a slot of log_builtins is called, which moved in 9.x");
    return 1;
}


typedef struct { int (*get)(void **); } service_thread;
typedef struct {
    int (*get)(void *, void **);
    int (*set)(void *, void *);
} service_context;
typedef struct {
    int (*get)(void *, const char *, void *);
    int (*set)(void *, const char *, void *);
} service_options;
typedef struct { int (*has)(void *, const char *, size_t); } service_grants;
typedef struct { void (*emit)(int, int, va_list); } service_error;
typedef struct {
    int (*acquire)(const char *, void **);
    int (*acquire_related)(const char *, void *, void **);
    int (*release)(void *);
} service_registry;

static int acquire(const char *name, void **handle);
static int acquire_related(const char *name, void *of, void **handle);
static int release(void *handle);

static service_registry registry = { acquire, acquire_related, release };
static service_thread   thread_reader  = { get_session };
static service_context  thread_context = { get_context, NULL };
static service_options  options = { get_option, NULL };
static service_grants   grants  = { has_grant };
static service_error    error_service = { emit_error };
static int (*log_builtins[64])(void);

static struct {
    const char *name;
    void       *table;
    int         refs, missing;
} services[] = {
    { "registry", &registry, 0, 0 },
    { "mysql_current_thread_reader", &thread_reader, 0, 0 },
    { "mysql_thd_security_context", &thread_context, 0, 0 },
    { "mysql_security_context_options", &options, 0, 0 },
    { "global_grants_check", &grants, 0, 0 },
    { "mysql_runtime_error", &error_service, 0, 0 },
    { "log_builtins", log_builtins, 0, 0 }
};
enum { SERVICES = sizeof services / sizeof *services };


static int
acquire(const char *name, void **handle)
{
    const size_t len = strcspn(name, ".");

    *handle = NULL;
    for (int i = 0; i < SERVICES; i++)
        if (strncmp(services[i].name, name, len) == 0
            && services[i].name[len] == '\0'
            && !__atomic_load_n(&services[i].missing, __ATOMIC_RELAXED)) {
            __atomic_add_fetch(&services[i].refs, 1, __ATOMIC_RELAXED);
            *handle = services[i].table;
            return 0;
        }
    return 1;
}


static int
acquire_related(const char *name, void *of, void **handle)
{
    (void)of;
    return acquire(name, handle);
}


static int
release(void *handle)
{
    for (int i = 0; i < SERVICES; i++)
        if (services[i].table == handle) {
            if (__atomic_sub_fetch(&services[i].refs, 1, __ATOMIC_RELAXED) < 0)
                complain("%s is released too often", services[i].name);
            return 0;
        }
    complain("a handle that nobody has is released");
    return 1;
}


/* MISSING...: these cannot be acquired from now on, the others can. */
static int
run_missing(job *j)
{
    for (int i = 0; i < SERVICES; i++) {
        int missing = 0;

        for (size_t n = 0; n < j->count; n++)
            missing |= strcmp(j->args[n], services[i].name) == 0;
        __atomic_store_n(&services[i].missing, missing, __ATOMIC_RELAXED);
    }
    return 0;
}


/* Gives the name of each service that is held, and how often. */
static int
run_refs(job *j)
{
    for (int i = 0; i < SERVICES; i++) {
        const int n = __atomic_load_n(&services[i].refs, __ATOMIC_RELAXED);

        if (n != 0) {
            put_text(j->out, services[i].name);
            put_number(j->out, n);
        }
    }
    return 0;
}


/* ---- the component ------------------------------------------------------- */

typedef struct { const char *name; void *table; } provided;
typedef struct { const char *name; void **place; } required;
typedef struct { const char *key, *value; } metadata;
typedef struct {
    const char     *name;
    const provided *provides;
    const required *requires;
    const metadata *says;
    int           (*init)(void);
    int           (*deinit)(void);
} component;

typedef struct { int (*load)(const char *, const char *); } service_load;
typedef struct { int (*is_initialized)(void); } service_status;
typedef struct {                        /* of keys, and of metadata          */
    int (*init)(void **);
    int (*deinit)(void *);
    int (*is_valid)(void *);
    int (*next)(void *);
    int (*get_length)(void *, size_t *, size_t *);
    int (*get)(void *, char *, size_t, char *, size_t);
} service_walk;
typedef struct {
    int (*init)(const char *, const char *, void **);
    int (*deinit)(void *);
    int (*fetch_length)(void *, size_t *, size_t *);
    int (*fetch)(void *, unsigned char *, size_t, size_t *, char *, size_t,
                 size_t *);
} service_reader;
typedef struct {
    int (*store)(const char *, const char *, const unsigned char *, size_t,
                 const char *);
    int (*remove)(const char *, const char *);
} service_writer;
typedef struct {
    int (*generate)(const char *, const char *, const char *, size_t);
} service_generator;

static struct {
    void                    *dl;        /* NULL: not loaded                  */
    const component         *is;
    const service_load      *load;
    const service_status    *status;
    const service_walk      *keys, *says;
    const service_reader    *reader;
    const service_writer    *writer;
    const service_generator *generator;
} loaded;


static const void *
implementation(const char *service)
{
    const size_t len = strlen(service);

    for (const provided *p = loaded.is->provides; p->name != NULL; p++)
        if (strncmp(p->name, service, len) == 0
            && strcmp(p->name + len, ".component_keyring_aws") == 0)
            return p->table;
    complain("no %s.component_keyring_aws is provided", service);
    return NULL;
}


static void
find_services(void)
{
    loaded.load      = implementation("keyring_load");
    loaded.status    = implementation("keyring_component_status");
    loaded.keys      = implementation("keyring_keys_metadata_iterator");
    loaded.says      = implementation("keyring_component_metadata_query");
    loaded.reader    = implementation("keyring_reader_with_status");
    loaded.writer    = implementation("keyring_writer");
    loaded.generator = implementation("keyring_generator");
}


/* FILE: what the server does with a library of components before init. Gives
 * the component's name; NAME of each service that it provides; "requires" and
 * NAME of each that it wants; "says" and KEY VALUE of its metadata. */
static int
run_open(job *j)
{
    component *(*list)(void);
    void      *symbol;

    loaded.dl = dlopen(j->args[0], RTLD_NOW);
    if (loaded.dl == NULL
        || (symbol = dlsym(loaded.dl, "list_components")) == NULL) {
        complain("%s", dlerror());
        return 1;
    }
    memcpy(&list, &symbol, sizeof list);
    loaded.is = list();
    put_text(j->out, loaded.is->name);
    for (const provided *p = loaded.is->provides; p->name != NULL; p++)
        put_text(j->out, p->name);
    put_text(j->out, "requires");
    for (const required *r = loaded.is->requires; r->name != NULL; r++) {
        put_text(j->out, r->name);
        if (acquire(r->name, r->place) != 0)
            return 1;
    }
    put_text(j->out, "says");
    for (const metadata *m = loaded.is->says; m->key != NULL; m++) {
        put_text(j->out, m->key);
        put_text(j->out, m->value);
    }
    find_services();
    return 0;
}


static int
run_init(job *j)
{
    (void)j;
    return loaded.is->init();
}


static int
run_deinit(job *j)
{
    (void)j;
    return loaded.is->deinit();
}


/* What the server does after deinit. */
static int
run_close(job *j)
{
    (void)j;
    for (const required *r = loaded.is->requires; r->name != NULL; r++) {
        release(*r->place);
        *r->place = NULL;
    }
    dlclose(loaded.dl);
    loaded.dl = NULL;
    return 0;
}


/* COMPONENT-PATH INSTANCE-PATH, which are gone when it returns. */
static int
run_load(job *j)
{
    const int result = loaded.load->load(j->args[0], j->args[1]);

    for (size_t n = 0; n < 2; n++)
        if (j->args[n] != NULL)
            memset(j->args[n], 'x', j->lens[n]);
    return result;
}


static int
run_status(job *j)
{
    (void)j;
    return loaded.status->is_initialized();
}


/* ---- keys ---------------------------------------------------------------- */

static void *readers[SLOTS];


/* The object is NULL, unless the key is there. */
static int
init_reader(const char *id, const char *user, void **object)
{
    static char nothing;
    int result;

    *object = &nothing;
    result = loaded.reader->init(id, user, object);
    if (*object == &nothing || (result != 0 && *object != NULL)) {
        complain("reader.init returned %d and left a stray object", result);
        *object = NULL;
    }
    if (result != 0 && result != 1)
        complain("reader.init returned %d", result);
    return result;
}


/* SLOT ID USER: gives whether there is an object. */
static int
run_reader_init(job *j)
{
    void    **object = &readers[number_of(j, 0)];
    const int result = init_reader(j->args[1], j->args[2], object);

    put_number(j->out, *object != NULL);
    return result;
}


/* SLOT: gives both lengths. */
static int
run_reader_length(job *j)
{
    size_t len = 0, type_len = 0;
    const int result = loaded.reader->fetch_length(readers[number_of(j, 0)],
                                                   &len, &type_len);

    put_number(j->out, (long long)len);
    put_number(j->out, (long long)type_len);
    return result;
}


/* The object's type and data, as the server fetches them: there is room for no
 * byte more than the lengths. */
static int
fetch(void *object, size_t cap, size_t type_cap, FILE *out)
{
    unsigned char *data = malloc(cap);
    char  *type = malloc(type_cap);
    size_t len = 0, type_len = 0;
    const int result = loaded.reader->fetch(object, data, cap, &len, type,
                                            type_cap, &type_len);

    if (result == 0 && len <= cap && type_len <= type_cap) {
        put_bytes(out, type, type_len);
        put_bytes(out, data, len);
    } else if (result == 0) {
        complain("fetch gave %zu bytes for %zu", len, cap);
    }
    free(data);
    free(type);
    return result;
}


/* SLOT DATA-CAP TYPE-CAP: gives TYPE and DATA. */
static int
run_reader_fetch(job *j)
{
    return fetch(readers[number_of(j, 0)], number_of(j, 1), number_of(j, 2),
                 j->out);
}


static int
run_reader_deinit(job *j)
{
    void **object = &readers[number_of(j, 0)];
    const int result = loaded.reader->deinit(*object);

    *object = NULL;
    return result;
}


/* All of it. The answer is init's; out gets nothing, or TYPE and DATA. */
static int
read_key(const char *id, const char *user, FILE *out)
{
    size_t len, type_len;
    void  *object;
    const int result = init_reader(id, user, &object);

    if (object == NULL)
        return result;
    if (loaded.reader->fetch_length(object, &len, &type_len) != 0
        || fetch(object, len, type_len, out) != 0)
        complain("a key that was read cannot be fetched");
    if (loaded.reader->deinit(object) != 0)
        complain("a reader cannot be ended");
    return result;
}


static int
run_read(job *j)
{
    return read_key(j->args[0], j->args[1], j->out);
}


static int
run_store(job *j)
{
    return loaded.writer->store(j->args[0], j->args[1],
                                (const unsigned char *)j->args[3], j->lens[3],
                                j->args[2]);
}


static int
run_remove(job *j)
{
    return loaded.writer->remove(j->args[0], j->args[1]);
}


static int
run_generate(job *j)
{
    return loaded.generator->generate(j->args[0], j->args[1], j->args[2],
                                      number_of(j, 3));
}


/* ---- walks: of keys, and of metadata ------------------------------------- */

static void *walks[2];


static int
walk_of(const job *j)
{
    return strcmp(j->args[0], "keys") != 0;
}


static const service_walk *
calls_of(const job *j)
{
    return walk_of(j) ? loaded.says : loaded.keys;
}


static int
run_walk_init(job *j)
{
    return calls_of(j)->init(&walks[walk_of(j)]);
}


static int
run_walk_valid(job *j)
{
    return calls_of(j)->is_valid(walks[walk_of(j)]);
}


static int
run_walk_next(job *j)
{
    return calls_of(j)->next(walks[walk_of(j)]);
}


static int
run_walk_length(job *j)
{
    size_t lens[2] = { 0, 0 };
    const int result = calls_of(j)->get_length(walks[walk_of(j)], &lens[0],
                                               &lens[1]);

    put_number(j->out, (long long)lens[0]);
    put_number(j->out, (long long)lens[1]);
    return result;
}


/* Gives both texts, which have to end within the room for them. */
static int
get_pair(const service_walk *calls, void *walk, const size_t caps[2], FILE *out)
{
    char *texts[2] = { malloc(caps[0]), malloc(caps[1]) };
    int   result;

    for (int i = 0; i < 2; i++)
        memset(texts[i], 'x', caps[i]);
    result = calls->get(walk, texts[0], caps[0], texts[1], caps[1]);
    for (int i = 0; i < 2; i++) {
        if (result == 0 && memchr(texts[i], '\0', caps[i]) == NULL)
            complain("a text of a walk does not end in %zu bytes", caps[i]);
        else if (result == 0)
            put_text(out, texts[i]);
        free(texts[i]);
    }
    return result;
}


/* WHICH CAP CAP */
static int
run_walk_get(job *j)
{
    const size_t caps[2] = { number_of(j, 1), number_of(j, 2) };

    return get_pair(calls_of(j), walks[walk_of(j)], caps, j->out);
}


static int
run_walk_deinit(job *j)
{
    return calls_of(j)->deinit(walks[walk_of(j)]);
}


/* All of it, in buffers of just the size. The answer is init's. */
static int
walk_all(const service_walk *calls, FILE *out)
{
    size_t lens[2];
    char   room[2];
    void  *walk = NULL;
    const int result = calls->init(&walk);

    if (result != 0)
        return result;
    while (calls->is_valid(walk) == 1) {
        if (calls->get_length(walk, &lens[0], &lens[1]) != 0)
            complain("a walk has no lengths");
        for (int i = 0; i < 2; i++)
            lens[i] += calls == loaded.keys;        /* for the NUL           */
        if (get_pair(calls, walk, lens, out) != 0)
            complain("a walk has nothing to get");
        if (calls->next(walk) != (calls->is_valid(walk) != 1))
            complain("next does not say whether the walk is at its end");
    }
    if (calls->next(walk) != 1 || calls->is_valid(walk) != 0
        || calls->get_length(walk, &lens[0], &lens[1]) != 1
        || calls->get(walk, &room[0], 1, &room[1], 1) != 1)
        complain("a walk goes on after its end");
    if (calls->deinit(walk) != 0)
        complain("a walk cannot be ended");
    return result;
}


static int
run_walk(job *j)
{
    return walk_all(calls_of(j), j->out);
}


/* ---- SQL functions ------------------------------------------------------- */

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
    void       *dl;
    char      (*begin)(udf_init *, udf_args *, char *);
    long long (*run)(udf_init *, udf_args *, unsigned char *, unsigned char *);
    void      (*end)(udf_init *);
} function;


static function
create_function(const char *file, const char *name)
{
    static const char *const ends[] = { "_init", "", "_deinit" };
    function    f;
    void *const out[] = { &f.begin, &f.run, &f.end };
    char        symbol[64];

    f.dl = dlopen(file, RTLD_NOW);
    for (int i = 0; i < 3; i++) {
        void *at;

        snprintf(symbol, sizeof symbol, "keyring_aws_%s%s", name, ends[i]);
        if (f.dl == NULL || (at = dlsym(f.dl, symbol)) == NULL)
            die(symbol);
        memcpy(out[i], &at, sizeof at);
    }
    return f;
}


/* SELECT keyring_aws_NAME(): its value; -1 for NULL, -2 if it could not be
 * prepared, and then the message says why. */
static int
select_function(const char *file, const char *name, char message[512])
{
    function      f = create_function(file, name);
    udf_args      args = { 0, { NULL } };
    udf_init      place;
    unsigned char is_null = 7, error = 7;
    int           result = -2;

    memset(&place, 0xa5, sizeof place);             /* the stack, as found   */
    memset(&current, 0, sizeof current);
    message[0] = '\0';
    if (f.begin(&place, &args, message) == 0) {
        result = (int)f.run(&place, NULL, &is_null, &error);
        if (is_null != error || error > 1
            || error != (current.error != 0))
            complain("a function answers a value, or NULL and an error");
        if (error)
            result = -1;
        snprintf(message, 512, "%s", current.message);
        f.end(&place);
    }
    dlclose(f.dl);
    return result;
}


/* FILE NAME: gives the error's number and text, too. */
static int
run_select(job *j)
{
    char      message[512];
    const int result = select_function(j->args[0], j->args[1], message);

    put_number(j->out, current.error);
    put_text(j->out, message);
    return result;
}


/* ---- many threads -------------------------------------------------------- */

enum { STORM_MAX = 64, STORM_KINDS = 7, STORM_LOADS = 4 };

typedef struct {
    pthread_t thread;
    int       number, rounds;
    int       bad[STORM_KINDS];         /* calls of each kind that failed    */
} worker;

static pthread_rwlock_t storm_lock = PTHREAD_RWLOCK_INITIALIZER;
static int storm_locks;                 /* whether that is used              */
static int storm_left;                  /* workers that still run            */
static int storm_loads;                 /* how often it was loaded again     */


/* The server's own lock: load and all that writes keys have it alone; readers,
 * walks and status calls share it. */
static void
storm_enter(int alone)
{
    if (storm_locks)
        (void)(alone ? pthread_rwlock_wrlock : pthread_rwlock_rdlock)(
            &storm_lock);
}


static void
storm_leave(void)
{
    if (storm_locks)
        pthread_rwlock_unlock(&storm_lock);
}


/* One call that writes a key. Returns 1 if it failed. */
static int
storm_write(int i, const char *id, const char *user)
{
    static const unsigned char data[48] = "a key that is stored";
    int failed;

    storm_enter(1);
    if (i < 0)
        failed = loaded.writer->remove(id, user);
    else if (i % 2 != 0)
        failed = loaded.generator->generate(id, user, "AES", 32);
    else
        failed = loaded.writer->store(id, user, data, sizeof data, "SECRET");
    storm_leave();
    return failed != 0;
}


/* One call that reads: a key, or (without an id) a walk. Returns 1 if it failed
 * or did not give the text. */
static int
storm_read(const char *id, const char *user, const service_walk *calls,
           const char *expected)
{
    char  *text = NULL;
    size_t len;
    FILE  *out = open_memstream(&text, &len);
    int    failed;

    storm_enter(0);
    failed = id != NULL ? read_key(id, user, out) : walk_all(calls, out);
    storm_leave();
    fclose(out);
    failed |= strstr(text, expected) == NULL || (*expected == '\0' && len > 0);
    free(text);
    return failed;
}


/* The first three keys of a worker stay. */
static void
storm_round(worker *w, int i)
{
    char id[32], user[32], pair[72];

    snprintf(id, sizeof id, "t-%d-%d", w->number, i);
    snprintf(user, sizeof user, "user%d@host", w->number % 3);
    snprintf(pair, sizeof pair, " %s %s", id, user);
    w->bad[i % 2] += storm_write(i, id, user);
    w->bad[2] += storm_read(id, user, NULL,
                            i % 2 ? " AES " : " SECRET a%20key");
    w->bad[3] += storm_read(NULL, NULL, loaded.keys, pair);
    w->bad[4] += storm_read(NULL, NULL, loaded.says,
                            "Component_status Active");
    w->bad[5] += loaded.status->is_initialized() != 1;
    if (i >= 3)
        w->bad[6] += storm_write(-1, id, user)
                  || storm_read(id, user, NULL, "");
}


/* At least so many rounds; more, if the loads are slower. */
static void *
storm_work(void *arg)
{
    worker *const w = arg;

    for (int i = 0; i < w->rounds || __atomic_load_n(
             &storm_loads, __ATOMIC_ACQUIRE) < STORM_LOADS; i++)
        storm_round(w, i);
    __atomic_sub_fetch(&storm_left, 1, __ATOMIC_RELEASE);
    return NULL;
}


/* SQL functions, which no lock of the server's is for. They may fail, because
 * two keyrings that are open at once change one file. */
static void *
storm_functions(void *file)
{
    while (__atomic_load_n(&storm_left, __ATOMIC_ACQUIRE) > 0) {
        char message[512];

        (void)select_function(file, "rotate_keys", message);
        (void)select_function(file, "refresh", message);
    }
    return NULL;
}


static void
storm_start(pthread_t *thread, void *(*work)(void *), void *arg)
{
    if (pthread_create(thread, NULL, work, arg) != 0)
        die("thread");
}


/* THREADS ROUNDS LOCK INSTANCE GOOD BROKEN FILE: each thread calls all
 * services so many times, or until there were a few loads; with the server's
 * lock, or without. Meanwhile the keyring is loaded again and again, by turns
 * from a good and from a broken configuration; and SQL functions of the file
 * run, unless it is NULL. Gives how often it was loaded, and how often that
 * came out wrong; then how many calls of each kind failed: store, generate,
 * read, walk of keys and of metadata, status, remove. */
static int
run_storm(job *j)
{
    const struct timespec nap = { 0, 20 * 1000 * 1000 };
    static worker workers[STORM_MAX];
    const int n = (int)number_of(j, 0);
    int       loads, wrong = 0, bad[STORM_KINDS] = { 0 };
    pthread_t functions;

    memset(workers, 0, sizeof workers);
    storm_locks = number_of(j, 2) != 0;
    __atomic_store_n(&storm_left, n, __ATOMIC_RELEASE);
    __atomic_store_n(&storm_loads, 0, __ATOMIC_RELEASE);
    for (int t = 0; t < n; t++) {
        workers[t].number = t;
        workers[t].rounds = (int)number_of(j, 1);
        storm_start(&workers[t].thread, storm_work, &workers[t]);
    }
    if (j->args[6] != NULL)
        storm_start(&functions, storm_functions, j->args[6]);
    for (loads = 0; __atomic_load_n(&storm_left, __ATOMIC_ACQUIRE) > 0;) {
        storm_enter(1);
        wrong += loaded.load->load(j->args[4 + loads % 2], j->args[3])
              != loads % 2;
        storm_leave();
        __atomic_store_n(&storm_loads, ++loads, __ATOMIC_RELEASE);
        nanosleep(&nap, NULL);
    }
    if (j->args[6] != NULL)
        pthread_join(functions, NULL);
    for (int t = 0; t < n; t++) {
        pthread_join(workers[t].thread, NULL);
        for (int i = 0; i < STORM_KINDS; i++)
            bad[i] += workers[t].bad[i];
    }
    put_number(j->out, loads);
    put_number(j->out, wrong);
    for (int i = 0; i < STORM_KINDS; i++)
        put_number(j->out, bad[i]);
    return 0;
}


/* ---- the life of a server ------------------------------------------------ */

static struct { FILE *in, *out; } peer; /* after `fork`, the other process   */


/* 0 or 1: whether the server is up. Then it has a version; one that loads late
 * has it from `version` on. */
static int
run_version(job *j)
{
    (void)j;
    snprintf(server_version, sizeof server_version, "9.7.4");
    return 0;
}


static int
run_started(job *j)
{
    run_version(j);
    __atomic_store_n(&mysqld_server_started, number_of(j, 0) != 0,
                     __ATOMIC_RELAXED);
    return 0;
}


/* super, admin, nobody, or none: who calls SQL functions. */
static int
run_user(job *j)
{
    snprintf(who, sizeof who, "%s", j->args[0]);
    return 0;
}


/* 0 or 1: whether all statements are killed. */
static int
run_kill(job *j)
{
    __atomic_store_n(&killed, number_of(j, 0) != 0, __ATOMIC_RELAXED);
    return 0;
}


/* What --daemonize does: from here on, the child answers. The parent waits for
 * what the child has it do, where mysqld's waits for the child to be up. */
static int
run_fork(job *j)
{
    int   ends[2];
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        die("socketpair");
    pthread_mutex_lock(&output);
    child = fork();
    pthread_mutex_unlock(&output);
    if (child < 0)
        die("fork");
    close(ends[child == 0]);
    peer.in  = fdopen(ends[child != 0], "r");
    peer.out = fdopen(fcntl(ends[child != 0], F_DUPFD_CLOEXEC, 0), "w");
    if (peer.in == NULL || peer.out == NULL)
        die("fdopen");
    if (child != 0) {
        answers = peer.out;
        return -1;                      /* the parent does not answer        */
    }
    thread_count = 0;
    setsid();
    put_number(j->out, getpid());
    return 0;
}


/* UID GID: what --user does. A process that changed its user is not to be
 * looked at by others of that user, which LeakSanitizer would have to. */
static int
run_setuid(job *j)
{
    const gid_t gid = (gid_t)number_of(j, 1);

    if (setgroups(1, &gid) != 0 || setgid(gid) != 0
        || setuid((uid_t)number_of(j, 0)) != 0)
        die("setuid");
    return prctl(PR_SET_DUMPABLE, 1);
}


static int
run_chdir(job *j)
{
    return chdir(j->args[0]);
}


static int ending;


static int
run_exit(job *j)
{
    (void)j;
    ending = 1;
    return 0;
}


static const command commands[] = {
    { "open", 1, 1, run_open },
    { "init", 0, 0, run_init },
    { "load", 2, 2, run_load },
    { "deinit", 0, 0, run_deinit },
    { "close", 0, 0, run_close },
    { "status", 0, 0, run_status },
    { "read", 2, 2, run_read },
    { "store", 4, 4, run_store },
    { "remove", 2, 2, run_remove },
    { "generate", 4, 4, run_generate },
    { "reader_init", 3, 3, run_reader_init },
    { "reader_length", 1, 1, run_reader_length },
    { "reader_fetch", 3, 3, run_reader_fetch },
    { "reader_deinit", 1, 1, run_reader_deinit },
    { "walk", 1, 1, run_walk },
    { "walk_init", 1, 1, run_walk_init },
    { "walk_valid", 1, 1, run_walk_valid },
    { "walk_next", 1, 1, run_walk_next },
    { "walk_length", 1, 1, run_walk_length },
    { "walk_get", 3, 3, run_walk_get },
    { "walk_deinit", 1, 1, run_walk_deinit },
    { "select", 2, 2, run_select },
    { "storm", 7, 7, run_storm },
    { "missing", 0, ARGS, run_missing },
    { "refs", 0, 0, run_refs },
    { "user", 1, 1, run_user },
    { "kill", 1, 1, run_kill },
    { "version", 0, 0, run_version },
    { "started", 1, 1, run_started },
    { "fork", 0, 0, run_fork },
    { "setuid", 2, 2, run_setuid },
    { "chdir", 1, 1, run_chdir },
    { "exit", 0, 0, run_exit }
};


/* ---- jobs ---------------------------------------------------------------- */

static void *
do_job(void *given)
{
    job   *j = given;
    char  *words = NULL;
    size_t len;
    int    result;

    j->out = open_memstream(&words, &len);
    result = j->command->run(j);
    fclose(j->out);
    pthread_mutex_lock(&output);
    if (j->command->run != run_fork || result == 0) {
        fprintf(answers, "%s %d%s\n", j->line, result, words);
        fflush(answers);
    }
    pthread_mutex_unlock(&output);
    free(words);
    free(j);
    return NULL;
}


static void
start_apart(job *j)
{
    if (thread_count == ALL
        || pthread_create(&threads[thread_count++], NULL, do_job, j) != 0)
        die("thread");
}


/* Has the parent do a line's command, and hands on what it says. */
static void
ask_parent(job *j, const char *rest)
{
    fprintf(peer.out, "%s %s", j->line, rest);
    fflush(peer.out);
    do {
        if (fgets(j->line, sizeof j->line, peer.in) == NULL)
            die("the parent is gone");
        fputs(j->line, answers);
        fflush(answers);
    } while (strncmp(j->line, "log ", 4) == 0);
}


/* Splits the line; dies if it makes no sense. */
static void
read_job(job *j, char *rest)
{
    char *save = NULL, *word = strtok_r(rest, " \n", &save);

    j->apart = word != NULL && strcmp(word, "&") == 0;
    if (j->apart)
        word = strtok_r(NULL, " \n", &save);
    for (size_t i = 0; word && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(word, commands[i].name) == 0)
            j->command = &commands[i];
    while (j->count < ARGS && (word = strtok_r(NULL, " \n", &save)) != NULL) {
        j->args[j->count] = strcmp(word, "~") != 0 ? word : NULL;
        j->lens[j->count++] = take_word(word);
    }
    if (j->command == NULL || j->count < j->command->least
        || j->count > j->command->most)
        die("no such command, or not so many words");
}


/* The child of `fork` goes on with the input; the parent gets a new one. */
static void
serve(FILE *in)
{
    job *j;

    while ((j = calloc(1, sizeof *j)) != NULL && !ending
           && fgets(j->line, sizeof j->line, in) != NULL) {
        char *rest = strchr(j->line, ' ');

        if (rest == NULL)
            die("an order without a command");
        *rest++ = '\0';
        if (strncmp(rest, "parent ", 7) == 0) {
            ask_parent(j, rest + 7);
            free(j);
            continue;
        }
        read_job(j, rest);
        if (j->apart)
            start_apart(j);
        else
            do_job(j);
        if (answers == peer.out)
            in = peer.in;
    }
    free(j);
}


int
main(void)
{
    answers = stdout;
    for (size_t i = 0; i < sizeof log_builtins / sizeof *log_builtins; i++)
        log_builtins[i] = trap;
    setvbuf(stdin, NULL, _IONBF, 0);
    serve(stdin);
    while (thread_count > 0)
        pthread_join(threads[--thread_count], NULL);
    if (peer.in != NULL) {
        fclose(peer.in);
        fclose(peer.out);
    }
    return 0;
}
