/* Room sigv4: any request, signed again in other ways that mean the same.
 *
 * The input is a seed, a time, the strings of a request, each with a NUL behind
 * it, and the body. The seed also chooses S3's rules, a payload, an unsigned
 * token, and whether a URL is presigned. Headers and parameters in another
 * order, names in another case and wider blanks must give the same signature.
 * An array that is one byte too small must be refused, and is left all zeros.
 * (tests/test_sigv4.py compares with botocore.)
 */

#include "fuzz.h"

#include <strings.h>

enum { MOST = 70, ROOM = 16384 };

typedef struct ask {
    kaws_signing what;
    kaws_creds   who;
    char        *text[8];         /* method, path, query ... token            */
    char        *lines[MOST + 1];
} ask;

static uint32_t seed;


static uint32_t
chance(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return below > 0 ? (seed >> 8) % below : 0;
}


static void
read_ask(ask *a, kaws_bytes in)
{
    static const char *const payloads[] = { NULL, "UNSIGNED-PAYLOAD", "",
                                            "0123456789abcdef" };
    size_t i, count;

    memset(a, 0, sizeof *a);
    seed = (uint32_t)fuzz_number(&in, 4);
    a->what.when = (int64_t)fuzz_number(&in, 6) % INT64_C(253402300900);
    count = (size_t)fuzz_number(&in, 1) % MOST;
    for (i = 0; i < 8; i++)
        a->text[i] = fuzz_string(&in);
    for (i = 0; i < count; i++)
        a->lines[i] = fuzz_string(&in);
    a->what.method = a->text[0];
    a->what.path = a->text[1];
    a->what.query = seed % 16 > 0 ? a->text[2] : NULL;
    a->what.region = a->text[3];
    a->what.service = a->text[4];
    a->who.id = a->text[5];
    a->who.secret = a->text[6];
    a->who.token = seed % 16 > 1 ? a->text[7] : NULL;
    a->what.headers = (const char *const *)a->lines;
    a->what.body = in;
    a->what.path_as_sent = seed >> 8 & 1;
    a->what.token_unsigned = seed >> 9 & 1;
    a->what.payload = payloads[seed >> 10 & 3];
    a->what.expires = seed >> 12 & 1 ? (int)(seed >> 13 & 1023) * 601 : 0;
}


static void
forget_ask(ask *a)
{
    size_t i;

    for (i = 0; i < 8; i++)
        free(a->text[i]);
    for (i = 0; a->lines[i] != NULL; i++)
        free(a->lines[i]);
}


/* ---- another order, another case, wider blanks ------------------------- */

static void
shuffle_headers(ask *a)
{
    size_t i, count = 0, n;
    char *line;

    while (a->lines[count] != NULL)
        count++;
    for (i = 0; i < 3 * count; i++) {
        size_t at = count > 1 ? chance((uint32_t)count - 1) : 0;
        n = strcspn(a->lines[at], ":");
        if (count < 2 || (n == strcspn(a->lines[at + 1], ":") &&
                          strncasecmp(a->lines[at], a->lines[at + 1], n) == 0))
            continue;             /* those of one name keep their order       */
        line = a->lines[at];
        a->lines[at] = a->lines[at + 1];
        a->lines[at + 1] = line;
    }
    for (i = 0; i < count; i++) {
        size_t len = strlen(a->lines[i]), k;
        line = malloc(2 * len + 4);
        HOLDS(line != NULL);
        n = strcspn(a->lines[i], ":");
        for (k = 0, len = 0; a->lines[i][k] != '\0'; k++) {
            char c = a->lines[i][k];
            if (k < n && (c | 32) >= 'a' && (c | 32) <= 'z' && chance(2))
                c = (char)(c ^ 32);
            line[len++] = c;
            if (k >= n && (c == ' ' || c == '\t' || k == n) && chance(2))
                line[len++] = chance(2) ? ' ' : '\t';
        }
        line[len] = '\0';
        free(a->lines[i]);
        a->lines[i] = line;
    }
}


static void
shuffle_query(ask *a)
{
    const char *query = a->what.query;
    size_t len = query != NULL ? strlen(query) : 0, first;
    char *turned = malloc(len + 1);

    HOLDS(turned != NULL);
    if (len > 0 && strchr(query, '&') != NULL) {
        first = strcspn(query, "&");      /* a&b&c becomes b&c&a              */
        memcpy(turned, query + first + 1, len - first - 1);
        turned[len - first - 1] = '&';
        memcpy(turned + len - first, query, first);
        turned[len] = '\0';
        free(a->text[2]);
        a->text[2] = turned;
        a->what.query = turned;
    } else {
        free(turned);
    }
}


/* The signature in a query. The caller's parameters may be shuffled. */
static const char *
told(const ask *a, const char *text)
{
    const char *signature = strstr(text, "&X-Amz-Signature=");

    HOLDS(signature != NULL || a->what.expires <= 0);
    return a->what.expires > 0 ? signature : text;
}


static void
sign_again(ask *a, const char *want, size_t cap, int fits)
{
    char *out = malloc(cap);
    kaws_error err;
    size_t i;

    HOLDS((kaws_sign(&a->what, a->who, out, cap, &err) == KAWS_OK) == fits);
    HOLDS((err.text[0] == '\0') == fits);
    if (fits)
        HOLDS(strcmp(told(a, out), told(a, want)) == 0);
    for (i = 0; !fits && i < cap; i++)
        HOLDS(out[i] == '\0');
    free(out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes in = { data, size };
    char *out = malloc(ROOM);
    kaws_error err;
    size_t len;
    ask a;

    HOLDS(out != NULL);
    if (size > 2000)
        return free(out), 0;
    read_ask(&a, in);
    if (kaws_sign(&a.what, a.who, out, ROOM, &err) == KAWS_OK) {
        len = strlen(out);
        sign_again(&a, out, len + 1, 1);
        sign_again(&a, out, len, 0);
        sign_again(&a, out, chance((uint32_t)len), 0);
        shuffle_headers(&a);
        sign_again(&a, out, ROOM, 1);
        shuffle_query(&a);
        sign_again(&a, out, ROOM, 1);
        a.what.when ^= 1;         /* and another time gives another signature */
        if (a.what.when > 0)
            HOLDS(kaws_sign(&a.what, a.who, out + len + 1, ROOM - len - 1,
                            NULL) == KAWS_OK && strcmp(out, out + len + 1));
    } else {
        HOLDS(err.status == KAWS_ARGUMENT && out[0] == '\0');
        HOLDS(strncmp(err.text, "cannot sign: ", 13) == 0);
    }
    forget_ask(&a);
    free(out);
    return 0;
}
