/* oracle.c - answers questions about rooms json, sigv4 and hosts, a line each
 *
 * tests/test_sigv4.py, test_differential.py and test_endpoints.py ask the
 * questions. A question is a command and its fields, and an answer is fields,
 * with single blanks between them. Bytes are in hex, "-" is NULL or no answer,
 * "." is no bytes; numbers are decimal.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "../unit/canonical.h"

#define FIELDS 100

typedef struct question {
    char    *fields[FIELDS + 1];  /* the command is field 0                   */
    size_t   count, used;
    uint8_t *blocks[2 * FIELDS];  /* what was made of them                    */
} question;

static kaws_hooks hooks;


/* ---- fields -------------------------------------------------------------- */

static uint8_t *
block(question *q, size_t len)
{
    uint8_t *at = malloc(len > 0 ? len : 1);

    if (at == NULL || q->used == 2 * FIELDS)
        exit(3);
    q->blocks[q->used++] = at;
    return at;
}


static int
digit(int c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 87 : -1;
}


/* A field's bytes, with `more` zeros behind, in a block of exactly that size;
 * .at is NULL for "-". */
static kaws_bytes
bytes_of(question *q, size_t field, size_t more)
{
    const char *hex = field < q->count ? q->fields[field] : "-";
    kaws_bytes bytes = { NULL, 0 };
    uint8_t *at;
    size_t i;

    if (hex[0] == '-')
        return bytes;
    bytes.len = hex[0] == '.' ? 0 : strlen(hex) / 2;
    bytes.at = at = block(q, bytes.len + more);
    for (i = 0; i < bytes.len; i++)
        at[i] = (uint8_t)(digit(hex[2 * i]) * 16 + digit(hex[2 * i + 1]));
    memset(at + bytes.len, 0, more);
    return bytes;
}


static const char *
text_of(question *q, size_t field)
{
    return (const char *)bytes_of(q, field, 1).at;
}


static int64_t
number_of(const question *q, size_t field)
{
    return field < q->count ? strtoll(q->fields[field], NULL, 10) : 0;
}


static void
say(kaws_bytes bytes)
{
    size_t i;

    if (bytes.at == NULL || bytes.len == 0)
        fputs(bytes.at == NULL ? "-" : ".", stdout);
    for (i = 0; bytes.at != NULL && i < bytes.len; i++)
        printf("%02x", bytes.at[i]);
    putchar(' ');
}


static void
say_text(const char *text)
{
    kaws_bytes none = { NULL, 0 };

    say(text != NULL ? kaws__buf_of(text) : none);
}


/* ---- answers ------------------------------------------------------------- */

/* method path query region service body when id secret token path_as_sent
 * payload token_unsigned expires header...
 * -> status, canonical request, what kaws_sign wrote or its sentence */
static void
answer_sign(question *q)
{
    const char *headers[FIELDS + 1];
    kaws_creds who = { text_of(q, 8), text_of(q, 9), text_of(q, 10) };
    static char out[16384], query[16384];
    kaws_signing what;
    kaws_status status;
    kaws_error err;
    kaws__buf text;
    size_t i, n = 0;

    memset(&what, 0, sizeof what);
    what.method = text_of(q, 1);
    what.path = text_of(q, 2);
    what.query = text_of(q, 3);
    what.region = text_of(q, 4);
    what.service = text_of(q, 5);
    what.body = bytes_of(q, 6, 0);
    what.when = number_of(q, 7);
    what.path_as_sent = (int)number_of(q, 11);
    what.payload = text_of(q, 12);
    what.token_unsigned = (int)number_of(q, 13);
    what.expires = (int)number_of(q, 14);
    for (i = 15; i < q->count; i++)
        headers[n++] = text_of(q, i);
    headers[n] = NULL;
    what.headers = headers;
    status = kaws_sign(&what, who, out, sizeof out, &err);
    printf("%d ", (int)status);
    kaws__buf_init(&text, &hooks);
    memcpy(query, out, sizeof query);
    canonical_cut(query, &what);
    if (status == KAWS_OK &&
        canonical_request(&text, &what, what.expires > 0 ? query : what.query,
                          who.token) == NULL)
        say(kaws__buf_view(&text));
    say_text(status == KAWS_OK ? out : err.text);
    kaws__buf_free(&text);
}


/* text -> offset, sentence or -, values of "a" and "b" */
static void
answer_json(question *q)
{
    kaws__member want[2] = { { .name = "a" }, { .name = "b" } };
    size_t len = bytes_of(q, 1, 0).len, offset;
    uint8_t *text = q->used > 0 ? q->blocks[q->used - 1] : block(q, 0);
    const char *bad = kaws__json_read(text, len, want, 2, &offset);

    printf("%lu ", (unsigned long)offset);
    say_text(bad);
    say(want[0].value);
    say(want[1].value);
}


static char logged[KAWS__ERR_LINE];


static void
on_log(void *ctx, int level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)snprintf(logged, sizeof logged, "%s", line);
}


/* service region fips dualstack -> URL, warning or -, whether it is known */
static void
answer_hosts(question *q)
{
    const char *const service = text_of(q, 1), *const region = text_of(q, 2);
    kaws_config cfg = { .fips = (int)number_of(q, 3),
                        .dualstack = (int)number_of(q, 4) };
    const kaws_hooks listening = { .log = on_log };
    char url[192];
    kaws__hosts h;

    logged[0] = '\0';
    (void)kaws__hosts_open(&h, &listening, &cfg, NULL, NULL);
    kaws__hosts_doubt(&h, &listening, service, region);
    kaws__hosts_url(&h, url, sizeof url, service, region, 1);
    say_text(url);
    say_text(logged[0] != '\0' ? logged : NULL);
    printf("%d ", kaws__arn_is_known(region));
}


static const struct { const char *command; void (*answer)(question *); } all[] =
{
    { "sign", answer_sign },
    { "json", answer_json },
    { "hosts", answer_hosts }
};


int
main(void)
{
    static char line[1 << 20];
    static question q;
    size_t i;

    hooks.memory = kaws__mem_builtin;
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *at = line;
        line[strcspn(line, "\n")] = '\0';
        for (q.count = 0; q.count < FIELDS && at != NULL; q.count++) {
            q.fields[q.count] = at;
            at = strchr(at, ' ');
            if (at != NULL)
                *at++ = '\0';
        }
        for (i = 0; i < sizeof all / sizeof all[0]; i++)
            if (strcmp(all[i].command, q.fields[0]) == 0)
                all[i].answer(&q);
        putchar('\n');
        fflush(stdout);
        while (q.used > 0)
            free(q.blocks[--q.used]);
    }
    return 0;
}
