/* Room xml: any text, and credentials that are written down as STS does.
 *
 * What is found in any text lies in it, behind a tag. So does the place where a
 * text is refused.
 *
 * The input is also taken for values, and a way to write them: they are found
 * as they were, to the byte.
 */

#include "fuzz.h"

enum { WANTED = 4 };

static const char *const names[WANTED] = {
    "Credentials/AccessKeyId", "Credentials/SecretAccessKey",
    "Credentials/SessionToken", "Error/Code"
};


static void
ask(kaws__member want[WANTED])
{
    int i;

    for (i = 0; i < WANTED; i++)
        want[i] = (kaws__member){ .name = names[i] };
}


static void
try_text(kaws_bytes in)
{
    uint8_t *const text = fuzz_copy(in);
    kaws__member want[WANTED];
    const char *bad;
    size_t offset;
    int i;

    ask(want);
    bad = kaws__xml_read(text, in.len, want, WANTED, &offset);
    HOLDS(offset <= in.len && (bad != NULL || offset == in.len));
    HOLDS(bad != NULL || in.len > 3);
    for (i = 0; i < WANTED; i++) {
        const kaws_bytes v = want[i].value;
        if (v.at == NULL)
            continue;
        HOLDS(v.at > text && v.at + v.len < text + in.len);
        HOLDS(v.at[-1] == '>' && v.len + 4 < in.len);
        HOLDS(v.len == 0 || memchr(v.at, 0, v.len) == NULL);
    }
    free(text);
}


static void
put_value(kaws__buf *out, kaws_bytes value, int all)
{
    char code[8];

    for (; value.len > 0; value.at++, value.len--) {
        if (!all && strchr("<>&\"'", *value.at) == NULL) {
            kaws__buf_put(out, value.at, 1);
            continue;
        }
        (void)snprintf(code, sizeof code, "&#%d;", *value.at);
        kaws__buf_text(out, *value.at == '<' ? "&lt;" : *value.at == '&'
                       ? "&amp;" : *value.at == '>' && !all ? "&gt;" : code);
    }
}


static void
try_way(kaws_bytes in)
{
    static const char *const blanks[] = { "", "\n", " \r\n\t", "<Other/>" };
    const unsigned way = (unsigned)fuzz_number(&in, 1);
    const char *const blank = blanks[way & 3];
    uint8_t text[12000], values[3][1000];
    kaws__buf out = kaws__buf_fixed(text, sizeof text);
    kaws__member want[WANTED];
    kaws_bytes value[3];
    size_t offset, n;
    int i, k;

    kaws__buf_text(&out, way & 4 ? "<?xml version='1.0'?>\n" : "", "<R xmlns=\""
                   "https://x/\"><S><AccessKeyId>no</AccessKeyId></S><Result>"
                   "<Credentials a='>'>");
    for (k = 0; k < 3; k++) {
        i = way & 8 ? 2 - k : k;
        value[i] = fuzz_until(&in, '\n');
        for (n = 0; n < value[i].len && n < sizeof values[i]; n++)
            values[i][n] = (uint8_t)(' ' + value[i].at[n] % 95);
        value[i] = (kaws_bytes){ values[i], n };
        kaws__buf_text(&out, blank, "<", names[i] + strlen("Credentials/"),
                       ">");
        put_value(&out, value[i], way & 16);
        kaws__buf_text(&out, "</", names[i] + strlen("Credentials/"), " >");
    }
    kaws__buf_text(&out, blank, "</Credentials></Result></R>\n");
    if (out.failed)
        return;
    ask(want);
    HOLDS(kaws__xml_read(text, out.len, want, WANTED, &offset) == NULL);
    for (i = 0; i < 3; i++)
        HOLDS(want[i].value.at != NULL &&
              kaws__buf_same(want[i].value, value[i]));
    HOLDS(want[3].value.at == NULL);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes text = { data, size };

    if (size > 4096)
        return 0;
    try_text(text);
    try_way(text);
    return 0;
}
