/* Rooms sources and creds: the conf file, whole or half written, and what is
 * left of it in memory.
 *
 * The input is the file. Each value that the reader finds must be whole: its
 * line holds nothing else but what may stand around a value. The reader must
 * skip no line that could hold a value.
 *
 * The input also gives credentials, and a way to write them into a file. The
 * reader must find exactly these credentials.
 *
 * Room creds reads the file, too. If a bad file replaces a good one, the
 * credentials must stay as they were.
 */

#include "fuzz.h"

#include <strings.h>
#include <sys/mman.h>

static const char good_file[] = "AKIDGOOD\nsEcReTgOoD\ntOkEnGoOd\n";
static const char *const names[] = {
    "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
    "aws_security_token"
};


/* ---- what is found ----------------------------------------------------- */

static void
skip_blanks(kaws_bytes *text)
{
    while (text->len > 0 && (*text->at == ' ' || *text->at == '\t' ||
                             *text->at == '\r'))
        (void)fuzz_take(text, 1);
}


/* Whether the last word before a line's = is one of the names; if so, takes all
 * up to the = off the line. */
static int
named(kaws_bytes *line)
{
    kaws_bytes rest = *line, name;
    size_t i, n;

    skip_blanks(&rest);
    name = fuzz_until(&rest, '=');
    if (name.len == 0 || *name.at == '#' || *name.at == ';' ||
        name.at + name.len == line->at + line->len)
        return 0;
    while (name.len > 0 && memchr(" \t\r", name.at[name.len - 1], 3) != NULL)
        name.len--;
    for (i = 0; i < 4; i++) {
        n = strlen(names[i]);
        if (name.len >= n && strncasecmp((const char *)name.at + name.len - n,
                                         names[i], n) == 0 &&
            (name.len == n ||
             memchr(" \t:", name.at[name.len - n - 1], 3) != NULL)) {
            *line = rest;
            return 1;
        }
    }
    return 0;
}


/* A value is all of its line but blanks, a pair of quotes, and the name. */
static void
look_whole(kaws_bytes line, kaws_bytes part, int has_name)
{
    size_t n;

    HOLDS(named(&line) == has_name);
    skip_blanks(&line);
    while (line.len > 0 && strchr(" \t\r", line.at[line.len - 1]) != NULL &&
           line.at[line.len - 1] != 0)
        line.len--;
    if (line.at != part.at) {
        HOLDS(line.len == part.len + 2 && line.at + 1 == part.at);
        HOLDS(*line.at == '"' || *line.at == '\'');
        HOLDS(*line.at == line.at[line.len - 1]);
        line = part;
    }
    HOLDS(line.len == part.len);
    for (n = 0; n < part.len; n++)
        HOLDS(part.at[n] > ' ' && part.at[n] < 127 &&
              strchr("\"',;", part.at[n]) == NULL);
}


/* A line on which no value was found holds nothing that could be a value. */
static void
look_empty(kaws_bytes line, int names_decide)
{
    kaws_bytes value = line;
    int last;

    skip_blanks(&line);
    while (line.len > 0 && memchr(" \t\r", line.at[line.len - 1], 3) != NULL)
        line.len--;
    last = line.len > 0 ? line.at[line.len - 1] : 0;
    if (line.len == 0 || *line.at == '#' || *line.at == ';' ||
        (*line.at == '[' && last == ']') ||
        (line.len == 2 && (last == '"' || last == '\'') && *line.at == last))
        return;
    if (named(&value)) {
        HOLDS(names_decide);
        skip_blanks(&value);
        HOLDS(value.len == 0 || *value.at == '"' || *value.at == '\'');
        return;
    }
    HOLDS(memchr(line.at, '=', line.len) != NULL);
}


/* Checks every line of an accepted file. If two lines have the same name and
 * the same value, the value may point into either line. */
static void
look_at_lines(kaws_bytes text, const kaws_bytes part[3])
{
    kaws_bytes left, line, copy;
    int decide = 0, on, i, seen = 0;

    if (text.len > 2 && memcmp(text.at, "\xef\xbb\xbf", 3) == 0)
        (void)fuzz_take(&text, 3);
    for (left = text; left.len > 0;) {
        line = fuzz_until(&left, '\n');
        decide |= named(&line);
    }
    while (text.len > 0) {
        line = fuzz_until(&text, '\n');
        for (i = on = 0; i < 3; i++) {
            if (part[i].len == 0 || part[i].at < line.at ||
                part[i].at >= line.at + line.len)
                continue;
            look_whole(line, part[i], decide);
            on = 1;
            seen++;
        }
        copy = line;
        if (!on && !(decide && named(&copy)))
            look_empty(line, decide);
    }
    HOLDS(seen == 2 + (part[2].len > 0));
}


