/* test_text.c - room text: every conversion against another way to do it
 *
 *     cc -std=c99 -g -fsanitize=address,undefined -o test_text \
 *        tests/unit/test_text.c -l:libbearssl.a -lcurl -lcmocka
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"

#include <ctype.h>


/* ---- case -------------------------------------------------------------- */

static void
test_alike(void **state)
{
    static const struct { const char *a, *b; int alike; } cases[] = {
        { "", "", 1 },            { "Date", "date", 1 },
        { "X-AMZ-DATE", "x-amz-date", 1 },
        { "date", "dates", 0 },   { "dates", "date", 0 },
        { "", "a", 0 },           { "a", "", 0 },
        { "[", "{", 0 },          { "@", "`", 0 },   { "Z", "z", 1 },
        { "\xc3\x84", "\xc3\xa4", 0 }
    };
    size_t i;
    int c;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++)
        if (kaws__text_alike(kaws__buf_of(cases[i].a), cases[i].b) !=
            cases[i].alike)
            fail_msg("\"%s\" and \"%s\"", cases[i].a, cases[i].b);
    assert_false(kaws__text_alike(unit_bytes("a\0b", 3), "a"));
    for (c = 0; c < 256; c++) {           /* the test runs in the C locale   */
        assert_int_equal(kaws__text_lower(c), tolower(c));
        assert_int_equal(kaws__text_folded(c), isalnum(c) ? tolower(c) : 0);
    }
}


/* As memcmp does; a beginning comes first. */
static void
test_order(void **state)
{
    static const struct { const char *a, *b; int bare, folded; } rows[] = {
        { "", "", 0, 0 },     { "a", "a", 0, 0 },   { "", "a", -1, -1 },
        { "a", "ab", -1, -1 }, { "ab", "b", -1, -1 }, { "A", "a", -1, 0 },
        { "B", "a", -1, 1 },  { "a-", "a", 1, 1 },  { "_", "A", 1, -1 },
        { "\x80", "a", 1, 1 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        kaws_bytes a = kaws__buf_of(rows[i].a), b = kaws__buf_of(rows[i].b);
        int bare = kaws__text_order(a, b, 0), back = kaws__text_order(b, a, 0);
        int folded = kaws__text_order(a, b, 1);
        if ((bare > 0) - (bare < 0) != rows[i].bare ||
            (back < 0) - (back > 0) != rows[i].bare ||
            (folded > 0) - (folded < 0) != rows[i].folded)
            fail_msg("\"%s\" and \"%s\"", rows[i].a, rows[i].b);
    }
}


/* ---- hex --------------------------------------------------------------- */

static void
test_hex(void **state)
{
    uint8_t all[256];
    char want[513], *out;
    size_t i, n;

    (void)state;
    for (i = 0; i < 256; i++) {
        all[i] = (uint8_t)i;
        snprintf(want + 2 * i, 3, "%02x", (unsigned)i);
    }
    for (n = 0; n <= 256; n++) {
        uint8_t *in = unit_exact(all, n);
        out = (char *)unit_exact(NULL, 2 * n + 1);
        kaws__text_hex(out, in, n);
        assert_int_equal(out[2 * n], 0);
        unit_same("hex", out, 2 * n, want, 2 * n);
        free(in);
        free(out);
    }
}


/* ---- base64 ------------------------------------------------------------ */

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";


/* Decodes bit by bit, by a table, in no hurry. 0 for what is not base64. */
static int
slow_unbase64(const uint8_t *in, size_t len, uint8_t *out, size_t *out_len)
{
    size_t i, digits = len, n = 0;
    uint32_t bits = 0;
    int have = 0;

    if (len % 4 != 0)
        return 0;
    while (digits > 0 && len - digits < 2 && in[digits - 1] == '=')
        digits--;
    for (i = 0; i < digits; i++) {
        const char *found = in[i] != 0 ? strchr(alphabet, in[i]) : NULL;
        if (found == NULL)
            return 0;
        bits = bits << 6 | (uint32_t)(found - alphabet);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[n++] = (uint8_t)(bits >> have & 255);
        }
        bits &= (1u << have) - 1;
    }
    *out_len = n;
    return bits == 0;
}


