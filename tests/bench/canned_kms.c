/* canned_kms.c - a KMS with canned answers, for the benchmarks
 *
 *     canned_kms LATENCY_MS...
 *
 * listens on a port of 127.0.0.1 for each latency, prints the ports on one
 * line, and ends at the end of its standard input. It speaks HTTP/1.1 with
 * keep-alive for the KMS of fakes.h, which seals and verifies nothing here. It
 * answers so many milliseconds after a request was there.
 *
 *     GET /stats        how many connections the port has accepted, how many
 *                       requests it has had, and how many its quota let through
 *     GET /latency/5    sets the port's latency
 *     GET /quota/500    gives the port a token bucket: so many requests a
 *                       second, and as many at once after a quiet second; other
 *                       requests get KMS's ThrottlingException
 */

#define KEYRING_AWS_IMPLEMENTATION
#define KEYRING_AWS_STATIC
#define KEYRING_AWS_NO_CURL
#include "../../keyring_aws.h"
#include "../unit/fakes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define IN_MAX    32768
#define OUT_MAX   32768

typedef struct port {
    int  listener, latency_ms;
    long connections, requests;   /* relaxed: only ever looked at             */
    long passed;
    pthread_mutex_t lock;         /* over the bucket                          */
    double quota, tokens, filled; /* a second; there now; when, in seconds    */
} port;

typedef struct guest {            /* one connection                           */
    port  *at;
    int    fd;
    char   in[IN_MAX + 1];
    size_t have;
    char   body[OUT_MAX], out[OUT_MAX + 1024];
} guest;


static struct fake kms;


/* ---- the quota ---------------------------------------------------------- */

static void
set_quota(port *p, double quota)
{
    pthread_mutex_lock(&p->lock);
    p->quota = p->tokens = quota;
    pthread_mutex_unlock(&p->lock);
}


/* Whether the bucket has a token for one more request, which takes it. */
static int
take_token(port *p)
{
    struct timespec t;
    double now;
    int well;

    clock_gettime(CLOCK_MONOTONIC, &t);
    now = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    pthread_mutex_lock(&p->lock);
    p->tokens += (now - p->filled) * p->quota;
    p->tokens = p->tokens < p->quota ? p->tokens : p->quota;
    p->filled = now;
    well = p->quota <= 0 || p->tokens >= 1;
    p->tokens -= well && p->quota > 0 ? 1 : 0;
    p->passed += well;
    pthread_mutex_unlock(&p->lock);
    return well;
}


static void
throttle(kaws_reply *r)
{
    static long count = 1L << 40;         /* no reply's id is another's       */

    r->http = 400;
    (void)snprintf(r->request_id, sizeof r->request_id, "no-%ld",
                   __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED));
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max,
        "{\"__type\":\"ThrottlingException\",\"message\":\"You have exceeded "
        "the rate at which you may call KMS. Reduce the frequency of your "
        "calls.\"}");
}


/* ---- replies ------------------------------------------------------------ */

/* The whole answer, in g->out; its length. */
static size_t
reply(guest *g, const char *head, kaws_bytes body)
{
    const char *target = strcasestr(head, "X-Amz-Target:"), *lines[2];
    char line[96], date[64];
    kaws_request q;
    kaws_reply r;
    time_t now = time(NULL);
    struct tm t;
    size_t used;

    memset(&q, 0, sizeof q);
    memset(&r, 0, sizeof r);
    (void)snprintf(line, sizeof line, "%.*s", target != NULL
                   ? (int)strcspn(target, "\r") : 0, target);
    lines[0] = line;
    lines[1] = NULL;
    q.url = "";
    q.headers = lines;
    q.body = body;
    r.body = (uint8_t *)g->body;
    r.body_max = sizeof g->body;
    r.http = 200;
    if (strncmp(head, "GET /latency/", 13) == 0)
        g->at->latency_ms = (int)strtol(head + 13, NULL, 10);
    if (strncmp(head, "GET /quota/", 11) == 0)
        set_quota(g->at, (double)strtol(head + 11, NULL, 10));
    if (strncmp(head, "GET /", 5) == 0)
        r.body_len = (size_t)snprintf(g->body, sizeof g->body, "%ld %ld %ld\n",
            __atomic_load_n(&g->at->connections, __ATOMIC_RELAXED),
            __atomic_load_n(&g->at->requests, __ATOMIC_RELAXED),
            __atomic_load_n(&g->at->passed, __ATOMIC_RELAXED));
    else if (take_token(g->at))
        (void)fake_send(&kms, &q, &r);
    else
        throttle(&r);
    gmtime_r(&now, &t);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &t);
    used = (size_t)snprintf(g->out, sizeof g->out, "HTTP/1.1 %d %s\r\n"
        "x-amzn-RequestId: 01234567-89ab-cdef-0123-%012lx\r\n"
        "Cache-Control: no-cache, no-store, must-revalidate, private\r\n"
        "Expires: 0\r\nPragma: no-cache\r\nDate: %s\r\n"
        "Content-Type: application/x-amz-json-1.1\r\n"
        "Content-Length: %lu\r\n\r\n", r.http, r.http == 200 ? "OK" : "No",
        strtoul(r.request_id + strcspn(r.request_id, "0123456789"), NULL, 10),
        date, (unsigned long)r.body_len);
    memcpy(g->out + used, g->body, r.body_len);
    return used + r.body_len;
}


