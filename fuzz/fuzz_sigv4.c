/* Room 8: any request, signed in one go, step by step, and in another order.
 *
 *     mkdir -p build/fuzz/corpus/sigv4
 *     clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined \
 *         -fno-sanitize-recover=all -o build/fuzz/fuzz_sigv4 \
 *         fuzz/fuzz_sigv4.c -l:libbearssl.a -lpthread
 *     build/fuzz/fuzz_sigv4 -max_len=2000 -dict=fuzz/sigv4.dict \
 *         build/fuzz/corpus/sigv4 fuzz/corpus/sigv4
 *
 * The input is a seed, a time, the strings of a request, each with a NUL behind
 * it, and the body. The canonical request is built a second time, with sorting
 * and joining as plain as can be. Headers and parameters in another order,
 * names in another case and wider blanks must give the same signature; a room
 * too small by a byte must be refused.
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


/* ---- the canonical request, the plain way ------------------------------ */

typedef struct pair {             /* a header or a parameter                  */
    char  *name, *value;
    size_t place;
} pair;


static int
by_place(const pair *a, const pair *b)
{
    return a->place < b->place ? -1 : a->place > b->place;
}


static int
by_name_and_place(const void *a, const void *b)
{
    int order = strcmp(((const pair *)a)->name, ((const pair *)b)->name);

    return order != 0 ? order : by_place(a, b);
}


static int
by_name_and_value(const void *a, const void *b)
{
    int order = strcmp(((const pair *)a)->name, ((const pair *)b)->name);

    return order != 0 ? order : strcmp(((const pair *)a)->value,
                                       ((const pair *)b)->value);
}


static char *
copy_of(const char *text, size_t len)
{
    kaws_bytes in = { (const uint8_t *)text, len };

    return fuzz_string(&in);
}


