/* Room config: the settings file of MySQL's keyring component.
 *
 * The input is the file. A second JSON reader (judge.h) must accept each text
 * that the room accepts, and refuse each that the room calls malformed. An
 * error must name a place in the text. What is accepted must give values within
 * their limits, and the same values again if they are written as the settings
 * of keyring_aws.
 *
 * No error and no warning may show a value, because it may be the secret access
 * key. So the text is read once more, with an x in place of each letter and
 * digit of its values. All must be as it was, but for these values.
 */

#include "fuzz.h"
#include "unseen_begin.h"
#include "judge.h"
#include "unseen_end.h"
#include "../keyring_aws_plugin.c"

#include <ctype.h>

enum { REFUSED, NO_SETTINGS, ACCEPTED };

typedef struct outcome {
    int  what;
    int  line, column;                  /* of what is refused                */
    char error[sizeof ((kaws_error *)0)->text];
    char warnings[1 << 17];
    plug__config *config;               /* NULL: it is refused               */
} outcome;

static outcome first, second;
static outcome *listening;


static void
hear(int level, const char *line)
{
    const size_t used = strlen(listening->warnings);
    const size_t room = sizeof listening->warnings - used;

    HOLDS(level == PLUG__WARNING);
    HOLDS(strchr(line, '\n') == NULL);
    HOLDS((size_t)snprintf(listening->warnings + used, room, "%s\n", line)
          < room);
}


static plug__guard guard;


/* ---- one reading ------------------------------------------------------- */

/* A place in the text is so many bytes behind its line's begin. */
static void
look_at_place(const plug__config_reader *r, kaws_bytes text, const outcome *o)
{
    kaws_bytes left = text;
    int line;

    HOLDS(r->json.at >= r->text && r->json.at <= r->text + r->len);
    HOLDS(o->line >= 1 && o->column >= 1);
    for (line = 1; line < o->line; line++) {
        HOLDS(left.len > 0 && memchr(left.at, '\n', left.len) != NULL);
        (void)fuzz_until(&left, '\n');
    }
    HOLDS(left.at + o->column - 1 == text.at + (r->json.at - r->text));
    HOLDS(memchr(left.at, '\n', (size_t)o->column - 1) == NULL);
}


/* Reads the text; on failure returns false. */
static bool
parse(kaws_bytes text, outcome *o)
{
    plug__config_reader r = { .guard = &guard, .to = o->config };
    uint8_t *const room = malloc(text.len + 1);
    judge j = { .at = NULL };
    bool good, valid;

    HOLDS(room != NULL);
    r.text = fuzz_copy(text);
    r.len = text.len;
    good = plug__config_parse(&r);
    valid = judge_object(&j, text, room);
    HOLDS(!good || valid);
    HOLDS(good || r.wrong[0] != '\0' || (r.json.bad != NULL && !valid));
    if (!good) {
        o->line = r.json.lines + 1;
        o->column = (int)(r.json.at - r.json.line) + 1;
        look_at_place(&r, text, o);
        (void)snprintf(o->error, sizeof o->error, "%s",
                       r.wrong[0] != '\0' ? r.wrong : r.json.bad);
        HOLDS(o->error[0] != '\0');
    }
    free(room);
    free(r.text);
    return good;
}


/* Reads the text, and makes settings of it. */
static void
read_text(kaws_bytes text, const char *instance, outcome *o)
{
    plug__guard_config cfg;
    kaws_error err = { 0 };

    o->what = REFUSED;
    o->line = o->column = 0;
    o->error[0] = o->warnings[0] = '\0';
    o->config = calloc(1, sizeof *o->config);
    HOLDS(o->config != NULL);
    (void)snprintf(o->config->file, PLUG__PATH, "/etc/c.cnf");
    listening = o;
    if (parse(text, o)) {
        o->what = NO_SETTINGS;
        if (plug__config_compose(o->config, instance, &err)
            && plug__settings_read(&guard, o->config->values, &cfg, &err)
               == KAWS_OK)
            o->what = ACCEPTED;
        HOLDS((err.status == KAWS_OK) == (o->what == ACCEPTED));
        HOLDS((err.text[0] == '\0') == (o->what == ACCEPTED));
        HOLDS(strchr(err.text, '\n') == NULL);
        (void)snprintf(o->error, sizeof o->error, "%s", err.text);
    }
    (void)plug__lines_well(&guard.lines, NULL);
}


static void
forget(outcome *o)
{
    plug__config_free(o->config);
    o->config = NULL;
}


/* ---- what may not be shown --------------------------------------------- */

/* Masks a string from behind its first quote on, and returns its end. A mode is
 * left as it is, because the room compares it. */
static uint8_t *
mask(uint8_t *at, uint8_t *end)
{
    const size_t len = (size_t)(end - at);
    int hex = 0;                        /* digits that belong to an escape   */

    if (len >= 7 && (memcmp(at, "simple\"", 7) == 0
                     || memcmp(at, "native\"", 7) == 0))
        return at + 7;
    for (; at < end && *at != '"'; at++) {
        if (*at == '\\' && end - at > 1)
            hex = *++at == 'u' ? 4 : 0;
        else if (hex > 0)
            hex--;
        else if (*at < 0x80 && isalnum(*at))
            *at = 'x';
    }
    return at < end ? at + 1 : end;
}


