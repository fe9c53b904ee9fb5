/* Rooms sources and creds: the conf file, whole or half, and what stays of it.
 *
 * The input is the file. It is good if and only if it has two or three lines
 * that hold what they should, blanks at the ends aside. It is read from a file
 * that lies in memory; one that is not good, in place of one that is, changes
 * nothing.
 */

#include "fuzz.h"

#include <sys/mman.h>

static const char good_file[] = "AKIDGOOD\nsEcReTgOoD\ntOkEnGoOd\n";


/* What is left of the text without its first line, which goes to *line without
 * blanks at its end. */
static kaws_bytes
next_line(kaws_bytes text, kaws_bytes *line)
{
    *line = fuzz_until(&text, '\n');
    while (line->len > 0 && strchr(" \t\r", line->at[line->len - 1]) != NULL &&
           line->at[line->len - 1] != 0)
        line->len--;
    return text;
}


/* The same verdict in other words: NULL, or which line is to be blamed. */
static const char *
verdict(kaws_bytes text, kaws_bytes line[3])
{
    static const struct { size_t least, most; const char *name; } rules[] = {
        { 1, 128, "line 1" }, { 1, 256, "line 2" }, { 0, 4096, "line 3" }
    };
    size_t i, k;

    for (i = 0; i < 3; i++) {
        text = next_line(text, &line[i]);
        for (k = 0; k < line[i].len; k++)
            if (line[i].at[k] <= ' ' || line[i].at[k] >= 127)
                return rules[i].name;
        if (line[i].len < rules[i].least || line[i].len > rules[i].most)
            return rules[i].name;
    }
    for (; text.len > 0; text.at++, text.len--)
        if (strchr(" \t\r\n", *text.at) == NULL || *text.at == 0)
            return "line 4";
    return NULL;
}


static void
try_text(kaws_bytes text, kaws_bytes line[3])
{
    kaws_bytes copy = { fuzz_copy(text), text.len }, part[3];
    const char *blamed = verdict(text, line);
    const char *wrong = kaws__sources_parse(copy, part);
    int i;

    HOLDS((wrong == NULL) == (blamed == NULL));
    HOLDS(wrong == NULL || strncmp(wrong, blamed, strlen(blamed)) == 0);
    for (i = 0; wrong == NULL && i < 3; i++)
        HOLDS(kaws__buf_same(part[i], line[i]));
    free((void *)(uintptr_t)copy.at);
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


/* None of the file is left where it was read, nor is it in the error's words:
 * those depend on which line is wrong, and on nothing else. */
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
                                     : kaws__sources_parse(text, part);
    (void)snprintf(want, sizeof want, "the conf file %s: %s; it has to hold "
                   "the access key id, the secret access key and, if there is "
                   "one, the session token, one a line", path, wrong);
    HOLDS(strcmp(err->text, want) == 0);
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
    kaws__err_clear(&err);
    HOLDS((kaws__creds_open(&c, &fuzz_hooks, path, &err) == KAWS_OK) == good);
    look_clean(&c, &err, text, path);
    HOLDS(!good || has(&c, line[0], line[1], line[2]));
    kaws__creds_close(&c);

    write_file(fd, kaws__buf_of(good_file));
    HOLDS(kaws__creds_open(&c, &fuzz_hooks, path, &err) == KAWS_OK);
    generation = c.secrets->signer.generation;
    write_file(fd, text);
    kaws__err_clear(&err);
    HOLDS((kaws__creds_reload(&c, 0, &err) == KAWS_OK) == good);
    look_clean(&c, &err, text, path);
    HOLDS((c.secrets->signer.generation == generation) == !good);
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
    kaws_bytes text = { data, size }, line[3];

    if (size > 7000)
        return 0;
    try_text(text, line);
    try_file(text, line, size > 0 && size < KAWS__SOURCES_TEXT_MAX &&
                         verdict(text, line) == NULL);
    return 0;
}
