/* no_curl.c - the recipe of a program without libcurl
 *
 *     no_curl WHAT...         a line each: check, generate, fetch, rewrap
 *
 * Each line says how that ended. A WHAT that begins with "cancel-" is cancelled
 * 300 ms after it began.
 *
 * The program's own HTTPS client is BearSSL's: a connection for each request.
 */

#include "recipe.h"

#include <bearssl.h>
#include <netinet/in.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* A connection, and until when its request may take. */
typedef struct my_wire {
    int fd;
    int64_t until;
    const kaws_request *q;
    const char *error;
    br_ssl_client_context tls;
    br_x509_minimal_context x509;
    br_sslio_context io;
    unsigned char buffer[BR_SSL_BUFSIZE_BIDI];
} my_wire;

static int64_t cancel_at;
static br_x509_trust_anchor ca;
static unsigned char ca_name[256], ca_key[256];
static size_t ca_name_len;


static int64_t
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}


/* ---- the certificate of the CA ----------------------------------------- */

static void
on_name(void *to, const void *bytes, size_t len)
{
    (void)to;
    MUST(len <= sizeof ca_name - ca_name_len);
    memcpy(ca_name + ca_name_len, bytes, len);
    ca_name_len += len;
}


static void
on_der(void *decoder, const void *bytes, size_t len)
{
    br_x509_decoder_push(decoder, bytes, len);
}


/* A trust anchor of the first certificate in a PEM file; an elliptic key. */
static void
read_ca(const char *path)
{
    br_x509_decoder_context cert;
    br_pem_decoder_context pem;
    br_x509_pkey *key;
    char text[8192];
    size_t len, at = 0;
    int event = 0;
    FILE *file = fopen(path, "r");

    MUST(file != NULL);
    len = fread(text, 1, sizeof text, file);
    MUST(fclose(file) == 0);
    br_x509_decoder_init(&cert, on_name, NULL);
    br_pem_decoder_init(&pem);
    while (event != BR_PEM_END_OBJ) {
        MUST(at < len);
        at += br_pem_decoder_push(&pem, text + at, len - at);
        event = br_pem_decoder_event(&pem);
        if (event == BR_PEM_BEGIN_OBJ)
            br_pem_decoder_setdest(&pem, on_der, &cert);
    }
    key = br_x509_decoder_get_pkey(&cert);
    MUST(key != NULL && key->key_type == BR_KEYTYPE_EC);
    memcpy(ca_key, key->key.ec.q, key->key.ec.qlen);
    ca.pkey = *key;
    ca.pkey.key.ec.q = ca_key;
    ca.dn.data = ca_name;
    ca.dn.len = ca_name_len;
    ca.flags = BR_X509_TA_CA;
}


/* ---- a connection ------------------------------------------------------ */

/* Waits until the socket is ready; -1: it is too late, or cancelled. */
static int
wait_for(my_wire *w, short events)
{
    struct pollfd it = { .fd = w->fd, .events = events };

    for (;;) {
        if (w->q->cancelled != NULL && w->q->cancelled(w->q->cancelled_arg))
            return w->error = "cancelled", -1;
        if (now_ms() >= w->until)
            return w->error = "it took too long", -1;
        if (poll(&it, 1, 50) > 0)
            return 0;
    }
}


static int
low_read(void *to, unsigned char *bytes, size_t len)
{
    my_wire *w = to;
    ssize_t n = wait_for(w, POLLIN) == 0 ? read(w->fd, bytes, len) : -1;

    return n > 0 ? (int)n : -1;
}


static int
low_write(void *to, const unsigned char *bytes, size_t len)
{
    my_wire *w = to;
    ssize_t n = wait_for(w, POLLOUT) == 0
                ? send(w->fd, bytes, len, MSG_NOSIGNAL) : -1;

    return n > 0 ? (int)n : -1;
}


static int
say(my_wire *w, const char *text)
{
    return br_sslio_write_all(&w->io, text, strlen(text));
}


/* The emulator is at 127.0.0.1, and its certificate is for localhost. */
static int
post(my_wire *w, char *reply, size_t most, size_t *len)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    const char *port = strrchr(w->q->url, ':') + 1;
    const char *const *line;
    char length[64];
    int n;

    at.sin_port = htons((uint16_t)strtol(port, NULL, 10));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    w->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (w->fd < 0 || connect(w->fd, (struct sockaddr *)&at, sizeof at) != 0)
        return w->error = "no connection", -1;
    br_ssl_client_init_full(&w->tls, &w->x509, &ca, 1);
    br_ssl_engine_set_buffer(&w->tls.eng, w->buffer, sizeof w->buffer, 1);
    MUST(br_ssl_client_reset(&w->tls, "localhost", 0));
    br_sslio_init(&w->io, &w->tls.eng, low_read, w, low_write, w);
    (void)snprintf(length, sizeof length, "Content-Length: %zu\r\n\r\n",
                   w->q->body.len);
    n = say(w, "POST / HTTP/1.1\r\nConnection: close\r\n");
    for (line = w->q->headers; *line != NULL && n == 0; line++)
        n = say(w, *line) != 0 ? -1 : say(w, "\r\n");
    if (n != 0 || say(w, length) != 0 ||
        br_sslio_write_all(&w->io, w->q->body.at, w->q->body.len) != 0 ||
        br_sslio_flush(&w->io) != 0)
        return -1;
    while (*len < most && (n = br_sslio_read(&w->io, reply + *len,
                                             most - *len)) > 0)
        *len += (size_t)n;
    return br_ssl_engine_last_error(&w->tls.eng) == BR_ERR_OK ||
           br_ssl_engine_last_error(&w->tls.eng) == BR_ERR_IO ? 0 : -1;
}


