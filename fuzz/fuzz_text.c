/* Room text, and AWS's names in room arn: each conversion, and back again.
 *
 * The input is one text, and every conversion is tried on it. If a conversion
 * needs a number or the size of an array, the text's first bytes give it. The
 * results are compared with the C library's (strftime, regular expressions) and
 * with judge.h's.
 */

#include "fuzz.h"
#include "judge.h"

#include <regex.h>


/* Compiles each pattern once. */
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


/* Bytes that are encoded and decoded again are the same; so is a base64 text
 * that is decoded and encoded again. */
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


/* A text shown in a log is printable ASCII, whatever is cut or left out; and
 * each piece of a known secret in it is noticed. */
static void
try_show(kaws_bytes in, int own)
{
    size_t cap = 8 + (in.len > 0 ? in.at[0] : 0), i;
    char *out = malloc(cap);

    HOLDS(out != NULL && kaws__text_filter(out, cap, in, own) == out);
    HOLDS(strlen(out) < cap);
    for (i = 0; out[i] != '\0'; i++)
        HOLDS(out[i] >= 0x20 && out[i] <= 0x7e && (out[i] != '\'' || !own));
    for (i = 0; i < in.len && !kaws__text_folded(in.at[i]); i++)
        continue;
    HOLDS(kaws__text_holds(in, in) == (i < in.len) ||
          memchr(in.at, '\\', in.len) != NULL);
    free(out);
}


/* ---- dates ------------------------------------------------------------- */

/* If a text is read as a date, writing that date gives the text again. Only a
 * leap second is written as the first second of the next minute. */
static void
try_http_date(kaws_bytes in)
{
    int64_t when = kaws__text_http_date(in);
    time_t t = (time_t)(when - 1);
    struct tm tm;
    char want[64];

    if (when == 0)
        return;
    if (memcmp(in.at + 23, "60", 2) != 0)
        t++;
    HOLDS(when > 0 && gmtime_r(&t, &tm) != NULL);
    tm.tm_sec += t < when;
    HOLDS(strftime(want, sizeof want, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 29);
    HOLDS(kaws__buf_same(in, kaws__buf_of(want)));
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
}


static void
try_settings(kaws_bytes in)
{
    size_t len = in.len - (in.len > 0 && in.at[in.len - 1] == '/');
    char text[640];
    int good;

    if (!kaws__buf_copy_text(text, sizeof text, in))
        return;
    HOLDS(kaws__trust_list_ok(text) ==
          matches(in, "^([, ]*[0-9]{12}([, ]+[0-9]{12})*[, ]*)?$"));
    good = len <= (strncmp(text, "http:", 5) == 0 ? 157 : 158);
    if (kaws__arn_endpoint_ok(text))
        HOLDS(good && (matches(in, "^https://[][A-Za-z0-9.:-]+/?$") ||
                       matches(in, "^http://(localhost|127[.]0[.]0[.]1|\\[::1])"
                               "(:[0-9]*)?/?$")));
    else
        HOLDS(!good ||
              !matches(in, "^https://[a-z][a-z0-9]*(:[1-9][0-9]{0,3})?/?$"));
}


/* What was read of a list of failover regions is well formed, and reads the
 * same if it is written again. */
static void
try_regions(kaws_bytes in)
{
    char text[640], again[2048];
    kaws__regions r, same;
    kaws_error err;
    int i, k, n = 0;

    if (!kaws__buf_copy_text(text, sizeof text, in))
        return;
    kaws__err_clear(&err);
    if (kaws__regions_open(&r, text, "us-east-1", &err) != KAWS_OK) {
        HOLDS(err.status == KAWS_CONFIG && err.text[0] != '\0');
        HOLDS(!matches(in, "^[ \t]*(eu-west-1[ \t]*(,[ \t]*us-east-2[ \t]*)?)?"
                       ",?[ \t]*$") || matches(in, "^[ \t]*,"));
        return;
    }
    again[0] = '\0';
    for (i = 0; i < r.count; i++) {
        const char *url = r.to[i].endpoint;
        HOLDS(matches(kaws__buf_of(r.to[i].region),
                      "^[a-z]+(-[a-z]+)+-[0-9]{1,2}$"));
        HOLDS(strncmp(r.to[i].region, "cn-", 3) != 0);
        HOLDS(url[0] == '\0' || kaws__arn_endpoint_ok(url));
        HOLDS(strstr(text, r.to[i].region) != NULL && strstr(text, url));
        for (k = 0; k < i; k++)
            HOLDS(strcmp(r.to[k].region, r.to[i].region) != 0);
        n += snprintf(again + n, sizeof again - (size_t)n, "%s%s%s%s",
                      i > 0 ? "," : "", r.to[i].region, url[0] != '\0' ? "="
                      : "", url);
    }
    HOLDS(r.count <= 8 && err.status == KAWS_OK);
    HOLDS(kaws__regions_open(&same, again, "us-east-1", &err) == KAWS_OK);
    HOLDS(same.count == r.count);
    for (i = 0; i < r.count; i++)
        HOLDS(strcmp(same.to[i].region, r.to[i].region) == 0 &&
              strcmp(same.to[i].endpoint, r.to[i].endpoint) == 0);
}


/* The name of a multi-region key that is moved to another region, and back, is
 * the same; and there it is related to itself. */
static void
try_move(kaws_bytes in)
{
    char text[640], region[40] = "";
    kaws__target there, back;
    kaws__arn arn;

    if (!kaws__buf_copy_text(text, sizeof text, in) || in.len > 230 ||
        !kaws__arn_is_multi(text))
        return;
    HOLDS(strstr(text, "mrk-") != NULL);
    if (kaws__arn_parse(in, &arn))
        HOLDS(kaws__buf_copy_text(region, sizeof region, arn.region));
    kaws__arn_move(&there, text, "ap-northeast-1");
    kaws__arn_move(&back, there.key_id, region);
    HOLDS(strcmp(back.key_id, text) == 0);
    if (region[0] != '\0' && kaws__arn_partition(region) ==
                             kaws__arn_partition("us-east-1"))
        HOLDS(kaws__arn_unrelated(text, kaws__buf_of(there.key_id),
                                  "ap-northeast-1") == NULL);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes in = { data, size }, start = in;

    if (size > 600)
        return 0;
    try_base64(in);
    try_show(in, 0);
    try_show(in, 1);
    start.len = start.len < 29 ? start.len : 29;
    try_http_date(start);
    try_names(in);
    try_settings(in);
    try_regions(in);
    try_move(in);
    HOLDS(kaws__text_is_utf8(in) == judge_is_utf8(in));
    return 0;
}
