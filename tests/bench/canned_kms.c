/* canned_kms.c - a KMS that answers from a tin, for the benchmarks
 *
 *     canned_kms LATENCY_MS...
 *
 * listens on a port of 127.0.0.1 for each latency, prints the ports on one
 * line, and ends with its standard input. It speaks HTTP/1.1 with keep-alive
 * and answers GenerateDataKeyWithoutPlaintext, Encrypt, Decrypt and ReEncrypt
 * with replies of KMS's shape and size, so many milliseconds after the request
 * was there. It verifies nothing and seals nothing: a blob is as long as KMS's,
 * 152 bytes and the plaintext's, and from its length follows that of the
 * plaintext. No blob and no request id comes twice. GET /stats answers how many connections a port has accepted and
 * how many requests it has had; GET /latency/5 changes its latency.
 */

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SEALED      152           /* what KMS's sealing adds to a plaintext   */
#define PLAIN_MAX  4096
#define IN_MAX    32768
#define OUT_MAX   32768
#define MATERIAL  "0123456789abcdef0123456789abcdef"                          \
                  "0123456789abcdef0123456789abcdef"

typedef struct port {
    int  listener, latency_ms;
    long connections, requests;   /* relaxed: only ever looked at             */
} port;

typedef struct guest {            /* one connection                           */
    port  *at;
    int    fd;
    char   in[IN_MAX + 1];
    size_t have;
    char   body[OUT_MAX], out[OUT_MAX + 1024];
} guest;


/* ---- what a request says ----------------------------------------------- */

/* The start of a string member's value, and its length; "" if it is not there.
 * Our client escapes nothing in the values that are asked for. */
static const char *
member(const char *body, const char *name, size_t *len)
{
    char head[64];
    const char *at;

    (void)snprintf(head, sizeof head, "\"%s\":\"", name);
    at = strstr(body, head);
    *len = 0;
    if (at == NULL)
        return "";
    at += strlen(head);
    *len = strcspn(at, "\"");
    return at;
}


static size_t
base64_bytes(const char *at, size_t len)
{
    size_t pad = 0;

    while (pad < 2 && len > pad && at[len - 1 - pad] == '=')
        pad++;
    return len / 4 * 3 - pad;
}


/* ---- what the reply says ----------------------------------------------- */

/* Base64 of `len` bytes that nobody looks at. */
static void
put_base64(char *out, size_t len)
{
    size_t digits = (len + 2) / 3 * 4;

    memset(out, 'A', digits);
    out[0] = 'k';
    if (len % 3 != 0)
        out[digits - 1] = '=';
    if (len % 3 == 1)
        out[digits - 2] = '=';
    out[digits] = '\0';
}


/* No two are the same. */
static unsigned long
serial(void)
{
    static unsigned long last;

    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}


static size_t
reply_sealed(char *out, const char *body, size_t plain, int again)
{
    char number[17], blob[(SEALED + PLAIN_MAX + 2) / 3 * 4 + 1];
    size_t key_len, from_len;
    const char *key = member(body, again ? "DestinationKeyId" : "KeyId",
                             &key_len);
    const char *from = member(body, "SourceKeyId", &from_len);

    put_base64(blob, SEALED + plain);
    (void)snprintf(number, sizeof number, "%016lx", serial());
    memcpy(blob, number, 16);
    if (again)
        return (size_t)snprintf(out, OUT_MAX,
            "{\"CiphertextBlob\":\"%s\",\"DestinationEncryptionAlgorithm\":"
            "\"SYMMETRIC_DEFAULT\",\"DestinationKeyMaterialId\":\"%s\","
            "\"KeyId\":\"%.*s\",\"SourceEncryptionAlgorithm\":"
            "\"SYMMETRIC_DEFAULT\",\"SourceKeyId\":\"%.*s\","
            "\"SourceKeyMaterialId\":\"%s\"}", blob, MATERIAL, (int)key_len,
            key, (int)from_len, from, MATERIAL);
    return (size_t)snprintf(out, OUT_MAX,
        "{\"CiphertextBlob\":\"%s\",\"KeyId\":\"%.*s\",\"KeyMaterialId\":"
        "\"%s\"}", blob, (int)key_len, key, MATERIAL);
}