static const char *
my_header(const my_reply *got, const char *name)
{
    static __thread char value[256];
    const char *line = strchr(got->head, '\n');
    size_t n = strlen(name);

    value[0] = '\0';
    for (; line != NULL && *++line != '\0'; line = strchr(line, '\n'))
        if (strncasecmp(line, name, n) == 0 && line[n] == ':')
            (void)snprintf(value, sizeof value, "%.*s",
                           (int)strcspn(line + n + 2, "\r"), line + n + 2);
    return value;
}


/* ---- what the recipe wants --------------------------------------------- */

int
my_https_post(const kaws_request *q, my_reply *got)
{
    static const size_t most = 65536;
    my_wire *w = calloc(1, sizeof *w);
    char *text = calloc(1, most + 1), *body;
    size_t len = 0, head;

    MUST(w != NULL && text != NULL && strncmp(q->url, "https://", 8) == 0);
    memset(got, 0, sizeof *got);
    *w = (my_wire){ .fd = -1, .until = now_ms() + q->timeout_ms, .q = q };
    got->error = "no whole reply";
    if (post(w, text, most, &len) == 0 &&
        (body = strstr(text, "\r\n\r\n")) != NULL) {
        head = (size_t)(body - text) + 2;
        MUST(head < sizeof got->head);
        memcpy(got->head, text, head);
        got->len = len - head - 2;
        if (got->len == (size_t)strtol(my_header(got, "Content-Length"), NULL,
                                       10)) {
            got->status = (int)strtol(text + strlen("HTTP/1.1 "), NULL, 10);
            got->error = NULL;
            got->body = malloc(got->len + 1);
            MUST(got->body != NULL);
            memcpy(got->body, body + 4, got->len);
        }
    }
    if (w->error != NULL && got->error != NULL)
        got->error = w->error;
    if (w->fd >= 0)
        (void)close(w->fd);
    kaws_wipe(w, sizeof *w);
    kaws_wipe(text, most);
    free(w);
    free(text);
    return got->error == NULL ? 0 : -1;
}


void
my_forget(my_reply *got)
{
    kaws_wipe(got->body, got->len);
    free(got->body);
    kaws_wipe(got, sizeof *got);
}


/* ---- the program ------------------------------------------------------- */

static int
cancelled(void *unused)
{
    (void)unused;
    return cancel_at != 0 && now_ms() >= cancel_at;
}


static kaws_status
act(kaws *ring, const char *what, kaws_error *err)
{
    kaws_name name = { "a", "" };
    kaws_key key;

    if (strcmp(what, "check") == 0)
        return kaws_check(ring, err);
    if (strcmp(what, "generate") == 0)
        return kaws_generate(ring, name, "AES", 32, err);
    if (strcmp(what, "rewrap") == 0)
        return kaws_rewrap_all(ring, err);
    MUST(strcmp(what, "fetch") == 0);
    if (kaws_fetch(ring, name, &key, err) == KAWS_OK) {
        MUST(key.len == 32);
        kaws_key_free(ring, &key);
    }
    return err->status;
}


int
main(int argc, char **argv)
{
    kaws_config cfg = { .data_file = "keys.kaws", .kms_key_id = "alias/app",
                        .region = "eu-west-1", .conf_file = "keys.conf" };
    kaws_error err;
    kaws *ring;
    int i;

    read_ca(getenv("RECIPE_CA"));
    cfg.hooks.send = my_send;
    cfg.hooks.cancelled = cancelled;
    cfg.timeout_ms = 2000;
    cfg.max_attempts = 2;
    if (kaws_open(&ring, &cfg, &err) != KAWS_OK)
        return recipe_failed(&err);
    for (i = 1; i < argc; i++) {
        int cancels = strncmp(argv[i], "cancel-", 7) == 0;
        int64_t began = now_ms();

        cancel_at = cancels ? began + 300 : 0;
        (void)act(ring, argv[i] + (cancels ? 7 : 0), &err);
        printf("%s after %d ms: %s\n", kaws_status_text(err.status),
               (int)(now_ms() - began), err.text);
    }
    kaws_close(ring);
    return 0;
}
