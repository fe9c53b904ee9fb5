/* Room 5, and the names of AWS in room 11: each way and back again.
 *
 *     mkdir -p build/fuzz/corpus/text
 *     clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined \
 *         -fno-sanitize-recover=all -o build/fuzz/fuzz_text \
 *         fuzz/fuzz_text.c -l:libbearssl.a -lpthread
 *     build/fuzz/fuzz_text -max_len=600 -dict=fuzz/text.dict \
 *         build/fuzz/corpus/text fuzz/corpus/text
 *
 * The input is one text, which every conversion is tried on; where a number or
 * a room's size is wanted, its first bytes are it. The C library (strftime,
 * timegm, strtoull, regular expressions) and judge.h are what we compare with.
 */

#include "fuzz.h"
#include "judge.h"

#include <ctype.h>
#include <regex.h>
#include <strings.h>


/* Patterns are compiled once. */
static int
matches(kaws_bytes text, const char *pattern)
{
    static struct { const char *pattern; regex_t compiled; } known[32];
    char copy[640];
    int i = 0;

    if (!kaws__buf_copy_text(copy, sizeof copy, text))
        return 0;
    while (known[i].pattern != NULL && strcmp(known[i].pattern, pattern) != 0)
        i++;
    HOLDS(i < 31);
    if (known[i].pattern == NULL) {
        known[i].pattern = pattern;
        HOLDS(regcomp(&known[i].compiled, pattern,
                      REG_EXTENDED | REG_NOSUB) == 0);
    }
    return regexec(&known[i].compiled, copy, 0, NULL, 0) == 0;
}


