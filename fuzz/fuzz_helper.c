/* Room helper: how a credential_process is split into words, and what its
 * program may reply.
 *
 * The input is the command, and also the reply. A second reader must come to
 * the same verdict, the same words and the same values. What is taken for
 * credentials can be sent, and no error shows a piece of a secret.
 *
 * The input is also taken for words and for a reply's values, and for ways to
 * write them down: each way they are found as they were, to the byte.
 */

#include "fuzz.h"
#include "judge.h"

enum { MOST = 2000, WORDS = KAWS__HELPER_WORDS, MEMBERS = 6 };

static const char *const members[MEMBERS] = {
    "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration", "AccountId",
    "Version"
};

static kaws_bytes words[WORDS + 1];
static size_t count;
static unsigned chance;


/* 0 to below - 1; what comes next follows from the input. */
static unsigned
pick(unsigned below)
{
    chance = chance * 1103515245u + 12345u;
    return (chance >> 16) % below;
}


/* ---- words --------------------------------------------------------------- */

static int
is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}


/* Takes what is between quotes. 0: the second one is not there. */
static int
take_quoted(kaws_bytes *in, uint8_t **out)
{
    const int quote = *fuzz_take(in, 1).at;
    int c;

    while (in->len > 0) {
        c = *fuzz_take(in, 1).at;
        if (c == quote)
            return 1;
        if (quote == '"' && c == '\\' && in->len > 0 &&
            (*in->at == '"' || *in->at == '\\'))
            c = *fuzz_take(in, 1).at;
        *(*out)++ = (uint8_t)c;
    }
    return 0;
}


/* A second reader, word by word. Returns 0 if it makes nothing of the text. */
static int
split(kaws_bytes in, uint8_t *out)
{
    for (count = 0;; count++) {
        while (in.len > 0 && is_blank(*in.at))
            (void)fuzz_take(&in, 1);
        if (in.len == 0)
            return count > 0 && words[0].len > 0 && *words[0].at == '/';
        if (count == WORDS)
            return 0;
        words[count].at = out;
        while (in.len > 0 && !is_blank(*in.at)) {
            if (*in.at == '"' || *in.at == '\'') {
                if (!take_quoted(&in, &out))
                    return 0;
                continue;
            }
            if (*in.at == '\\' && in.len == 1)
                return 0;
            (void)fuzz_take(&in, *in.at == '\\');
            *out++ = *fuzz_take(&in, 1).at;
        }
        words[count].len = (size_t)(out - words[count].at);
    }
}


/* Splits the command with both readers. Returns 1 if it is good. */
static int
split_twice(const char *command)
{
    const size_t len = strlen(command);
    char *const room = malloc(len + 1), *argv[WORDS + 1];
    uint8_t *const out = malloc(len + 1);
    const char *wrong, *end = room;
    int good;
    size_t i;

    HOLDS(room != NULL && out != NULL);
    good = split((kaws_bytes){ (const uint8_t *)command, len }, out);
    wrong = kaws__helper_words(command, room, argv);
    HOLDS(good == (wrong == NULL));
    for (i = 0; good && i < count; i++) {
        HOLDS(argv[i] == end && end + words[i].len <= room + len);
        HOLDS(strlen(argv[i]) == words[i].len);
        HOLDS(memcmp(argv[i], words[i].at, words[i].len) == 0);
        end += words[i].len + 1;
    }
    HOLDS(!good || argv[count] == NULL);
    free(room);
    free(out);
    return good;
}


static void
put(kaws__buf *out, const char *text)
{
    kaws__buf_put(out, text, strlen(text));
}


/* Writes a word: bytes bare, behind a backslash, or between either quotes. */
static void
write_word(kaws__buf *out, kaws_bytes word)
{
    const uint8_t *const end = word.at + word.len;
    int way = (int)pick(4), c;

    if (word.len == 0)
        put(out, pick(2) ? "''" : "\"\"");
    while (word.at < end) {
        if (way > 1)
            put(out, way == 2 ? "'" : "\"");
        do {
            c = *word.at;
            if (c == 0 || (way == 2 && c == '\'') ||
                (way == 0 && (is_blank(c) || strchr("\"'\\", c) != NULL)))
                break;
            if (way == 1 || (way == 3 && (c == '"' || c == '\\')))
                put(out, "\\");
            kaws__buf_put(out, word.at++, 1);
        } while (word.at < end && pick(4) > 0);
        if (way > 1)
            put(out, way == 2 ? "'" : "\"");
        way = word.at < end && way == 0 ? 1 : (int)pick(4);
    }
}