/* Both decoders of the same text agree; and a byte less of room is too
 * little. Returns whether it is base64. */
static int
agree(const uint8_t *text, size_t len)
{
    uint8_t want[512], *in = unit_exact(text, len), *out;
    size_t want_len = 0, got_len = 77;
    int good = slow_unbase64(text, len, want, &want_len);
    size_t cap = good ? want_len : len / 4 * 3;

    assert_true(len < sizeof want);
    out = unit_exact(NULL, cap);
    if (kaws__text_unbase64(unit_bytes(in, len), out, cap, &got_len) != good) {
        unit_caret(in, len, 0);
        fail_msg("should have been %s", good ? "decoded" : "refused");
    }
    if (good)
        unit_same("base64 decoded", out, got_len, want, want_len);
    free(out);
    if (good && want_len > 0) {
        out = unit_exact(NULL, cap - 1);
        assert_false(kaws__text_unbase64(unit_bytes(in, len), out, cap - 1,
                                         &got_len));
        free(out);
    }
    free(in);
    return good;
}


static void
test_base64_vectors(void **state)
{
    unit_file f;
    size_t accepted = 0, refused = 0;

    (void)state;
    unit_open(&f, __FILE__, "base64.txt");
    while (unit_next(&f)) {
        const char *bad = unit_field(&f, "refused", 0);
        size_t len, text_len;
        uint8_t *in, *text;
        kaws__buf out;
        if (bad != NULL) {
            in = unit_undo(bad, &len);
            if (agree(in, len))
                fail_msg("accepted: %s", bad);
            free(in);
            refused++;
            continue;
        }
        text = unit_undo(unit_must(&f, "text"), &text_len);
        in = unit_undo(unit_must(&f, "base64"), &len);
        assert_true(agree(in, len));
        kaws__buf_init(&out, unit_hooks());
        kaws__text_base64(&out, unit_bytes(text, text_len));
        assert_false(out.failed);
        unit_same("base64", out.at, out.len, in, len);
        kaws__buf_free(&out);
        free(in);
        free(text);
        accepted++;
    }
    unit_close(&f);
    assert_in_range(accepted, 8, 1000);
    assert_in_range(refused, 30, 1000);
}


static void
test_base64_round_trip(void **state)
{
    size_t n, round, got;
    unit_ledger ledger;
    kaws__buf none;

    (void)state;
    kaws__buf_init(&none, unit_ledger_open(&ledger));
    ledger.fail_from = 1;
    kaws__text_base64(&none, kaws__buf_of("foo"));
    assert_true(none.failed && none.len == 0);
    unit_start();
    for (n = 0; n <= 200; n++) {
        for (round = 0; round < 20; round++) {
            uint8_t *data = unit_exact(NULL, n), *back = unit_exact(NULL, n);
            kaws__buf out;
            unit_fill(data, n);
            kaws__buf_init(&out, unit_hooks());
            kaws__buf_text(&out, "\"");
            kaws__text_base64(&out, unit_bytes(data, n));
            assert_int_equal(out.len, 1 + (n + 2) / 3 * 4);
            assert_true(agree(out.at + 1, out.len - 1));
            assert_true(kaws__text_unbase64(
                unit_bytes(out.at + 1, out.len - 1), back, n, &got));
            unit_same("base64 there and back", back, got, data, n);
            kaws__buf_free(&out);
            free(data);
            free(back);
        }
    }
}


/* Every pair of bytes, side by side, in the middle of a text and across the
 * border of two groups. */