static void
try_hex(kaws_bytes in)
{
    char *hex = malloc(2 * in.len + 1);
    unsigned byte;
    size_t i;

    HOLDS(hex != NULL);
    kaws__text_hex(hex, in.at, in.len);
    HOLDS(strlen(hex) == 2 * in.len);
    HOLDS(strspn(hex, "0123456789abcdef") == 2 * in.len);
    for (i = 0; i < in.len; i++) {
        HOLDS(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        HOLDS(byte == in.at[i]);
    }
    free(hex);
}


/* Any bytes there and back; and any text back, if it is one, and there. */
static void
try_base64(kaws_bytes in)
{
    size_t room = in.len / 4 * 3 + 3, len = 0, i;
    uint8_t *mine = malloc(room), *theirs = malloc(room);
    kaws_bytes copy = { fuzz_copy(in), in.len }, back;
    kaws__buf out;
    long want = judge_base64(in, theirs);

    HOLDS(mine != NULL && theirs != NULL);
    HOLDS(kaws__text_unbase64(copy, mine, room, &len) == (want >= 0));
    kaws__buf_init(&out, &fuzz_hooks);
    if (want >= 0) {
        HOLDS(len == (size_t)want && memcmp(mine, theirs, len) == 0);
        back.at = mine;
        back.len = len;
        kaws__text_base64(&out, back);
        HOLDS(kaws__buf_same(kaws__buf_view(&out), in));
        for (i = 0; i < 2 && i < len; i++)      /* one byte too few, or none */
            HOLDS(!kaws__text_unbase64(in, mine, i * (len - 1), &room));
    }
    kaws__buf_free(&out);
    kaws__text_base64(&out, copy);
    back = kaws__buf_view(&out);
    free(mine);
    mine = malloc(in.len + 1);
    HOLDS(mine != NULL && back.len == (in.len + 2) / 3 * 4);
    HOLDS(kaws__text_unbase64(back, mine, in.len, &len));
    HOLDS(len == in.len && (len == 0 || memcmp(mine, in.at, len) == 0));
    kaws__buf_free(&out);
    free((void *)(uintptr_t)copy.at);
    free(mine);
    free(theirs);
}


static void
try_percent(kaws_bytes in, int (*keep)(int), const char *kept)
{
    kaws__buf out;
    kaws__sink sink = { fuzz_put, NULL };
    kaws_bytes left;
    unsigned byte;
    size_t i;

    sink.to = &out;
    kaws__buf_init(&out, &fuzz_hooks);
    kaws__text_percent(&sink, in, keep);
    kaws__buf_byte(&out, '\0');
    left = kaws__buf_view(&out);
    for (i = 0; i < in.len; i++) {
        const char *at = (const char *)left.at;
        int plain = in.at[i] != 0 && strchr(kept, in.at[i]) != NULL;
        HOLDS(left.len > (plain ? 1 : 3));
        if (plain) {
            HOLDS(*left.at == in.at[i]);
        } else {
            HOLDS(at[0] == '%' && strspn(at + 1, "0123456789ABCDEF") >= 2);
            HOLDS(sscanf(at + 1, "%2X", &byte) == 1 && byte == in.at[i]);
        }
        (void)fuzz_take(&left, plain ? 1 : 3);
    }
    HOLDS(left.len == 1);
    kaws__buf_free(&out);
}


/* The longest run of base64 that has letters of both cases and digits. */
static size_t
longest_mixed(kaws_bytes in, int slash)
{
    size_t i, n, most = 0;

    for (i = 0; i < in.len; i += n + 1) {
        int kinds = 0;
        for (n = 0; i + n < in.len &&
                    (isalnum(in.at[i + n]) || in.at[i + n] == '+' ||
                     (slash && in.at[i + n] == '/')); n++)
            kinds |= isdigit(in.at[i + n]) ? 1 : islower(in.at[i + n]) ? 2
                   : isupper(in.at[i + n]) ? 4 : 0;
        if (kinds == 7 && n > most)
            most = n;
    }
    return most;
}


/* For a log: nothing but printable ASCII, whole or cut with three dots. What
 * could be a secret, more than `most` of base64 or what stands before an '@',
 * makes it another text, which has no more of it. */
static void
try_show(kaws_bytes in, const char *(*show)(char *, size_t, kaws_bytes),
         int also, size_t most)
{
    int harmless = longest_mixed(in, 0) < most && longest_mixed(in, 1) < 40 &&
                   (in.len == 0 || memchr(in.at, '@', in.len) == NULL);
    size_t cap = 8 + (in.len > 0 ? in.at[0] : 0), i, used = 0;
    char *out = malloc(cap), *whole = malloc(4 * in.len + 1);

    HOLDS(out != NULL && whole != NULL);
    HOLDS(show(out, cap, in) == out && strlen(out) < cap);
    HOLDS(strchr(out, '\\') != NULL ||
          longest_mixed(kaws__buf_of(out), 0) < most);
    for (i = 0; out[i] != '\0'; i++)
        HOLDS(out[i] >= 0x20 && out[i] <= 0x7e);
    for (i = 0; i < in.len; i++) {
        int c = in.at[i];
        used += (size_t)snprintf(whole + used, 5, c < 0x20 || c > 0x7e ||
                                 c == also || c == '\\' ? "\\x%02x" : "%c", c);
    }
    whole[used] = '\0';
    if (harmless && strcmp(out, whole) != 0) {
        size_t n = strlen(out) - 3;
        HOLDS(strlen(out) >= 3 && strcmp(out + n, "...") == 0);
        HOLDS(memcmp(out, whole, n) == 0 && used > n && n + 8 > cap);
    }
    free(out);
    free(whole);
}


static void
try_number(kaws_bytes in)
{
    uint32_t most = in.len > 2 ? (uint32_t)in.at[1] << in.at[2] % 25 : 99;
    uint32_t got = 0;
    char text[16];
    int good = matches(in, "^[0-9]{1,10}$") &&
               kaws__buf_copy_text(text, sizeof text, in) &&
               strtoull(text, NULL, 10) <= most;

    HOLDS(kaws__text_number(in, most, &got) == good);
    HOLDS(!good || got == strtoull(text, NULL, 10));
}


/* ---- dates ------------------------------------------------------------- */

static void
try_date(int64_t when)
{
    time_t t = (time_t)when;
    struct tm tm;
    char want[64], got[17];
    int year, month, day;

    HOLDS(gmtime_r(&t, &tm) != NULL);
    HOLDS(strftime(want, sizeof want, "%Y%m%dT%H%M%SZ", &tm) == 16);
    kaws__text_amz_date(got, when);
    HOLDS(strcmp(got, want) == 0);
    HOLDS(strftime(want, sizeof want, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 29);
    HOLDS(kaws__text_http_date(kaws__buf_of(want)) == when);
    kaws__text_civil(when / 86400, &year, &month, &day);
    HOLDS(year == tm.tm_year + 1900 && month == tm.tm_mon + 1);
    HOLDS(day == tm.tm_mday);
    HOLDS(kaws__text_days(year, month, day) == when / 86400);
}


/* A text that may be a date: the C library reads its parts, and must find that
 * there is such a day, and that it is called so. */
static void
try_http_date(kaws_bytes in)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char text[30] = "", name[16] = "";
    struct tm tm;
    int day = 0, second = 0;
    int64_t want = 0;

    if (kaws__buf_copy_text(text, sizeof text, in) &&
        matches(in, "^..., (0[1-9]|[12][0-9]|3[01]) (Jan|Feb|Mar|Apr|May|Jun|"
                "Jul|Aug|Sep|Oct|Nov|Dec) (19[7-9]|[2-9][0-9]{2})[0-9] "
                "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60) GMT$")) {
        memset(&tm, 0, sizeof tm);
        HOLDS(sscanf(text + 5, "%d %*s %d %d:%d:%d", &day, &tm.tm_year,
                     &tm.tm_hour, &tm.tm_min, &second) == 5);
        while (memcmp(months + 3 * tm.tm_mon, text + 8, 3) != 0)
            tm.tm_mon++;
        tm.tm_year -= 1900;
        tm.tm_mday = day;
        want = (int64_t)timegm(&tm) + second;
        HOLDS(strftime(name, sizeof name, "%a", &tm) == 3);
        if (tm.tm_mday != day || memcmp(name, text, 3) != 0)
            want = 0;
    }
    HOLDS(kaws__text_http_date(in) == want);
}


/* ---- names of AWS ------------------------------------------------------ */

#define WORD "[A-Za-z0-9/_-]+"
#define REGION "[a-z]+(-[a-z]+)+-[0-9][0-9]?"

static void
try_names(kaws_bytes in)
{
    static const char *const parts[] = {
        "^arn:aws-cn:kms:cn-", "^arn:aws-us-gov:kms:us-gov-",
        "^arn:aws-iso:kms:us-iso-", "^arn:aws-iso-b:kms:us-isob-",
        "^arn:aws-iso-e:kms:eu-isoe-", "^arn:aws-iso-f:kms:us-isof-",
        "^arn:aws-eusc:kms:eusc-", "^arn:aws:kms:"
    };
    kaws__arn arn;
    kaws_error err;
    kaws__target target;
    kaws_bytes rest = in, region = { NULL, 0 };
    char text[640];
    size_t plain;
    int good, i;

    memset(&target, 0, sizeof target);
    HOLDS(kaws__arn_region_ok(in) ==
          (in.len <= 32 && matches(in, "^" REGION "$")));
    good = in.len <= 255 &&
           matches(in, "^arn:[a-z-]+:kms:" REGION ":[0-9]{12}:(key|alias)/"
                   WORD "$");
    for (i = 0; good && i < 4; i++)
        region = fuzz_until(&rest, ':');
    good = good && region.len <= 32;
    for (i = 0; i < 7 && !matches(in, parts[i]); i++)
        continue;                 /* "aws" is for what no other one begins    */
    good = good && matches(in, parts[i]) &&
           (i < 7 || !matches(in, "^[^:]*:[^:]*:[^:]*:(cn-|us-gov-|us-iso-|"
                              "us-iso[bf]-|eu-isoe-|eusc-)"));
    HOLDS(kaws__arn_parse(in, &arn) == good);
    if (good) {
        (void)snprintf(text, sizeof text, "arn:%.*s:kms:%.*s:%.*s:%.*s",
                       (int)arn.partition.len, (const char *)arn.partition.at,
                       (int)arn.region.len, (const char *)arn.region.at,
                       (int)arn.account.len, (const char *)arn.account.at,
                       (int)arn.resource.len, (const char *)arn.resource.at);
        HOLDS(kaws__buf_same(in, kaws__buf_of(text)));
    }
    if (!kaws__buf_copy_text(text, sizeof text, in))
        return;
    HOLDS((kaws__arn_target(&target, text, "us-east-1", &err) == KAWS_OK) ==
          (good || (in.len <= 255 && matches(in, "^" WORD "$"))));
    HOLDS(kaws__trust_list_ok(text) ==
          matches(in, "^[, ]*([0-9]{12}([, ]+[0-9]{12})*[, ]*)?$"));
    plain = strncmp(text, "http:", 5) == 0;
    HOLDS(kaws__arn_endpoint_ok(text) ==
          (in.len - (in.len > 0 && in.at[in.len - 1] == '/') <= 158 - plain &&
           (matches(in, "^https://[][A-Za-z0-9.:-]+/?$") ||
            matches(in, "^http://(localhost|127[.]0[.]0[.]1|\\[::1])"
                    "(:[][A-Za-z0-9.:-]*)?/?$"))));
}


static void
try_alike(kaws_bytes in)
{
    char text[640];
    size_t i;

    if (in.len == 0 || !kaws__buf_copy_text(text, sizeof text, in))
        return;
    for (i = 0; i < in.len; i++)
        if ((in.at[0] >> i % 8 & 1) != 0 && (text[i] | 32) >= 'a' &&
            (text[i] | 32) <= 'z')
            text[i] = (char)(text[i] ^ 32);
    HOLDS(kaws__text_alike(in, text));
    text[in.at[0] % in.len] = (char)(text[in.at[0] % in.len] ^ 64);
    HOLDS(kaws__text_alike(in, text) ==
          (strlen(text) == in.len &&
           strncasecmp(text, (const char *)in.at, in.len) == 0));
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes in = { data, size }, rest = in, start = in;

    if (size > 600)
        return 0;
    try_hex(in);
    try_base64(in);
    try_percent(in, kaws__sigv4_unreserved, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                "abcdefghijklmnopqrstuvwxyz0123456789-._~");
    try_percent(in, kaws__ring_printable, " !\"#$&'()*+,-./0123456789:;<=>?@"
                "ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz"
                "{|}~");
    try_show(in, kaws__text_show, '\'', 40);
    try_show(in, kaws__text_quote, '\\', 20);
    try_number(in);
    try_date((int64_t)(fuzz_number(&rest, 5) % UINT64_C(253402300800)));
    start.len = start.len < 29 ? start.len : 29;
    try_http_date(start);
    try_names(in);
    try_alike(in);
    HOLDS(kaws__text_is_utf8(in) == judge_is_utf8(in));
    return 0;
}