/* Each line of the input is a word; the first is made a path. */
static void
write_words(kaws_bytes in)
{
    static uint8_t text[16 * MOST];
    static const char *const gaps[] = { " ", "\t", " \r\n ", "   " };
    kaws__buf out = kaws__buf_fixed(text, sizeof text);
    uint8_t first[MOST + 1];
    kaws_bytes want[WORDS];
    size_t n = 0, i;

    while (n < WORDS && (n == 0 || in.len > 0))
        want[n++] = fuzz_until(&in, '\n');
    first[0] = '/';
    if (want[0].len > 0)
        memcpy(first + 1, want[0].at, want[0].len);
    want[0] = (kaws_bytes){ first, want[0].len + 1 };
    for (i = 0; i < n; i++) {
        put(&out, i > 0 || pick(2) ? gaps[pick(4)] : "");
        write_word(&out, want[i]);
    }
    put(&out, pick(2) ? gaps[pick(4)] : "");
    kaws__buf_put(&out, "", 1);
    HOLDS(!out.failed && split_twice((char *)text) && count == n);
    (void)split((kaws_bytes){ text, strlen((char *)text) }, text);
    for (i = 0; i < n; i++)
        HOLDS(kaws__buf_same(words[i], want[i]));
}


/* ---- the reply ----------------------------------------------------------- */

static kaws__sources sources = { .hooks = &fuzz_hooks };


/* No error has 20 bytes of a value; our own words have blanks more often. */
static void
shows_nothing(const char *text, kaws_bytes value)
{
    char piece[21] = "";
    size_t i;

    for (i = 0; i + 20 <= value.len; i++) {
        memcpy(piece, value.at + i, 20);
        if (strlen(piece) == 20 && strpbrk(piece, " \t") == NULL)
            HOLDS(strstr(text, piece) == NULL);
    }
}


/* What is taken can be sent; what is not taken is not shown. */
static void
take(kaws__reading *n, kaws_bytes whole)
{
    const kaws_bytes found[3] = { n->seek->found[0], n->seek->found[1],
                                  n->seek->found[2] };
    static const size_t most[] = { 128, 256, 4096 };
    kaws_error err = { 0 };
    kaws_status status = kaws__reading_take(n, members, &err);
    size_t i, k;

    HOLDS((status == KAWS_OK) == (err.text[0] == '\0'));
    for (i = 1; status != KAWS_OK && i < 3; i++)
        shows_nothing(err.text, found[i]);
    for (i = 0; status == KAWS_OK && i < 3; i++) {
        const kaws_bytes got = n->seek->found[i];
        HOLDS(got.at == (uint8_t *)n->pages->creds[i]);
        HOLDS(kaws__buf_same(got, found[i]));
        HOLDS(got.len <= most[i] && (got.len > 0 || i == 2));
        for (k = 0; k < got.len; k++)
            HOLDS(got.at[k] > ' ' && got.at[k] <= '~');
        HOLDS(got.len <= whole.len);
    }
    if (n->seek->owner[0] == '\0')
        return;
    HOLDS(strncmp(n->seek->owner, "account ", 8) == 0);
    HOLDS(strpbrk(n->seek->owner + 8, " \"'\\\n") == NULL);
    shows_nothing(n->seek->owner, found[1]);
    shows_nothing(n->seek->owner, found[2]);
}


/* Reads the reply with both readers. Returns 1 if it is good; *seek has what
 * was found, in `copy`, which is as long as the text. */