static void
test_base64_pairs(void **state)
{
    static const char *const texts[] = { "AAAAAAAAAAAA", "////////////" };
    size_t i, accepted = 0;
    int a, b;

    (void)state;
    for (i = 0; i < UNIT_COUNT(texts); i++)
        for (a = 0; a < 256; a++)
            for (b = 0; b < 256; b++) {
                uint8_t text[12];
                memcpy(text, texts[i], 12);
                text[3] = (uint8_t)a;
                text[4] = (uint8_t)b;
                accepted += (size_t)agree(text, 12);
            }
    assert_int_equal(accepted, 64 * 64 * UNIT_COUNT(texts));
}


/* Texts that are base64 but for a few bytes, and a block of wild ones: several
 * digits may be worked on at once, and none may disturb its neighbour. */
static void
test_base64_random(void **state)
{
    size_t round, i, accepted = 0;

    (void)state;
    unit_start();
    for (round = 0; round < 100000; round++) {
        uint32_t wild = unit_random(3) == 0 ? unit_random(256) : 0;
        uint8_t text[28];
        size_t len = 4 * unit_random(8);
        for (i = 0; i < len; i++) {
            text[i] = (uint8_t)alphabet[unit_random(64)];
            if (unit_random(256) < wild)
                text[i] = (uint8_t)(unit_random(2) ? unit_random(256) : '=');
        }
        accepted += (size_t)agree(text, len);
    }
    assert_in_range(accepted, round / 2, round);
}


/* ---- percent ----------------------------------------------------------- */

static int
keep_none(int c)
{
    (void)c;
    return 0;
}


static int
keep_even(int c)
{
    assert_in_range(c, 0, 255);
    return c % 2 == 0;
}


static void
test_percent(void **state)
{
    static int (*const keeps[])(int) = { keep_none, keep_even };
    char want[3 * 256 + 1];
    size_t len, i, k, n;

    (void)state;
    unit_start();
    for (k = 0; k < UNIT_COUNT(keeps); k++)
        for (len = 0; len <= 256; len++) {
            uint8_t *in = unit_exact(NULL, len);
            kaws__buf out;
            unit_fill(in, len);
            for (i = n = 0; i < len; i++) {
                in[i] = len == 256 ? (uint8_t)i : in[i];
                snprintf(want + n, 4, "%%%02X", (unsigned)in[i]);
                if (keeps[k](in[i]))
                    want[n] = (char)in[i];
                n += keeps[k](in[i]) ? 1 : 3;
            }
            kaws__buf_init(&out, unit_hooks());
            kaws__text_percent(&out, unit_bytes(in, len), keeps[k]);
            unit_same("percent", out.at, out.len, want, n);
            kaws__buf_free(&out);
            free(in);
        }
}


/* ---- UTF-8 ------------------------------------------------------------- */