static const char *form;          /* what the last text has to hold           */


/* Parses the file, of either form; returns NULL, or what is wrong with it. The
 * parts are good until the next call. */
static const char *
try_text(kaws_bytes text, kaws_bytes part[3])
{
    static uint8_t kept[3][4096];
    static kaws__conf conf;
    uint8_t *const copy = fuzz_copy(text);
    const kaws_bytes view = { copy, text.len };
    const char *wrong;
    int i;

    form = kaws__sources_form;
    wrong = kaws__sources_text(&conf, copy, text.len, part, &form);
    HOLDS(strlen(wrong) < sizeof conf.wrong - 1);
    if (*wrong == '\0') {
        HOLDS(part[0].len > 0 && part[0].len <= 128);
        HOLDS(part[1].len > 0 && part[1].len <= 256 && part[2].len <= 4096);
        if (form == kaws__sources_form)
            look_at_lines(view, part);
        for (i = 0; i < 3; i++) {
            if (part[i].len > 0)
                memcpy(kept[i], part[i].at, part[i].len);
            part[i].at = part[i].len > 0 ? kept[i] : NULL;
        }
    }
    free(copy);
    return *wrong == '\0' ? NULL : wrong;
}


/* ---- credentials that were written into a file ------------------------- */

static void
put(kaws__buf *out, const char *text)
{
    kaws__buf_put(out, text, strlen(text));
}


/* Writes credentials of AWS's characters in one of the ways that people use.
 * The reader must find them unchanged. */
static void
try_way(kaws_bytes in)
{
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqr"
                                 "stuvwxyz0123456789+/";
    static const char *const before[] = { "", "export ", "SET ", "$Env:" };
    static const char *const between[] = { "\n", "\r\n", " \n\n",
                                           "\t\r\n# x\n" };
    static const char *const around[] = { "", "\"", "'", "" };
    static const size_t most[] = { 128, 256, 4096 };
    unsigned way = (unsigned)fuzz_number(&in, 2), i, n, named_too = way & 1;
    const char *const end = between[way >> 1 & 3];
    uint8_t text[7000], values[3][4096];
    kaws_bytes part[3], value[3];
    kaws__buf out = kaws__buf_fixed(text, sizeof text);
    static kaws__conf conf;

    put(&out, way & 8 ? "\xef\xbb\xbf" : "");
    put(&out, way & 16 ? "\n" : "");
    put(&out, way & 32 ? "[default]\n" : "");
    for (i = 0; i < 3; i++) {
        value[i] = fuzz_until(&in, '\n');
        for (n = 0; n < value[i].len && n < most[i]; n++)
            values[i][n] = (uint8_t)base64[i > 0 ? value[i].at[n] & 63
                                                 : value[i].at[n] & 31];
        value[i] = (kaws_bytes){ values[i], n };
        if (i > 0 && n > 0 && way & 64)
            values[i][n - 1] = '=';
    }
    if (value[0].len == 0 || value[1].len == 0 ||
        (value[0].len >= 16 && memcmp(value[0].at, "ASIA", 4) == 0) ||
        (value[1].len == 20 && (memcmp(value[1].at, "ASIA", 4) == 0 ||
                                memcmp(value[1].at, "AKIA", 4) == 0)))
        return;
    for (n = 0; n < 3; n++) {
        i = named_too && way & 128 ? 2 - n : n;         /* names decide       */
        if (i == 2 && value[2].len == 0)
            continue;
        if (named_too) {
            put(&out, before[way >> 8 & 3]);
            put(&out, names[i + (i == 2 && way & 1024)]);
            put(&out, way & 2048 ? " = " : "=");
        }
        put(&out, around[way >> 12 & 3]);
        kaws__buf_put(&out, value[i].at, value[i].len);
        put(&out, around[way >> 12 & 3]);
        put(&out, end);
    }
    put(&out, named_too && way & 16384 ? "region = eu-west-1\n" : "");
    if (out.failed)
        return;
    HOLDS(*kaws__sources_parse(&conf, kaws__buf_view(&out), part) == '\0');
    for (i = 0; i < 3; i++)
        HOLDS(kaws__buf_same(part[i], value[i]));
}


/* ---- as a file --------------------------------------------------------- */

static void
write_file(int fd, kaws_bytes text)
{
    HOLDS(ftruncate(fd, 0) == 0);
    HOLDS(pwrite(fd, text.at, text.len, 0) == (ssize_t)text.len);
}