static size_t
reply_opened(char *out, const char *body, size_t blob)
{
    char plain[(PLAIN_MAX + 2) / 3 * 4 + 1];
    size_t key_len;
    const char *key = member(body, "KeyId", &key_len);

    put_base64(plain, blob > SEALED ? blob - SEALED : 1);
    return (size_t)snprintf(out, OUT_MAX,
        "{\"EncryptionAlgorithm\":\"SYMMETRIC_DEFAULT\",\"KeyId\":\"%.*s\","
        "\"KeyMaterialId\":\"%s\",\"Plaintext\":\"%s\"}", (int)key_len, key,
        MATERIAL, plain);
}


/* The body of the reply; *status is set if it is not 200. */
static size_t
reply_body(guest *g, const char *head, const char *body, const char **status)
{
    size_t blob_len, plain_len;
    const char *blob = member(body, "CiphertextBlob", &blob_len);
    const char *plain = member(body, "Plaintext", &plain_len);
    const char *number = strstr(body, "\"NumberOfBytes\":");
    size_t sealed = base64_bytes(blob, blob_len);

    if (strncmp(head, "GET /latency/", 13) == 0)
        g->at->latency_ms = (int)strtol(head + 13, NULL, 10);
    if (strncmp(head, "GET /", 5) == 0)
        return (size_t)snprintf(g->body, OUT_MAX, "%ld %ld\n",
            __atomic_load_n(&g->at->connections, __ATOMIC_RELAXED),
            __atomic_load_n(&g->at->requests, __ATOMIC_RELAXED));
    if (strstr(body, "\"DryRun\":true") != NULL) {
        *status = "412 Precondition Failed";
        return (size_t)snprintf(g->body, OUT_MAX, "{\"__type\":"
                                "\"DryRunOperationException\"}");
    }
    if (number != NULL)
        return reply_sealed(g->body, body, strtoul(number + 16, NULL, 10), 0);
    if (plain_len > 0)
        return reply_sealed(g->body, body, base64_bytes(plain, plain_len), 0);
    if (strstr(body, "\"DestinationKeyId\"") != NULL && sealed > SEALED)
        return reply_sealed(g->body, body, sealed - SEALED, 1);
    if (sealed > 0)
        return reply_opened(g->body, body, sealed);
    *status = "400 Bad Request";
    return (size_t)snprintf(g->body, OUT_MAX, "{\"__type\":"
                            "\"ValidationException\"}");
}


static size_t
reply(guest *g, const char *head, const char *body)
{
    const char *status = "200 OK";
    size_t len = reply_body(g, head, body, &status), used;
    time_t now = time(NULL);
    struct tm t;
    char date[64];

    gmtime_r(&now, &t);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &t);
    used = (size_t)snprintf(g->out, sizeof g->out, "HTTP/1.1 %s\r\n"
        "x-amzn-RequestId: 01234567-89ab-cdef-0123-%012lx\r\n"
        "Cache-Control: no-cache, no-store, must-revalidate, private\r\n"
        "Expires: 0\r\nPragma: no-cache\r\nDate: %s\r\n"
        "Content-Type: application/x-amz-json-1.1\r\n"
        "Content-Length: %lu\r\n\r\n", status, serial(), date,
        (unsigned long)len);
    memcpy(g->out + used, g->body, len);
    return used + len;
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
    char *body = NULL, after;
    size_t len, answer;
    ssize_t n;

    while ((len = whole_request(g, &body)) == 0) {
        n = g->have < IN_MAX ? recv(g->fd, g->in + g->have,
                                    IN_MAX - g->have, 0) : 0;
        if (n <= 0)
            return 0;
        g->have += (size_t)n;
    }
    clock_gettime(CLOCK_MONOTONIC, &arrived);
    after = g->in[len];
    g->in[len] = '\0';
    if (strncmp(g->in, "GET ", 4) != 0)
        __atomic_add_fetch(&g->at->requests, 1, __ATOMIC_RELAXED);
    answer = reply(g, g->in, body);
    g->in[len] = after;
    g->have -= len;
    memmove(g->in, g->in + len, g->have);
    if (g->at->latency_ms > 0)
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
    for (i = 1; i < argc && i <= 8; i++)
        if (!begin(&ports[i - 1], argv[i]))
            return perror("canned_kms"), 1;
    printf("\n");
    fflush(stdout);
    while (read(0, ignored, sizeof ignored) > 0)
        continue;
    return 0;
}