/* RFC 3629, section 4, production by production: the range of each byte. */
static const struct { int len; uint8_t range[4][2]; } grammar[] = {
    { 1, { { 0x00, 0x7f } } },
    { 2, { { 0xc2, 0xdf }, { 0x80, 0xbf } } },
    { 3, { { 0xe0, 0xe0 }, { 0xa0, 0xbf }, { 0x80, 0xbf } } },
    { 3, { { 0xe1, 0xec }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 3, { { 0xed, 0xed }, { 0x80, 0x9f }, { 0x80, 0xbf } } },
    { 3, { { 0xee, 0xef }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 4, { { 0xf0, 0xf0 }, { 0x90, 0xbf }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 4, { { 0xf1, 0xf3 }, { 0x80, 0xbf }, { 0x80, 0xbf }, { 0x80, 0xbf } } },
    { 4, { { 0xf4, 0xf4 }, { 0x80, 0x8f }, { 0x80, 0xbf }, { 0x80, 0xbf } } }
};


static size_t
slow_utf8(const uint8_t *at, size_t len)
{
    size_t i;
    int k;

    for (i = 0; i < UNIT_COUNT(grammar); i++) {
        if (len < (size_t)grammar[i].len)
            continue;
        for (k = 0; k < grammar[i].len; k++)
            if (at[k] < grammar[i].range[k][0] ||
                at[k] > grammar[i].range[k][1])
                break;
        if (k == grammar[i].len)
            return (size_t)k;
    }
    return 0;
}


static void
check_utf8(const uint8_t *four, size_t len)
{
    size_t got = kaws__text_utf8(four, len), want = slow_utf8(four, len);

    if (got != want)
        fail_msg("%02x %02x %02x %02x, %lu bytes of it: %lu, not %lu", four[0],
                 four[1], four[2], four[3], (unsigned long)len,
                 (unsigned long)got, (unsigned long)want);
}


/* All first and second bytes, with third and fourth ones at the borders. */
static void
test_utf8_borders(void **state)
{
    static const uint8_t borders[] = {
        0x00, 0x22, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff
    };
    size_t a, b, c, d, len;
    uint8_t four[4];

    (void)state;
    for (a = 0; a < 256; a++)
        for (b = 0; b < 256; b++)
            for (c = 0; c < UNIT_COUNT(borders); c++)
                for (d = 0; d < UNIT_COUNT(borders); d++) {
                    four[0] = (uint8_t)a;
                    four[1] = (uint8_t)b;
                    four[2] = borders[c];
                    four[3] = borders[d];
                    check_utf8(four, 4);
                }
    for (a = 0; a < 256; a++)                /* cut: the rest is not read   */
        for (len = 0; len < 4; len++) {
            uint8_t *cut;
            memset(four, 0x90, 4);
            four[0] = (uint8_t)a;
            cut = unit_exact(four, len);
            assert_int_equal(kaws__text_utf8(cut, len), slow_utf8(four, len));
            free(cut);
        }
}


/* Every character of Unicode, encoded by the reader's own encoder too. */
static void
test_utf8_characters(void **state)
{
    uint32_t c;

    (void)state;
    for (c = 0; c < 0x110000; c++) {
        uint8_t four[4], *end = kaws__json_put_utf8(four, c);
        size_t len = (size_t)(end - four);
        int half = c >= 0xd800 && c <= 0xdfff;
        size_t want = half ? 0 : c < 0x80 ? 1 : c < 0x800 ? 2
                    : c < 0x10000 ? 3 : 4;
        if (slow_utf8(four, len) != want ||
            kaws__text_utf8(four, len) != want)
            fail_msg("U+%04lX", (unsigned long)c);
    }
}


static void
test_is_utf8(void **state)
{
    static const char *const good[] = { "", "plain", "gr\xc3\xbc\xc3\x9f",
                                        "\xf0\x9f\x94\x91 key" };
    static const char *const bad[] = { "\x80", "a\xbf", "a\xc3", "\xe2\x82",
                                       "\xc3\xbc\xc3", "\303a",
                                       "\xc3\xbc\xff" };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(good); i++)
        assert_true(kaws__text_is_utf8(kaws__buf_of(good[i])));
    for (i = 0; i < UNIT_COUNT(bad); i++)
        assert_false(kaws__text_is_utf8(kaws__buf_of(bad[i])));
    assert_true(kaws__text_is_utf8(unit_bytes("a\0b", 3)));
}


/* ---- show -------------------------------------------------------------- */

static void
test_show_vectors(void **state)
{
    char out[300];
    unit_file f;
    size_t count = 0, len, k;

    (void)state;
    unit_open(&f, __FILE__, "show.txt");
    for (; unit_next(&f); count++) {
        const char *const names[] = { "quoted", "shown" };
        uint8_t *text = unit_undo(unit_must(&f, "text"), &len);
        for (k = 0; k < 2; k++) {
            const char *want = unit_field(&f, names[k], 0);
            if (want != NULL && strcmp(want, "-") == 0)
                continue;
            kaws__text_filter(out, sizeof out, unit_bytes(text, len), k != 0);
            unit_same_text(names[k], out, want != NULL ? want
                                                       : unit_must(&f, "text"));
        }
        free(text);
    }
    unit_close(&f);
    assert_in_range(count, 44, 1000);
    unit_same_text("no name", kaws_show(out, sizeof out, NULL), "");
    unit_same_text("for all", kaws_show(out, sizeof out, "it's\n"),
                   "it\\x27s\\x0a");
}


/* In arrays of all sizes: the whole, or as much of it as fits before dots; and
 * every byte is escaped, or stands for itself. */
static void
test_show_sizes(void **state)
{
    static char whole[2000];
    uint8_t data[256];
    size_t cap, i, n;
    int own;

    (void)state;
    for (own = 0; own < 2; own++) {
        for (i = n = 0; i < 256; i++) {
            int c = (int)(data[i] = (uint8_t)(i * 151));
            int bare = c >= ' ' && c < 0x7f && c != '\\' && (c != '\'' || !own);
            c = c == '@' ? data[i] = 'x' : c;
            n += (size_t)snprintf(whole + n, 5, bare ? "%c" : "\\x%02x",
                                  (unsigned)c);
        }
        for (cap = 8; cap < n + 10; cap++) {
            char *out = (char *)unit_exact(NULL, cap);
            size_t len;
            kaws__text_filter(out, cap, unit_bytes(data, 256), own);
            len = strlen(out);
            if (n + 4 > cap) {
                assert_in_range(len + 4, cap - 3, cap + 3);
                len -= 3;
                unit_same_text("dots", out + len, "...");
            }
            unit_same("shown", out, len, whole, cap < n + 4 ? len : n);
            free(out);
        }
    }
}


static void
test_holds(void **state)
{
    static const struct { const char *text, *secret; int holds; } rows[] = {
        { "", "", 0 },             { "abc", "", 0 },        { "", "abc", 0 },
        { "abcdefgh", "abcdefgh", 1 },  { "<abcdefgh>", "12abcdefgh34", 1 },
        { "ABCdEFGH", "abcDefgh", 1 },  { "abcdefg", "abcdefgh", 0 },
        { "a-b-c-d-e-f-g-h", "abcdefgh", 1 },
        { "abcdefgh", "a/b+c/d+e/f=gh", 1 },
        { "a\\x0ab\\xffc\\x41d efgh", "abcdefgh", 1 },
        { "a\\x0", "ax0", 1 },          { "abcdefg", "xabcdefgx", 0 },
        { "a pass, not word", "password", 0 },
        { "the PASS", "pa#ss", 1 },     { "the pas", "pa#ss", 0 },
        { "ass", "pass", 0 },           { "pa", "--pa", 1 },
        { "-#-", "-#-", 0 },            { "abcabcabd", "abcabd", 1 },
        { "aaaaaaaab", "aaaaaaab", 1 }, { "aaaaaaa", "aaaaaaaa", 0 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++)
        if (kaws__text_holds(kaws__buf_of(rows[i].text),
                             kaws__buf_of(rows[i].secret)) != rows[i].holds)
            fail_msg("\"%s\" and \"%s\"", rows[i].text, rows[i].secret);
    assert_true(kaws__text_holds(unit_bytes("a\0bcdefgh", 9),
                                 unit_bytes("abcdefgh\0", 9)));
    assert_false(kaws__text_holds(unit_bytes(NULL, 0), unit_bytes(NULL, 0)));
}


/* Letters and digits in lower case; of a text of ours, escapes are undone. */
static size_t
slow_fold(char *out, const char *text, size_t len, int ours)
{
    size_t i, n = 0;

    for (i = 0; i < len; i++) {
        if (ours && text[i] == '\\')
            i += 3;
        else if (isalnum((unsigned char)text[i]))
            out[n++] = (char)tolower((unsigned char)text[i]);
    }
    out[n] = '\0';
    return n;
}


/* Whether eight of the secret's letters stand together in the text. */
static int
slow_holds(const char *text, size_t len, const char *secret, size_t secret_len,
           int ours)
{
    char a[2000], b[2000];
    size_t n = slow_fold(b, secret, secret_len, 0), i;

    slow_fold(a, text, len, ours);
    for (i = 0; i + 8 <= n; i++) {
        char piece[9] = "";
        memcpy(piece, b + i, 8);
        if (strstr(a, piece) != NULL)
            return 1;
    }
    return n > 0 && n < 8 && strstr(a, b) != NULL;
}


/* Against the slow way, over so few letters that much is nearly there. */
static void
test_holds_as_the_slow_way(void **state)
{
    static const char letters[] = "aAbB1-";
    char text[40], secret[16];
    size_t round, i, len, n, found = 0;

    (void)state;
    unit_start();
    for (round = 0; round < 200000; round++) {
        len = unit_random(sizeof text);
        n = unit_random(sizeof secret);
        for (i = 0; i < len; i++)
            text[i] = letters[unit_random(6)];
        for (i = 0; i < n; i++)
            secret[i] = letters[unit_random(6)];
        if (kaws__text_holds(unit_bytes(text, len), unit_bytes(secret, n)) !=
            slow_holds(text, len, secret, n, 0))
            fail_msg("\"%.*s\" and \"%.*s\"", (int)len, text, (int)n, secret);
        found += (size_t)slow_holds(text, len, secret, n, 0);
    }
    assert_in_range(found, 20000, 180000);
}


/* A secret as there are: the base64 of 16, of 24 or of 32 bytes, a secret
 * access key, a token, a signature. Returns its length. */
static size_t
new_secret(char *out, size_t kind)
{
    static const size_t bytes[] = { 16, 24, 32, 30, 300, 32 };
    uint8_t data[300];
    kaws__buf text;
    size_t len = bytes[kind];

    unit_fill(data, len);
    if (kind == 5) {
        kaws__text_hex(out, data, len);
        return 2 * len;
    }
    kaws__buf_init(&text, unit_hooks());
    kaws__text_base64(&text, unit_bytes(data, len));
    memcpy(out, text.at, text.len);
    len = text.len;
    out[len] = '\0';
    kaws__buf_free(&text);
    return len;
}


/* Random words with a secret in them: as it is, in another case, with
 * something between its letters; all of it or a piece. */
static size_t
hide_secret(char *out, const char *secret, size_t len, int plain)
{
    static const char between[] = "-./:_ '@\n\0\\\x1b\xff";
    size_t n = 0, i, every = plain || unit_random(2) ? len : unit_random(7);
    size_t from = plain ? 0 : unit_random((uint32_t)len);
    uint32_t swap = unit_random(3);

    for (i = unit_random(60); i > 0; i--)
        out[n++] = (char)(unit_random(4) ? 32 + unit_random(95)
                                         : unit_random(256));
    for (i = from; i < len; i++) {
        int c = (unsigned char)secret[i];
        if (swap == 1 || (swap == 2 && unit_random(2)))
            c = isupper(c) ? tolower(c) : toupper(c);
        out[n++] = (char)c;
        if ((i + 1) % (every + 1) == 0)
            out[n++] = between[unit_random(sizeof between - 1)];
    }
    for (i = unit_random(60); i > 0; i--)
        out[n++] = (char)(32 + unit_random(95));
    return n;
}


/* Wherever it stands, and however it is written: of a secret that is known, no
 * eight letters are let through; of one that is not, and stands there as it is,
 * or in another case, no eight either, if it is as long as KMS's keys are and
 * has letters of both cases and digits. */
static void
test_no_secret_is_let_through(void **state)
{
    char secret[402], words[1000], out[600];
    size_t round, kept = 0;

    (void)state;
    unit_start();
    for (round = 0; round < 60000; round++) {
        size_t kind = round % 6, len = new_secret(secret, kind);
        size_t n = hide_secret(words, secret, len, 0);
        kaws__text_quote(out, 8 + unit_random(sizeof out - 8),
                         unit_bytes(words, n));
        if (kaws__text_holds(kaws__buf_of(out), unit_bytes(secret, len)))
            out[0] = '\0';
        kept += out[0] != '\0';
        if (slow_holds(out, strlen(out), secret, len, 1))
            fail_msg("of %.*s: %s", (int)len, secret, out);
        if (kind < 2 || kind > 4 || strpbrk(secret, "0123456789") == NULL)
            continue;
        n = hide_secret(words, secret, len, 1);
        kaws__text_quote(out, sizeof out, unit_bytes(words, n));
        if (slow_holds(out, strlen(out), secret, len, 1))
            fail_msg("unknown, of %.*s: %s", (int)len, secret, out);
    }
    assert_in_range(kept, 1000, 59000);
}


/* ---- numbers ----------------------------------------------------------- */

static void
test_number(void **state)
{
    static const struct {
        const char *text;
        uint32_t most;
        int good;
        uint32_t value;
    } cases[] = {
        { "0", 0, 1, 0 },                { "1", 0, 0, 0 },
        { "7", 10, 1, 7 },               { "10", 10, 1, 10 },
        { "11", 10, 0, 0 },              { "007", 10, 1, 7 },
        { "4294967295", 4294967295u, 1, 4294967295u },
        { "4294967296", 4294967295u, 0, 0 },
        { "4294967295", 4294967294u, 0, 0 },
        { "9999999999", 4294967295u, 0, 0 },
        { "0000000001", 10, 1, 1 },      { "00000000001", 10, 0, 0 },
        { "18446744073709551617", 4294967295u, 0, 0 },
        { "", 10, 0, 0 },                { "-1", 10, 0, 0 },
        { "+1", 10, 0, 0 },              { " 1", 10, 0, 0 },
        { "1 ", 10, 0, 0 },              { "1.0", 10, 0, 0 },
        { "1e1", 10, 0, 0 },             { "0x1", 10, 0, 0 },
        { "/", 10, 0, 0 },               { ":", 10, 0, 0 },
        { "\xd9\xa1", 10, 0, 0 }
    };
    uint32_t cut;
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        size_t len = strlen(cases[i].text);
        uint8_t *text = unit_exact(cases[i].text, len);
        uint32_t value = 12345;
        int good = kaws__text_number(unit_bytes(text, len), cases[i].most,
                                     &value);
        if (good != cases[i].good ||
            value != (good ? cases[i].value : 12345))
            fail_msg("\"%s\", at most %lu: %d, %lu", cases[i].text,
                     (unsigned long)cases[i].most, good,
                     (unsigned long)value);
        free(text);
    }
    assert_false(kaws__text_number(unit_bytes("1\0", 2), 10, &cut));
}


/* ---- dates ------------------------------------------------------------- */

static const char day_names[] = "Thu\0Fri\0Sat\0Sun\0Mon\0Tue\0Wed";
static const char month_names[] =
    "Jan\0Feb\0Mar\0Apr\0May\0Jun\0Jul\0Aug\0Sep\0Oct\0Nov\0Dec";


static int
days_in(int year, int month)
{
    static const int days[] = { 31, 28, 31, 30, 31, 30,
                                31, 31, 30, 31, 30, 31 };
    int leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    return days[month - 1] + (month == 2 && leap);
}


/* Every day of the years 1970 to 2100, counted by hand; a second of it. */
static void
test_days(void **state)
{
    int year = 1970, month = 1, day = 1, second = 0;
    int64_t days, when;
    char amz[17], want[64], http[64];

    (void)state;
    for (days = 0; year <= 2100; days++) {
        assert_true(kaws__text_days(year, month, day) == days);
        second = (second + 28657) % 86400;
        when = days * 86400 + second;
        snprintf(want, sizeof want, "%04d%02d%02dT%02d%02d%02dZ", year, month,
                 day, second / 3600, second / 60 % 60, second % 60);
        kaws__text_amz_date(amz, when);
        unit_same_text("amz_date", amz, want);
        snprintf(http, sizeof http, "%s, %02d %s %04d %02d:%02d:%02d GMT",
                 day_names + 4 * (days % 7), day, month_names + 4 * (month - 1),
                 year, second / 3600, second / 60 % 60, second % 60);
        if (kaws__text_http_date(kaws__buf_of(http)) != when)
            fail_msg("http_date of %s", http);
        if (++day > days_in(year, month)) {
            snprintf(http, sizeof http, "%s, %02d %s %04d 00:00:00 GMT",
                     day_names + 4 * ((days + 1) % 7), day,
                     month_names + 4 * (month - 1), year);
            assert_true(kaws__text_http_date(kaws__buf_of(http)) == 0);
            day = 1;
            year += month == 12;
            month = month == 12 ? 1 : month + 1;
        }
    }
    assert_int_equal(days, 47847);
}


static void
test_amz_date_ends(void **state)
{
    static const struct { int64_t when; const char *text; } cases[] = {
        { 0, "19700101T000000Z" },           { 1, "19700101T000001Z" },
        { 86399, "19700101T235959Z" },       { 86400, "19700102T000000Z" },
        { 1440938160, "20150830T123600Z" },  { 951782399, "20000228T235959Z" },
        { 951782400, "20000229T000000Z" },   { 951868800, "20000301T000000Z" },
        { 2147483647, "20380119T031407Z" },  { 2147483648, "20380119T031408Z" },
        { 4107542400, "21000301T000000Z" },  { 4294967296, "21060207T062816Z" },
        { 253402300799, "99991231T235959Z" },
        { 253402300800, "19700101T000000Z" }, { -1, "19700101T000000Z" },
        { INT64_MAX, "19700101T000000Z" },    { INT64_MIN, "19700101T000000Z" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(cases); i++) {
        char *out = (char *)unit_exact(NULL, 17);
        kaws__text_amz_date(out, cases[i].when);
        assert_int_equal(out[16], 0);
        unit_same_text("amz_date", out, cases[i].text);
        free(out);
    }
}


static void
test_http_date_vectors(void **state)
{
    unit_file f;
    size_t count = 0;

    (void)state;
    unit_open(&f, __FILE__, "http_date.txt");
    while (unit_next(&f)) {
        size_t len;
        uint8_t *text = unit_undo(unit_must(&f, "date"), &len);
        long long want = strtoll(unit_must(&f, "seconds"), NULL, 10);
        long long got = kaws__text_http_date(unit_bytes(text, len));
        if (got != want) {
            unit_caret(text, len, 0);
            fail_msg("is %lld, not %lld", got, want);
        }
        free(text);
        count++;
    }
    unit_close(&f);
    assert_in_range(count, 50, 1000);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alike),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_base64_vectors),
        cmocka_unit_test(test_base64_round_trip),
        cmocka_unit_test(test_base64_pairs),
        cmocka_unit_test(test_base64_random),
        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_utf8_borders),
        cmocka_unit_test(test_utf8_characters),
        cmocka_unit_test(test_is_utf8),
        cmocka_unit_test(test_show_vectors),
        cmocka_unit_test(test_show_sizes),
        cmocka_unit_test(test_holds),
        cmocka_unit_test(test_holds_as_the_slow_way),
        cmocka_unit_test(test_no_secret_is_let_through),
        cmocka_unit_test(test_number),
        cmocka_unit_test(test_days),
        cmocka_unit_test(test_amz_date_ends),
        cmocka_unit_test(test_http_date_vectors)
    };

    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