static int
read_twice(kaws_bytes text, uint8_t *copy, kaws__reading *n)
{
    judge j = { .kind = { 0, 0, JUDGE_OR_NULL, JUDGE_OR_NULL, JUDGE_IF_STRING,
                          JUDGE_AS_WRITTEN } };
    uint8_t *const room = malloc(text.len + 1);
    const char *wrong;
    char said[128];
    int good, i;

    HOLDS(room != NULL);
    for (i = 0; i < MEMBERS; i++)
        j.want[i] = members[i];
    good = judge_object(&j, text, room) && j.found[5].len == 1 &&
           *j.found[5].at == '1';
    if (good && j.found[3].at != NULL)
        good = kaws__text_iso_date(j.found[3]) > 0;
    wrong = kaws__helper_read(n, copy, text.len, said);
    HOLDS(good == (wrong == NULL));
    if (wrong != NULL)
        shows_nothing(wrong, text);
    for (i = 0; good && i < 3; i++) {
        HOLDS((n->seek->found[i].at == NULL) == (j.found[i].at == NULL));
        HOLDS(kaws__buf_same(n->seek->found[i], j.found[i]));
        HOLDS(j.found[i].at == NULL || (n->seek->found[i].at > copy &&
              n->seek->found[i].at + n->seek->found[i].len < copy + text.len));
    }
    HOLDS(!good || (n->seek->expires > 0) == (j.found[3].at != NULL));
    free(room);
    return good;
}


/* Writes the values as a reply, in some way; they are found as they were. */
static void
write_reply(kaws_bytes in, kaws__reading *n)
{
    static const char *const gaps[] = { "", " ", "\n  ", "\t\r\n" };
    kaws_bytes values[MEMBERS] = { { NULL, 0 } }, text;
    const unsigned first = pick(MEMBERS), token = pick(3), date = pick(3);
    uint8_t *copy;
    kaws__buf out;
    unsigned i, k;

    values[0] = fuzz_until(&in, '\n');
    values[1] = fuzz_until(&in, '\n');
    values[2] = in;
    values[3] = kaws__buf_of("2026-11-27T08:32:38Z");
    values[4] = kaws__buf_of("111122223333");
    kaws__buf_init(&out, &fuzz_hooks);
    put(&out, gaps[pick(4)]);
    kaws__json_begin(&out);
    for (k = 0; k < MEMBERS; k++) {
        i = (first + k) % MEMBERS;
        if (pick(3) == 0) {
            kaws__json_name(&out, "More");
            put(&out, pick(2) ? "[{\"Version\":2}]" : "\"AccessKeyId\"");
        }
        if ((i == 2 && token == 0) || (i == 3 && date == 0))
            continue;
        kaws__json_name(&out, members[i]);
        put(&out, gaps[pick(4)]);
        if (i == 5 || (i == 2 && token == 1) || (i == 3 && date == 1))
            put(&out, i == 5 ? "1" : "null");
        else
            kaws__json_string(&out, values[i]);
        put(&out, gaps[pick(4)]);
    }
    kaws__json_end(&out);
    put(&out, gaps[pick(4)]);
    text = kaws__buf_view(&out);
    HOLDS(!out.failed);
    copy = fuzz_copy(text);
    HOLDS(read_twice(text, copy, n));
    for (i = 0; i < 2 + (token == 2); i++)
        HOLDS(kaws__buf_same(n->seek->found[i], values[i]));
    HOLDS(token == 2 || n->seek->found[2].len == 0);
    HOLDS(n->seek->expires == (date == 2 ? 1795768358 : 0));
    take(n, text);
    free(copy);
    kaws__buf_free(&out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kaws__pages pages;
    kaws__seek seek = { .left_ms = 1 };
    kaws__reading n = { .s = &sources, .seek = &seek, .pages = &pages,
                        .name = "the profile", .shown = "p", .asked = 1 };
    kaws_bytes text = { data, size }, in = text;
    uint8_t *copy;
    char *command;

    if (size > MOST)
        return 0;
    for (chance = 1; in.len > 0; (void)fuzz_take(&in, 1))
        chance = chance * 31 + *in.at;
    command = fuzz_string(&text);
    (void)split_twice(command);
    if (strlen(command) == size)          /* no word can have a NUL           */
        write_words((kaws_bytes){ data, size });
    free(command);

    text = (kaws_bytes){ data, size };
    copy = fuzz_copy(text);
    if (read_twice(text, copy, &n))
        take(&n, text);
    free(copy);
    if (judge_is_utf8(text))
        write_reply(text, &n);
    return 0;
}