static void
plain_path(kaws__buf *out, const char *path)
{
    static const char kept[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst"
                               "uvwxyz0123456789-._~";
    const char *stack[1024];
    size_t lens[1024], depth = 0, i, k, n;
    size_t len = strlen(path);

    for (; *path != '\0'; path += n + (path[n] == '/')) {
        n = strcspn(path, "/");
        if (n == 2 && memcmp(path, "..", 2) == 0)
            depth -= depth > 0;
        else if (n > 0 && !(n == 1 && *path == '.'))
            stack[depth] = path, lens[depth++] = n;
    }
    for (i = 0; i < depth; i++) {
        kaws__buf_byte(out, '/');
        for (k = 0; k < lens[i]; k++) {
            unsigned c = (uint8_t)stack[i][k];
            char code[4];
            (void)snprintf(code, sizeof code, strchr(kept, (int)c) != NULL
                           ? "%c" : "%%%02X", c);
            kaws__buf_text(out, code);
        }
    }
    if (depth == 0 || (len > 0 && path[-1] == '/'))
        kaws__buf_byte(out, '/');
}


static void
plain_query(kaws__buf *out, const char *query)
{
    pair all[KAWS__SIGV4_MAX];
    size_t count = 0, i, n, name;

    for (; query != NULL && (count > 0 || *query != '\0'); query += n + 1) {
        n = strcspn(query, "&");
        name = strcspn(query, "&=");
        HOLDS(count < KAWS__SIGV4_MAX);
        all[count].name = copy_of(query, name);
        all[count++].value = copy_of(query + name + (name < n),
                                     n - name - (name < n));
        if (query[n] == '\0')
            break;
    }
    qsort(all, count, sizeof all[0], by_name_and_value);
    for (i = 0; i < count; i++) {
        kaws__buf_text(out, i > 0 ? "&" : "");
        kaws__buf_text(out, all[i].name);
        kaws__buf_byte(out, '=');
        kaws__buf_text(out, all[i].value);
        free(all[i].name);
        free(all[i].value);
    }
}


static void
plain_header(pair *p, const char *line, size_t place)
{
    char *to;
    size_t i, n = strcspn(line, ":");
    const char *from = line + n + 1;

    p->name = copy_of(line, n);
    p->value = to = copy_of(from, strlen(from));
    p->place = place;
    for (i = 0; i < n; i++)
        if (p->name[i] >= 'A' && p->name[i] <= 'Z')
            p->name[i] = (char)(p->name[i] + 32);
    for (from += strspn(from, " \t"); *from != '\0'; from += i) {
        n = strcspn(from, " \t");
        memcpy(to, from, n);
        to += n;
        from += n;
        i = strspn(from, " \t");
        if (i > 0 && from[i] != '\0')
            *to++ = ' ';
    }
    *to = '\0';
}


static void
plain_headers(kaws__buf *out, const ask *a, const char *date)
{
    pair all[MOST + 2];
    char extra[2 * ROOM];
    size_t count = 0, i;
    int dated = 0, tokened = a->who.token == NULL || *a->who.token == '\0';

    for (; a->lines[count] != NULL; count++) {
        plain_header(&all[count], a->lines[count], count);
        dated |= strcmp(all[count].name, "x-amz-date") == 0;
        tokened |= strcmp(all[count].name, "x-amz-security-token") == 0;
    }
    (void)snprintf(extra, sizeof extra, "x-amz-date:%s", date);
    if (!dated)
        plain_header(&all[count], extra, count), count++;
    if (!tokened) {
        (void)snprintf(extra, sizeof extra, "x-amz-security-token:%s",
                       a->who.token);
        plain_header(&all[count], extra, count), count++;
    }
    qsort(all, count, sizeof all[0], by_name_and_place);
    for (i = 0; i < count; i++) {
        int again = i > 0 && strcmp(all[i - 1].name, all[i].name) == 0;
        kaws__buf_text(out, again ? "," : i > 0 ? "\n" : "");
        kaws__buf_text(out, again ? "" : all[i].name);
        kaws__buf_text(out, again ? "" : ":");
        kaws__buf_text(out, all[i].value);
    }
    kaws__buf_text(out, "\n\n");
    for (i = 0; i < count; i++)
        if (i == 0 || strcmp(all[i - 1].name, all[i].name) != 0) {
            kaws__buf_text(out, i > 0 ? ";" : "");
            kaws__buf_text(out, all[i].name);
        }
    for (i = 0; i < count; i++) {
        free(all[i].name);
        free(all[i].value);
    }
}


/* ---- step by step ------------------------------------------------------ */

static void
hex_of(char hex[65], kaws_bytes data)
{
    uint8_t digest[32];

    kaws__crypto_sha256(digest, data);
    kaws__text_hex(hex, digest, 32);
}


static void
step_by_step(const ask *a, const char *authorization)
{
    kaws__sigv4 s;
    kaws__buf plain, streamed, text;
    kaws__sink sink = { fuzz_put, NULL };
    uint8_t signature[32];
    kaws__mac_key key;
    char hex[65], want[ROOM];
    const char *names;

    kaws__buf_init(&plain, &fuzz_hooks);
    kaws__buf_init(&streamed, &fuzz_hooks);
    kaws__buf_init(&text, &fuzz_hooks);
    HOLDS(kaws__sigv4_gather(&s, &a->what, a->who.token));
    sink.to = &streamed;
    HOLDS(kaws__sigv4_canonical_request(&s, &sink));
    kaws__buf_text(&plain, a->what.method);
    kaws__buf_byte(&plain, '\n');
    plain_path(&plain, a->what.path);
    kaws__buf_byte(&plain, '\n');
    plain_query(&plain, a->what.query);
    kaws__buf_byte(&plain, '\n');
    plain_headers(&plain, a, s.date);
    hex_of(hex, a->what.body);
    kaws__buf_byte(&plain, '\n');
    kaws__buf_text(&plain, hex);
    HOLDS(kaws__buf_same(kaws__buf_view(&plain), kaws__buf_view(&streamed)));

    hex_of(hex, kaws__buf_view(&plain));
    sink.to = &text;
    kaws__sigv4_string_to_sign(&s, hex, &sink);
    HOLDS(kaws__sigv4_key(&key, a->who.secret, s.date, a->what.region,
                          a->what.service));
    kaws__crypto_mac(signature, &key, kaws__buf_view(&text));
    kaws__text_hex(hex, signature, 32);
    names = (const char *)plain.at + plain.len - 65;
    while (names[-1] != '\n')
        names--;                          /* the last line but one           */
    (void)snprintf(want, sizeof want, "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/"
                   "%s/aws4_request, SignedHeaders=%.*s, Signature=%s",
                   a->who.id, s.date, a->what.region, a->what.service,
                   (int)strcspn(names, "\n"), names, hex);
    HOLDS(strcmp(authorization, want) == 0);
    kaws__buf_free(&plain);
    kaws__buf_free(&streamed);
    kaws__buf_free(&text);
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


static void
sign_again(ask *a, const char *want, size_t cap, int fits)
{
    char *out = malloc(cap);
    kaws_error err;

    HOLDS((kaws_sign(&a->what, a->who, out, cap, &err) == KAWS_OK) == fits);
    HOLDS((err.text[0] == '\0') == fits);
    HOLDS(fits ? strcmp(out, want) == 0 : cap == 0 || out[0] == '\0');
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
        step_by_step(&a, out);
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
