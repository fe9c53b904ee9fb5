/* test_text.c - room text: every conversion against another way to do it
 */

#define FUZZ_HEADER_LINES                 /* the built-in sender, too        */
#include "../../fuzz/fuzz.h"
#include "../../fuzz/judge.h"

#include "unit.h"

#include <ctype.h>


/* ---- case -------------------------------------------------------------- */

/* As memcmp compares; a text comes before a longer one that begins with it. */
static void
test_texts_are_ordered_as_by_memcmp(void **state)
{
    static const struct { const char *a, *b; int bare, folded; } rows[] = {
        { "", "", 0, 0 },     { "a", "a", 0, 0 },   { "", "a", -1, -1 },
        { "a", "ab", -1, -1 }, { "ab", "b", -1, -1 }, { "A", "a", -1, 0 },
        { "B", "a", -1, 1 },  { "a-", "a", 1, 1 },  { "_", "A", 1, -1 },
        { "\x80", "a", 1, 1 }, { "X-AMZ-DATE", "x-amz-date", -1, 0 },
        { "[", "{", -1, -1 }, { "@", "`", -1, -1 }, { "Z", "z", -1, 0 },
        { "\xc3\x84", "\xc3\xa4", -1, -1 }
    };
    size_t i;
    int c;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        kaws_bytes a = kaws__buf_of(rows[i].a), b = kaws__buf_of(rows[i].b);
        int bare = kaws__text_order(a, b, 0), back = kaws__text_order(b, a, 0);
        int folded = kaws__text_order(a, b, 1);
        if ((bare > 0) - (bare < 0) != rows[i].bare ||
            (back < 0) - (back > 0) != rows[i].bare ||
            (folded > 0) - (folded < 0) != rows[i].folded ||
            kaws__text_alike(a, rows[i].b) != (rows[i].folded == 0))
            fail_msg("\"%s\" and \"%s\"", rows[i].a, rows[i].b);
    }
    assert_false(kaws__text_alike(unit_bytes("a\0b", 3), "a"));
    for (c = 0; c < 256; c++) {           /* the test runs in the C locale   */
        assert_int_equal(kaws__text_lower(c), tolower(c));
        assert_int_equal(kaws__text_folded(c), isalnum(c) ? tolower(c) : 0);
    }
}


/* ---- hex --------------------------------------------------------------- */

static void
test_hex_digits(void **state)
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

/* Our decoder and judge.h's agree, and a byte less of room is too little.
 * Returns whether the text is base64. */