static uint8_t *
skip(uint8_t *at, uint8_t *end)
{
    for (; at < end && *at != '"'; at++)
        at += *at == '\\' && end - at > 1;
    return at < end ? at + 1 : end;
}


/* Masks what was read of the text. A string is a value behind a colon, and as
 * the first of an array. */
static void
mask_all(uint8_t *at, uint8_t *end)
{
    int before = '\0';

    while (at < end) {
        const int byte = *at++;

        if (byte == '"')
            at = before == ':' || before == '[' ? mask(at, end)
                                                : skip(at, end);
        if (memchr(" \t\r\n", byte, 4) == NULL)
            before = byte;
    }
}


/* How much of the text was read. */
static size_t
read_of(kaws_bytes text, const outcome *o)
{
    kaws_bytes left = text;
    int line;

    if (o->what != REFUSED)
        return text.len;
    for (line = 1; line < o->line; line++)
        (void)fuzz_until(&left, '\n');
    return (size_t)(left.at - text.at) + (size_t)o->column - 1;
}


static void
look_at_what_is_shown(kaws_bytes text, const char *instance)
{
    uint8_t *const copy = fuzz_copy(text);

    mask_all(copy, copy + read_of(text, &first));
    read_text((kaws_bytes){ copy, text.len }, instance, &second);
    HOLDS(first.what == second.what);
    HOLDS(first.line == second.line && first.column == second.column);
    HOLDS(strcmp(first.error, second.error) == 0);
    HOLDS(strcmp(first.warnings, second.warnings) == 0);
    forget(&second);
    free(copy);
}


/* ---- settings ---------------------------------------------------------- */

static void
look_at_values(const plug__config *c)
{
    int i;

    for (i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];
        const plug__settings_value *const value = &c->values[i];

        HOLDS(row->from != PLUG__HIDDEN || value->flag == 0);
        if (row->kind == PLUG__NUMBER)
            HOLDS(value->number >= row->def.number[1]
                  && value->number <= row->def.number[2]);
        else if (row->kind == PLUG__FLAG)
            HOLDS(value->flag == 0 || value->flag == 1);
        else if (row->path && value->text != NULL)
            HOLDS(value->text[0] == '\0' || value->text[0] == '/');
    }
}


static void
put(kaws__buf *out, const char *text)
{
    kaws__buf_put(out, text, strlen(text));
}


/* Writes all settings as those of keyring_aws. */
static void
write_settings(kaws__buf *out, const plug__config *c)
{
    char number[16];
    int i;

    put(out, "{\"keyring_aws\":");
    kaws__json_begin(out);
    for (i = 0; i < PLUG__SETTINGS; i++) {
        const plug__settings_row *const row = &plug__settings_rows[i];
        const plug__settings_value *const value = &c->values[i];

        if (row->from == PLUG__HIDDEN
            || (row->kind == PLUG__TEXT && value->text == NULL))
            continue;
        kaws__json_name(out, row->name);
        (void)snprintf(number, sizeof number, "%d", row->kind == PLUG__NUMBER
                                                    ? value->number : 0);
        if (row->kind == PLUG__TEXT)
            kaws__json_string(out, kaws__buf_of(value->text));
        else
            put(out, row->kind == PLUG__NUMBER ? number
                     : value->flag ? "true" : "false");
    }
    kaws__json_end(out);
    put(out, "}");
}


static void
write_and_read(const plug__config *c)
{
    kaws__buf out;
    int i;

    kaws__buf_init(&out, &fuzz_hooks);
    write_settings(&out, c);
    HOLDS(!out.failed);
    read_text(kaws__buf_view(&out), "", &second);
    HOLDS(second.what == ACCEPTED && second.warnings[0] == '\0');
    for (i = 0; i < PLUG__SETTINGS; i++) {
        const int kind = plug__settings_rows[i].kind;
        const plug__settings_value *const a = &c->values[i];
        const plug__settings_value *const b = &second.config->values[i];

        if (kind == PLUG__NUMBER)
            HOLDS(a->number == b->number);
        else if (kind == PLUG__FLAG)
            HOLDS(a->flag == b->flag);
        else
            HOLDS((a->text == NULL) == (b->text == NULL)
                  && (a->text == NULL || strcmp(a->text, b->text) == 0));
    }
    forget(&second);
    kaws__buf_free(&out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const instances[] = { "", "/srv/data" };
    const kaws_bytes text = { data, size };
    int i;

    if (size > 2000)
        return 0;
    if (guard.host == NULL)
        plug__guard_begin(&guard, &plug__component_host, hear);
    for (i = 0; i < 2; i++) {
        read_text(text, instances[i], &first);
        look_at_what_is_shown(text, instances[i]);
        if (first.what == ACCEPTED) {
            look_at_values(first.config);
            write_and_read(first.config);
        }
        forget(&first);
    }
    return 0;
}
