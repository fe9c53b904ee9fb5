/* Rooms ini and native: a profile file, and what is found in it.
 *
 * The input is the file. What the cursor tells is compared with a second reader
 * that splits the text into lines first. No view reaches beyond the text.
 *
 * The input is also taken for a profile's values and a way to write them down:
 * in each way they are found as they were, to the byte, and another profile's
 * never are.
 */

#include "fuzz.h"

enum { LINES = 4200 };

static kaws_bytes lines[LINES];
static size_t count;


/* ---- a second reader ---------------------------------------------------- */

static int
is_blank(int c)
{
    return c == ' ' || c == '\t';
}


static kaws_bytes
trimmed(kaws_bytes text)
{
    while (text.len > 0 && is_blank(*text.at))
        (void)fuzz_take(&text, 1);
    while (text.len > 0 && is_blank(text.at[text.len - 1]))
        text.len--;
    return text;
}


static void
split(kaws_bytes text)
{
    for (count = 0; text.len > 0 && count < LINES; count++) {
        lines[count] = fuzz_until(&text, '\n');
        if (lines[count].len > 0 &&
            lines[count].at[lines[count].len - 1] == '\r')
            lines[count].len--;
    }
}


/* A line that says nothing. */
static int
is_empty(kaws_bytes line)
{
    return trimmed(line).len == 0 || *line.at == '#' || *line.at == ';';
}


static int
has_nul(kaws_bytes line)
{
    return line.len > 0 && memchr(line.at, 0, line.len) != NULL;
}


/* What line `i` has to be told as, if it is a property; its value may end in
 * the lines below. Returns the number of the last line that belongs to it. */
static size_t
value_of(size_t i, kaws_bytes *name, kaws_bytes *value)
{
    kaws_bytes line = lines[i], below;
    size_t k;

    *name = trimmed(fuzz_until(&line, '='));
    for (k = 1; k < line.len; k++)
        if ((line.at[k] == '#' || line.at[k] == ';') &&
            is_blank(line.at[k - 1]))
            line.len = k;
    *value = trimmed(line);
    for (k = i + 1; k < count && !has_nul(lines[k]); k++) {
        if (is_empty(lines[k]))
            continue;
        if (!is_blank(*lines[k].at))
            break;
        below = trimmed(lines[k]);
        if (value->len > 0)
            value->len = (size_t)(below.at + below.len - value->at);
        i = k;
    }
    return i;
}


/* What the cursor tells is what is there, line after line; and where it stops
 * is the first line that nothing can be made of. */
static void
compare(kaws_bytes text)
{
    kaws__ini ini = { .left = text };
    kaws_bytes name, value, line;
    size_t i = 0;
    int what, headed = 0;

    split(text);
    while ((what = kaws__ini_next(&ini)) != KAWS__INI_END) {
        while (is_empty(lines[i]))
            HOLDS(!has_nul(lines[i++]));
        line = lines[i];
        HOLDS(!is_blank(*line.at) && !has_nul(line));
        HOLDS((what == KAWS__INI_HEAD) == (*line.at == '['));
        if (what == KAWS__INI_HEAD) {
            headed = 1;
            (void)fuzz_take(&line, 1);
            HOLDS(memchr(line.at, ']', line.len) != NULL);
            HOLDS(kaws__buf_same(trimmed(fuzz_until(&line, ']')), ini.name));
            line = trimmed(line);
            HOLDS(line.len == 0 || *line.at == '#' || *line.at == ';');
        } else {
            HOLDS(headed && memchr(line.at, '=', line.len) != NULL);
            i = value_of(i, &name, &value);
            HOLDS(name.len > 0 && kaws__buf_same(name, ini.name));
            HOLDS(kaws__buf_same(value, ini.value));
        }
        HOLDS(ini.line == (int)++i);
    }
    while (i < count && is_empty(lines[i]) && !has_nul(lines[i]))
        i++;
    HOLDS((ini.bad == NULL) == (i == count));
    if (ini.bad == NULL || ini.line == 0)
        return;
    HOLDS(ini.line == (int)i + 1);
    line = lines[i];
    HOLDS(has_nul(line) || is_blank(*line.at) || *line.at == '[' || !headed ||
          memchr(line.at, '=', line.len) == NULL ||
          trimmed(fuzz_until(&line, '=')).len == 0);
}


/* ---- what was written down ---------------------------------------------- */

static void
put(kaws__buf *out, const char *text)
{
    kaws__buf_put(out, text, strlen(text));
}


static void
try_way(kaws_bytes in)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqr"
                                  "stuvwxyz0123456789+/";
    static const char *const heads[][2] = { { "[profile p]", "[ p ]" },
        { "[ profile\t p ] ; x", "[p]# x" } };
    static const char *const ends[] = { "\n", "\r\n", " # x\n", "\n\n#\n" };
    static const char *const others[] = { "[profile q]\n", "[p2]\n", "[]\n",
                                          "[default] ;\n" };
    const unsigned way = (unsigned)fuzz_number(&in, 2);
    const int file = way & 1;
    const char *const end = ends[way >> 1 & 3];
    kaws_bytes value[3], want[KAWS__PROPERTIES], p = kaws__buf_of("p");
    uint8_t text[9000], values[3][2000];
    kaws__buf out = kaws__buf_fixed(text, sizeof text);
    int known, line, i;
    size_t n;

    put(&out, others[way >> 3 & 3]);
    put(&out, "aws_access_key_id = NO\naws_session_token = NO\n");
    put(&out, heads[way >> 5 & 1][file]);
    put(&out, "\n");
    for (i = 0; i < 3; i++) {
        value[i] = fuzz_until(&in, '\n');
        for (n = 0; n < value[i].len && n < sizeof values[i]; n++)
            values[i][n] = (uint8_t)letters[value[i].at[n] & 63];
        value[i] = (kaws_bytes){ values[i], n };
        put(&out, way & 64 ? "s3 =\n  aws_session_token = NO\n" : "");
        put(&out, kaws__profile_names[way & 128 ? 2 - i : i]);
        put(&out, way & 256 ? "=" : " \t= ");
        kaws__buf_put(&out, values[i], n);
        put(&out, end);
    }
    put(&out, others[way >> 9 & 3]);
    put(&out, "aws_secret_access_key = NO\n");
    if (out.failed)
        return;
    memset(want, 0, sizeof want);
    HOLDS(kaws__profile_parse(kaws__buf_view(&out), file, p, want, &known,
                             &line) == NULL && known);
    for (i = 0; i < 3; i++)
        HOLDS(kaws__buf_same(want[way & 128 ? 2 - i : i], value[i]));
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes text = { NULL, size }, want[KAWS__PROPERTIES];
    int known, line, file, i;

    if (size > LINES)
        return 0;
    text.at = fuzz_copy((kaws_bytes){ data, size });
    if (size < 4 || memcmp(data, "\xef\xbb\xbf", 3) != 0)
        compare(text);
    for (file = 0; file < 2; file++) {
        memset(want, 0, sizeof want);
        (void)kaws__profile_parse(text, file, kaws__buf_of("default"), want,
                                 &known, &line);
        for (i = 0; i < KAWS__PROPERTIES; i++)
            HOLDS(want[i].len == 0 ||
                  (known && want[i].at > text.at &&
                   want[i].at + want[i].len <= text.at + text.len));
    }
    free((void *)(uintptr_t)text.at);
    try_way((kaws_bytes){ data, size });
    return 0;
}