/* ---- connections ------------------------------------------------------- */

/* How many bytes the first request in `in` has; 0: not all of it is there. */
static size_t
whole_request(guest *g, char **body)
{
    char *end, *length;
    size_t len = 0, head;

    g->in[g->have] = '\0';
    end = strstr(g->in, "\r\n\r\n");
    if (end == NULL)
        return 0;
    head = (size_t)(end + 4 - g->in);
    *end = '\0';
    length = strcasestr(g->in, "\r\ncontent-length:");
    if (length != NULL)
        len = strtoul(length + 17, NULL, 10);
    *end = '\r';
    *body = g->in + head;
    return g->have >= head + len ? head + len : 0;
}


static void
wait_ms(const struct timespec *since, int ms)
{
    struct timespec until = *since;

    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        continue;
}


static int
serve_one(guest *g)
{
    struct timespec arrived;
    char *body = NULL;
    kaws_bytes view;
    size_t len, answer;
    ssize_t n;
    int asks_us;

    while ((len = whole_request(g, &body)) == 0) {
        n = g->have < IN_MAX ? recv(g->fd, g->in + g->have,
                                    IN_MAX - g->have, 0) : 0;
        if (n <= 0)
            return 0;
        g->have += (size_t)n;
    }
    clock_gettime(CLOCK_MONOTONIC, &arrived);
    asks_us = strncmp(g->in, "GET ", 4) == 0;
    if (!asks_us)
        __atomic_add_fetch(&g->at->requests, 1, __ATOMIC_RELAXED);
    view.at = (uint8_t *)body;
    view.len = len - (size_t)(body - g->in);
    answer = reply(g, g->in, view);
    g->have -= len;
    memmove(g->in, g->in + len, g->have);
    if (g->at->latency_ms > 0 && !asks_us)
        wait_ms(&arrived, g->at->latency_ms);
    return send(g->fd, g->out, answer, 0) == (ssize_t)answer;
}


static void *
serve(void *arg)
{
    guest *g = arg;

    prctl(PR_SET_TIMERSLACK, 1);
    while (serve_one(g))
        continue;
    close(g->fd);
    free(g);
    return NULL;
}


static void *
listen_on(void *arg)
{
    port *p = arg;
    pthread_t thread;
    guest *g;
    int on = 1;

    for (;;) {
        g = calloc(1, sizeof *g);
        if (g == NULL)
            return NULL;
        g->at = p;
        g->fd = accept(p->listener, NULL, NULL);
        if (g->fd < 0) {
            free(g);
            continue;
        }
        setsockopt(g->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        __atomic_add_fetch(&p->connections, 1, __ATOMIC_RELAXED);
        if (pthread_create(&thread, NULL, serve, g) == 0)
            pthread_detach(thread);
    }
}


static int
begin(port *p, const char *latency)
{
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    pthread_t thread;

    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->latency_ms = (int)strtol(latency, NULL, 10);
    pthread_mutex_init(&p->lock, NULL);
    p->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (p->listener < 0 ||
        bind(p->listener, (struct sockaddr *)&a, sizeof a) != 0 ||
        listen(p->listener, 256) != 0 ||
        getsockname(p->listener, (struct sockaddr *)&a, &len) != 0 ||
        pthread_create(&thread, NULL, listen_on, p) != 0)
        return 0;
    printf("%d ", ntohs(a.sin_port));
    return 1;
}


int
main(int argc, char **argv)
{
    static port ports[8];
    char ignored[256];
    int i;

    signal(SIGPIPE, SIG_IGN);
    fake_init(&kms);
    kms.canned = 1;
    for (i = 1; i < argc && i <= 8; i++)
        if (!begin(&ports[i - 1], argv[i]))
            return perror("canned_kms"), 1;
    printf("\n");
    fflush(stdout);
    while (read(0, ignored, sizeof ignored) > 0)
        continue;
    fake_end(&kms);
    return 0;
}