static int
has(const kaws__creds *c, kaws_bytes id, kaws_bytes secret, kaws_bytes token)
{
    return kaws__buf_same(kaws__buf_of(c->secrets->signer.id), id) &&
           kaws__buf_same(kaws__buf_of(c->secrets->secret), secret) &&
           kaws__buf_same(kaws__buf_of(c->secrets->signer.token), token);
}


/* The buffer that the file was read into is wiped, and the error's text repeats
 * none of the file. */
static void
look_clean(const kaws__creds *c, const kaws_error *err, kaws_bytes text,
           const char *path)
{
    static const uint8_t zeros[KAWS__SOURCES_TEXT_MAX];
    char want[sizeof err->text];
    kaws_bytes part[3];
    const char *wrong;

    HOLDS(memcmp(c->secrets->text, zeros, sizeof zeros) == 0);
    if (err->status == KAWS_OK) {
        HOLDS(err->text[0] == '\0');
        return;
    }
    wrong = text.len == 0 ? "it is empty" :
            text.len >= sizeof zeros ? "it is longer than 6143 bytes"
                                     : try_text(text, part);
    (void)snprintf(want, sizeof want, "the conf file %s: %s; %s", path, wrong,
                   text.len == 0 || text.len >= sizeof zeros
                   ? kaws__sources_form : form);
    HOLDS(strcmp(err->text, want) == 0);
}


static kaws_status
read_creds(kaws__creds *c, int need, kaws_error *err)
{
    kaws__seek seek = { .left_ms = 1 };

    kaws__err_clear(err);
    return kaws__creds_ready(c, &seek, need, err);
}


/* The hook may give exactly the credentials that a file may hold (but without a
 * file's quotes). */
static kaws_bytes given[3];

static int
give(void *ctx, kaws_creds_wanted *wanted)
{
    static char texts[3][KAWS__SOURCES_TEXT_MAX + 1];
    size_t i;

    (void)ctx;
    for (i = 0; i < 3; i++) {
        if (given[i].len > 0)
            memcpy(texts[i], given[i].at, given[i].len);
        texts[i][given[i].len] = '\0';
    }
    wanted->creds = (kaws_creds){ texts[0], texts[1], texts[2] };
    return 0;
}


static void
try_hook(kaws_bytes line[3])
{
    kaws_hooks hooks = fuzz_hooks;
    kaws__creds c;
    kaws_error err;

    memcpy(given, line, sizeof given);
    hooks.creds = give;
    HOLDS(kaws__creds_open(&c, &hooks, NULL, &err) == KAWS_OK);
    HOLDS(read_creds(&c, KAWS__TO_SIGN, &err) == KAWS_OK);
    HOLDS(has(&c, line[0], line[1], line[2]));
    kaws__creds_close(&c);
}


static void
try_file(kaws_bytes text, kaws_bytes line[3], int good)
{
    int fd = memfd_create("conf", MFD_CLOEXEC);
    char path[40];
    kaws__creds c;
    kaws_error err;
    unsigned generation;

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    HOLDS(fd >= 0 && fchmod(fd, 0600) == 0);
    write_file(fd, text);
    HOLDS(kaws__creds_open(&c, &fuzz_hooks, path, &err) == KAWS_OK);
    HOLDS((read_creds(&c, KAWS__TO_TELL, &err) == KAWS_OK) == good);
    look_clean(&c, &err, text, path);
    HOLDS(!good || has(&c, line[0], line[1], line[2]));
    kaws__creds_close(&c);

    write_file(fd, kaws__buf_of(good_file));
    HOLDS(kaws__creds_open(&c, &fuzz_hooks, path, &err) == KAWS_OK);
    HOLDS(read_creds(&c, KAWS__TO_TELL, &err) == KAWS_OK);
    generation = c.secrets->signer.generation;
    write_file(fd, text);
    HOLDS((read_creds(&c, KAWS__TO_RENEW, &err) == KAWS_OK) == good);
    look_clean(&c, &err, text, path);
    HOLDS(c.secrets->signer.generation == generation || good);
    if (good)
        try_hook(line);
    if (good)
        HOLDS(has(&c, line[0], line[1], line[2]));
    else
        HOLDS(has(&c, kaws__buf_of("AKIDGOOD"), kaws__buf_of("sEcReTgOoD"),
                  kaws__buf_of("tOkEnGoOd")));
    kaws__creds_close(&c);
    close(fd);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes text = { data, size }, part[3];
    const char *wrong;

    if (size > 7000)
        return 0;
    wrong = try_text(text, part);
    try_file(text, part, size > 0 && size < KAWS__SOURCES_TEXT_MAX &&
                         wrong == NULL);
    try_way(text);
    return 0;
}