static int
agree(const uint8_t *text, size_t len)
{
    uint8_t want[512], *in = unit_exact(text, len), *out;
    long want_len = judge_base64(unit_bytes(text, len), want);
    int good = want_len >= 0;
    size_t cap = good ? (size_t)want_len : len / 4 * 3, got_len = 77;

    assert_true(len < sizeof want);
    out = unit_exact(NULL, cap);
    if (kaws__text_unbase64(unit_bytes(in, len), out, cap, &got_len) != good) {
        unit_caret(in, len, 0);
        fail_msg("should have been %s", good ? "decoded" : "refused");
    }
    if (good)
        unit_same("base64 decoded", out, got_len, want, cap);
    free(out);
    if (good && cap > 0) {
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
        size_t len, text_len, n = 0;
        uint8_t *in, *text;
        kaws__buf out;
        for (; bad != NULL; bad = unit_field(&f, "refused", ++n)) {
            in = unit_undo(bad, &len);
            if (agree(in, len))
                fail_msg("accepted: %s", bad);
            free(in);
            refused++;
        }
        if (n > 0)
            continue;
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
    size_t round, n, got;
    unit_ledger ledger;
    kaws__buf out;

    (void)state;
    kaws__buf_init(&out, unit_ledger_open(&ledger));
    ledger.fail_from = 1;
    kaws__text_base64(&out, kaws__buf_of("foo"));
    assert_true(out.failed && out.len == 0);
    unit_start();
    for (round = 0; round <= 4000; round++) {
        uint8_t *data = unit_exact(NULL, n = round / 20);
        uint8_t *back = unit_exact(NULL, n);
        unit_fill(data, n);
        kaws__buf_init(&out, unit_hooks());
        kaws__buf_text(&out, "\"");
        kaws__text_base64(&out, unit_bytes(data, n));
        assert_int_equal(out.len, 1 + (n + 2) / 3 * 4);
        assert_true(agree(out.at + 1, out.len - 1));
        assert_true(kaws__text_unbase64(unit_bytes(out.at + 1, out.len - 1),
                                        back, n, &got));
        unit_same("base64 encoded and decoded", back, got, data, n);
        kaws__buf_free(&out);
        free(data);
        free(back);
    }
}


/* Every pair of bytes, side by side, in the middle of a text and across the
 * border of two groups. */
static void
test_base64_of_every_pair_of_bytes(void **state)
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


/* Texts that are base64 except for a few bytes, and a block of random ones.
 * Several digits may be decoded at once, and none may disturb its neighbour. */
static void
test_base64_with_wrong_bytes_is_refused(void **state)
{
    size_t round, i, accepted = 0;

    (void)state;
    unit_start();
    for (round = 0; round < unit_rounds(100000); round++) {
        uint32_t wild = unit_random(3) == 0 ? unit_random(256) : 0;
        uint8_t text[28];
        size_t len = 4 * unit_random(8);
        for (i = 0; i < len; i++) {
            do
                text[i] = (uint8_t)('+' + unit_random('z' + 1 - '+'));
            while (!isalnum(text[i]) && text[i] != '+' && text[i] != '/');
            if (unit_random(256) < wild)
                text[i] = (uint8_t)(unit_random(2) ? unit_random(256) : '=');
        }
        accepted += (size_t)agree(text, len);
    }
    assert_in_range(accepted, round / 2, round);
}


/* ---- percent ----------------------------------------------------------- */

static int
keep_even(int c)
{
    assert_in_range(c, 0, 255);
    return c % 2 == 0;
}


static void
test_percent_keeps_what_it_is_told_to(void **state)
{
    char want[3 * 256 + 1];
    size_t len, i, n;

    (void)state;
    unit_start();
    for (len = 0; len <= 256; len++) {
        uint8_t *in = unit_exact(NULL, len);
        kaws__buf out;
        unit_fill(in, len);
        for (i = n = 0; i < len; i++) {
            int c = in[i] = len == 256 ? (uint8_t)i : in[i];
            n += (size_t)snprintf(want + n, 4, "%%%02X", (unsigned)c);
            if (keep_even(c))
                want[(n -= 2) - 1] = (char)c;
        }
        kaws__buf_init(&out, unit_hooks());
        kaws__text_percent(&out, unit_bytes(in, len), keep_even);
        unit_same("percent", out.at, out.len, want, n);
        kaws__buf_free(&out);
        free(in);
    }
}


/* ---- UTF-8 ------------------------------------------------------------- */

/* All first and second bytes, with third and fourth ones at the borders; and a
 * character that is cut: nothing is read after it. */
static void
test_utf8_at_its_borders(void **state)
{
    static const uint8_t borders[] = {
        0x00, 0x22, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff
    };
    const size_t n = UNIT_COUNT(borders);
    size_t i, len;

    (void)state;
    for (i = 0; i < 65536 * n * n; i++) {
        uint8_t four[] = { (uint8_t)i, (uint8_t)(i >> 8),
                           borders[(i >> 16) % n], borders[(i >> 16) / n] };
        if (kaws__text_utf8(four, 4) != judge_utf8(four, 4))
            fail_msg("%02x %02x %02x %02x", four[0], four[1], four[2], four[3]);
    }
    for (i = 0; i < 1024; i++) {
        uint8_t four[] = { (uint8_t)(i / 4), 0x90, 0x90, 0x90 }, *cut;
        cut = unit_exact(four, len = i % 4);
        assert_int_equal(kaws__text_utf8(cut, len), judge_utf8(cut, len));
        free(cut);
    }
}


/* Every character of Unicode, encoded by the reader's own encoder too. */
static void
test_utf8_of_every_character(void **state)
{
    uint32_t c;

    (void)state;
    for (c = 0; c < 0x110000; c++) {
        uint8_t four[4], *end = kaws__json_put_utf8(four, c);
        size_t len = (size_t)(end - four);
        int half = c >= 0xd800 && c <= 0xdfff;
        size_t want = half ? 0 : c < 0x80 ? 1 : c < 0x800 ? 2
                    : c < 0x10000 ? 3 : 4;
        if (judge_utf8(four, len) != want || kaws__text_utf8(four, len) != want)
            fail_msg("U+%04lX", (unsigned long)c);
    }
}


static void
test_is_utf8(void **state)
{
    static const struct { const char *text; int is; } rows[] = {
        { "", 1 }, { "plain", 1 }, { "gr\xc3\xbc\xc3\x9f", 1 },
        { "\xf0\x9f\x94\x91 key", 1 }, { "\x80", 0 }, { "a\xbf", 0 },
        { "a\xc3", 0 }, { "\xe2\x82", 0 }, { "\xc3\xbc\xc3", 0 },
        { "\303a", 0 }, { "\xc3\xbc\xff", 0 }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++)
        if (kaws__text_is_utf8(kaws__buf_of(rows[i].text)) != rows[i].is)
            fail_msg("row %lu", (unsigned long)i);
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
test_shown_text_fits_any_array(void **state)
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
test_a_secret_in_a_text_is_found(void **state)
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
test_a_secret_is_found_as_the_slow_way_does(void **state)
{
    static const char letters[] = "aAbB1-";
    char text[40], secret[16];
    size_t round, i, len, n, found = 0;

    (void)state;
    unit_start();
    for (round = 0; round < unit_rounds(200000); round++) {
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
    assert_in_range(found, round / 10, round / 10 * 9);
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
    for (round = 0; round < unit_rounds(60000); round++) {
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
    assert_in_range(kept, round / 60, round / 60 * 59);
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

/* A second of every day of the years 1970 to 2100, against the C library (to
 * 2038, if its time_t has 32 bits); and the day after each month's last is no
 * date. */
static void
test_each_day_is_a_date(void **state)
{
    const int64_t end = sizeof(time_t) < 8 ? 24854 : 47847;
    int64_t days, when;
    char amz[17], want[64], http[64];
    struct tm tm;
    time_t t;

    (void)state;
    for (days = 0; days < end; days++) {
        when = days * 86400 + days * 28657 % 86400;
        t = (time_t)when;
        assert_non_null(gmtime_r(&t, &tm));
        assert_true(kaws__text_days(tm.tm_year + 1900, tm.tm_mon + 1,
                                    tm.tm_mday) == days);
        (void)strftime(want, sizeof want, "%Y%m%dT%H%M%SZ", &tm);
        kaws__text_amz_date(amz, when);
        unit_same_text("amz_date", amz, want);
        (void)strftime(http, sizeof http, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        if (kaws__text_http_date(kaws__buf_of(http)) != when && when > 0)
            fail_msg("http_date of %s", http);
        if (tm.tm_mday < 28)
            continue;
        tm.tm_mday++;                     /* of the next weekday             */
        tm.tm_wday = (tm.tm_wday + 1) % 7;
        (void)strftime(http, sizeof http, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        t += 86400;
        when = kaws__text_http_date(kaws__buf_of(http));
        assert_true(when == (gmtime_r(&t, &tm)->tm_mday > 1 ? t : 0));
    }
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


/* The one form that servers may send today, and what is near to it: the two old
 * forms, days, weekdays and times that there are not, other letters, digits and
 * signs. A leap second is the second after it. */
#define D(text, seconds) { { (const uint8_t *)text, sizeof text - 1 }, seconds }
static const struct { kaws_bytes text; int64_t seconds; } http_dates[] = {
    D("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
    D("Sunday, 06-Nov-94 08:49:37 GMT", 0),
    D("Sun Nov  6 08:49:37 1994", 0),
    D("Thu, 01 Jan 1970 00:00:01 GMT", 1),
    D("Fri, 31 Dec 9999 23:59:59 GMT", INT64_C(253402300799)),
    D("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
    D("Thu, 29 Feb 2023 12:00:00 GMT", 0),
    D("Wed, 29 Feb 2023 12:00:00 GMT", 0),
    D("Fri, 30 Feb 2024 12:00:00 GMT", 0),
    D("Sun, 00 Nov 1994 08:49:37 GMT", 0),
    D("Sun, 32 Nov 1994 08:49:37 GMT", 0),
    D("Wed, 31 Dec 1969 23:59:59 GMT", 0),
    D("Mon, 01 Jan 1900 00:00:00 GMT", 0),
    D("Fri, 06 Nov 1694 08:49:37 GMT", 0),
    D("Mon, 06 Nov 1994 08:49:37 GMT", 0),
    D("Xxx, 06 Nov 1994 08:49:37 GMT", 0),
    D("SUN, 06 Nov 1994 08:49:37 GMT", 0),
    D("\0\0\0, 06 Nov 1994 08:49:37 GMT", 0),
    D("Sun, 06 nov 1994 08:49:37 GMT", 0),
    D("Sun, 06 Nob 1994 08:49:37 GMT", 0),
    D("Sun, 06 anF 1994 08:49:37 GMT", 0),
    D("Sun, 06 11  1994 08:49:37 GMT", 0),
    D("Sun, 06 Nov 1994 24:00:00 GMT", 0),
    D("Sun, 06 Nov 1994 08:60:37 GMT", 0),
    D("Sun, 06 Nov 1994 08:49:61 GMT", 0),
    D("Sun, 06 Nov 1994 -8:49:37 GMT", 0),
    D("Sun, 06 Nov 1994  8:49:37 GMT", 0),
    D("Sun, 06 Nov 1994 08:4 :37 GMT", 0),
    D("Sun,  6 Nov 1994 08:49:37 GMT", 0),
    D("Sun, 0/ Nov 1994 08:49:37 GMT", 0),
    D("Sun, 0: Nov 1994 08:49:37 GMT", 0),
    D("Sun, 06 Nov 19x4 08:49:37 GMT", 0),
    D("Sun, 06 Nov +994 08:49:37 GMT", 0),
    D("Sun; 06 Nov 1994 08:49:37 GMT", 0),
    D("Sun,_06 Nov 1994 08:49:37 GMT", 0),
    D("Sun, 06-Nov-1994 08:49:37 GMT", 0),
    D("Sun, 06 Nov 1994T08:49:37 GMT", 0),
    D("Sun, 06 Nov 1994 08.49.37 GMT", 0),
    D("Sun, 06 Nov 1994 08:49:37 UTC", 0),
    D("Sun, 06 Nov 1994 08:49:37 gmt", 0),
    D("Sun, 06 Nov 1994 08:49:37 GM", 0),
    D("Sun, 06 Nov 1994 08:49:37 GMT ", 0),
    D("Sun, 06 Nov 1994 08:49:37 GMT\0", 0),
    D(" Sun, 06 Nov 1994 08:49:37 GMT", 0),
    D("", 0)
};
#undef D


/* RFC 3339 as AWS writes it, which is no date if it is cut; and what is none,
 * be it by a byte. */
static const struct { const char *text; int64_t seconds; } iso_dates[] = {
    { "2026-11-27T08:32:38Z", 1795768358 },
    { "2026-11-27T08:32:38.1Z", 1795768358 },
    { "2026-11-27T08:32:38.123456789Z", 1795768358 },
    { "2026-11-27T08:32:38+00:00", 1795768358 },
    { "2026-11-27T08:32:38-00:00", 1795768358 },
    { "2026-11-27T09:32:38+01:00", 1795768358 },
    { "2026-11-27T02:02:38.5-06:30", 1795768358 },
    { "1970-01-01T00:00:01Z", 1 }, { "9999-12-31T23:59:59Z", 253402300799 },
    { "2024-02-29T00:00:00Z", 1709164800 }, { "2026-12-31T23:59:60Z",
      1798761600 },
    { "", 0 }, { "2026-11-27T08:32:38", 0 }, { "2026-11-27T08:32:38z", 0 },
    { "2026-11-27T08:32:38ZZ", 0 }, { "2026-11-27T08:32:38Z ", 0 },
    { "2026-11-27T08:32:38.", 0 }, { "2026-11-27T08:32:38.5", 0 },
    { "2026-11-27T08:32:38+01:0", 0 }, { "2026-11-27T08:32:38+0100", 0 },
    { "2026-11-27T08:32:38+01:00Z", 0 }, { "2026-11-27T08:32:38+24:00", 0 },
    { "2026-11-27T08:32:38+01:60", 0 }, { "2026-11-27 08:32:38Z", 0 },
    { "2026-11-27t08:32:38Z", 0 }, { "2026-02-29T00:00:00Z", 0 },
    { "2026-00-27T08:32:38Z", 0 }, { "2026-13-27T08:32:38Z", 0 },
    { "2026-11-00T08:32:38Z", 0 }, { "2026-11-31T08:32:38Z", 0 },
    { "2026-11-27T24:00:00Z", 0 }, { "2026-11-27T08:60:00Z", 0 },
    { "2026-11-27T08:32:61Z", 0 }, { "1969-11-27T08:32:38Z", 0 },
    { "2026-11-27T08:32:3xZ", 0 }, { "+026-11-27T08:32:38Z", 0 },
    { "02026-11-27T08:32:38Z", 0 }, { "20261127T083238Z", 0 }
};


static void
test_iso_date(void **state)
{
    size_t i, n, len;

    (void)state;
    for (i = 0; i < UNIT_COUNT(iso_dates); i++) {
        len = strlen(iso_dates[i].text);
        for (n = iso_dates[i].seconds > 0 ? 0 : len; n <= len; n++) {
            uint8_t *text = unit_exact(iso_dates[i].text, n);
            int64_t got = kaws__text_iso_date(unit_bytes(text, n));
            if (got != (n == len ? iso_dates[i].seconds : 0))
                fail_msg("%.*s is %ld", (int)n, iso_dates[i].text, (long)got);
            free(text);
        }
    }
}


static void
test_http_date(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(http_dates); i++) {
        size_t len = http_dates[i].text.len;
        uint8_t *text = unit_exact(http_dates[i].text.at, len);
        int64_t got = kaws__text_http_date(unit_bytes(text, len));
        if (got != http_dates[i].seconds)
            fail_msg("\"%s\" is %ld", http_dates[i].text.at, (long)got);
        free(text);
    }
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_are_ordered_as_by_memcmp),
        cmocka_unit_test(test_hex_digits),
        cmocka_unit_test(test_base64_vectors),
        cmocka_unit_test(test_base64_round_trip),
        cmocka_unit_test(test_base64_of_every_pair_of_bytes),
        cmocka_unit_test(test_base64_with_wrong_bytes_is_refused),
        cmocka_unit_test(test_percent_keeps_what_it_is_told_to),
        cmocka_unit_test(test_utf8_at_its_borders),
        cmocka_unit_test(test_utf8_of_every_character),
        cmocka_unit_test(test_is_utf8),
        cmocka_unit_test(test_show_vectors),
        cmocka_unit_test(test_shown_text_fits_any_array),
        cmocka_unit_test(test_a_secret_in_a_text_is_found),
        cmocka_unit_test(test_a_secret_is_found_as_the_slow_way_does),
        cmocka_unit_test(test_no_secret_is_let_through),
        cmocka_unit_test(test_number),
        cmocka_unit_test(test_each_day_is_a_date),
        cmocka_unit_test(test_amz_date_ends),
        cmocka_unit_test(test_http_date), cmocka_unit_test(test_iso_date)
    };

    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
