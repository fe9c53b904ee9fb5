/* unit.h - what the unit tests of all rooms share
 *
 * Include it after keyring_aws.h, which wants to be first. It brings cmocka,
 * reads vectors, and makes a failure show its place: the input with a caret
 * under the byte to blame, or the step that went wrong.
 *
 * A vector file has records, divided by blank lines. A line of a record is
 * "field: value", a line that begins with # is a comment. Where bytes cannot
 * stand in a line as they are, "<0a>" is the byte of that value ("<3c>" is <).
 *
 * What is random follows from KAWS_SEED (1 if it is not set), which a failure
 * prints.
 */

#if !defined(KAWS_TESTS_UNIT_H)
#define KAWS_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UNIT_COUNT(array) (sizeof (array) / sizeof (array)[0])

#define UNIT_FIELDS 32


/* ---- chance ------------------------------------------------------------ */

static inline uint64_t *
unit_state(void)
{
    static uint64_t state;

    return &state;
}


static inline unsigned long
unit_seed(void)
{
    const char *text = getenv("KAWS_SEED");

    return text != NULL && *text != '\0' ? strtoul(text, NULL, 10) : 1;
}


/* A test that uses chance begins with this, so that it can be run alone. */
static inline void
unit_start(void)
{
    *unit_state() = 0x9e3779b97f4a7c15u * (unit_seed() + 1);
}


/* How often to try chance: a tenth of that where an emulator is slow, because
 * there the machine is tested, and not our luck. */
static inline size_t
unit_rounds(size_t rounds)
{
    return getenv("UNIT_TENTH") != NULL ? rounds / 10 : rounds;
}


/* 0 to below - 1 (xorshift, of no use but for tests). */
static inline uint32_t
unit_random(uint32_t below)
{
    uint64_t x = *unit_state();

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *unit_state() = x;
    return (uint32_t)((x >> 32) % below);
}


static inline void
unit_fill(void *out, size_t len)
{
    uint8_t *at = out;
    size_t i;

    for (i = 0; i < len; i++)
        at[i] = (uint8_t)unit_random(256);
}


/* ---- memory ------------------------------------------------------------ */

/* A copy in a block of exactly that size, so that a sanitizer sees a byte too
 * far; of nothing, a block whose one byte is not to be touched either. */
static inline uint8_t *
unit_exact(const void *data, size_t len)
{
    uint8_t *block = malloc(len > 0 ? len : 1);

    assert_non_null(block);
    if (len > 0 && data != NULL)
        memcpy(block, data, len);
    return block;
}


/* Hooks with plain memory and nothing else. */
static inline const kaws_hooks *
unit_hooks(void)
{
    static kaws_hooks hooks;

    hooks.memory = kaws__mem_builtin;
    return &hooks;
}


static inline kaws_bytes
unit_bytes(const void *at, size_t len)
{
    kaws_bytes bytes = { NULL, 0 };

    bytes.at = at;
    bytes.len = len;
    return bytes;
}


/* ---- an allocator that keeps books ------------------------------------- */

typedef struct unit_ledger {
    kaws_hooks hooks;
    size_t given, live;
    size_t fail_at, fail_from;    /* the nth allocation, from 1; 0: none      */
    struct { uint8_t *at; size_t len; } blocks[64];
} unit_ledger;


/* Gives blocks full of rubbish; takes only what it gave, of the length it had,
 * and wiped. Nothing is asked of it but to give and to take. */
static inline void *
unit_ledger_memory(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    unit_ledger *l = ctx;
    size_t i, n;

    if (ptr == NULL) {
        assert_int_not_equal(new_len, 0);
        assert_in_range(l->live, 0, UNIT_COUNT(l->blocks) - 1);
        l->given++;
        if (l->given == l->fail_at ||
            (l->fail_from > 0 && l->given >= l->fail_from))
            return NULL;
        l->blocks[l->live].at = unit_exact(NULL, new_len);
        l->blocks[l->live].len = new_len;
        return memset(l->blocks[l->live++].at, 0xa5, new_len);
    }
    assert_int_equal(new_len, 0);
    for (i = 0; i < l->live && l->blocks[i].at != ptr; i++)
        continue;
    if (i == l->live)
        fail_msg("a block of %lu bytes that was never given",
                 (unsigned long)old_len);
    assert_int_equal(old_len, l->blocks[i].len);
    for (n = 0; n < old_len; n++)
        if (l->blocks[i].at[n] != 0)
            fail_msg("byte %lu of %lu was not wiped", (unsigned long)n,
                     (unsigned long)old_len);
    free(ptr);
    l->blocks[i] = l->blocks[--l->live];
    return NULL;
}


static inline const kaws_hooks *
unit_ledger_open(unit_ledger *l)
{
    memset(l, 0, sizeof *l);
    l->hooks.ctx = l;
    l->hooks.memory = unit_ledger_memory;
    return &l->hooks;
}


/* ---- failing with words ------------------------------------------------ */

/* Prints the bytes, a dot for each that is not printable, at most 64 around
 * the place, and a caret under it. */
static inline void
unit_caret(const void *text, size_t len, size_t place)
{
    const uint8_t *at = text;
    size_t from = place > 40 ? place - 40 : 0;
    size_t to = len - from > 64 ? from + 64 : len;
    size_t i;

    print_error("    %s", from > 0 ? "..." : "   ");
    for (i = from; i < to; i++)
        print_error("%c", at[i] >= 0x20 && at[i] < 0x7f ? at[i] : '.');
    print_error("%s\n       ", to < len ? "..." : "");
    for (i = from; i < place; i++)
        print_error(" ");
    print_error("^ byte %lu of %lu\n", (unsigned long)place,
                (unsigned long)len);
}


/* The vector or the like that is being tested now; a failure names it. */
static inline const char **
unit_case(void)
{
    static const char *name = "";

    return &name;
}


/* The bytes are the same; else fails, and shows both at the first difference.
 * `what` names the step. */
static inline void
unit_same(const char *what, const void *got, size_t got_len, const void *want,
          size_t want_len)
{
    const uint8_t *g = got, *w = want;
    size_t i = 0;

    while (i < got_len && i < want_len && g[i] == w[i])
        i++;
    if (i == got_len && i == want_len)
        return;
    print_error("wrong: %s %s (KAWS_SEED=%lu)\n  want\n", what, *unit_case(),
                unit_seed());
    unit_caret(want, want_len, i);
    print_error("  got\n");
    unit_caret(got, got_len, i);
    fail();
}


static inline void
unit_same_text(const char *what, const char *got, const char *want)
{
    unit_same(what, got, strlen(got), want, strlen(want));
}


/* ---- vectors ----------------------------------------------------------- */

typedef struct unit_file {
    FILE  *file;
    size_t line, count;           /* fields of the record                     */
    char  *text;
    const char *names[UNIT_FIELDS], *values[UNIT_FIELDS];
} unit_file;


/* The file lies in the folder vectors beside the test's source (or in
 * KAWS_VECTORS, for a program that was built elsewhere). */
static inline void
unit_open(unit_file *f, const char *source, const char *name)
{
    const char *folder = getenv("KAWS_VECTORS");
    const char *slash = strrchr(source, '/');
    char path[512];
    int n;

    memset(f, 0, sizeof *f);
    if (folder != NULL)
        n = snprintf(path, sizeof path, "%s/%s", folder, name);
    else
        n = snprintf(path, sizeof path, "%.*svectors/%s",
                     slash != NULL ? (int)(slash + 1 - source) : 0, source,
                     name);
    assert_in_range(n, 1, sizeof path - 1);
    f->file = fopen(path, "rb");
    if (f->file == NULL)
        fail_msg("cannot open %s: run the test in the folder where it was "
                 "built, or set KAWS_VECTORS", path);
    f->text = malloc(65536);
    assert_non_null(f->text);
}


static inline void
unit_close(unit_file *f)
{
    fclose(f->file);
    free(f->text);
}


/* Reads the next record; 0 at the end. */
static inline int
unit_next(unit_file *f)
{
    size_t used = 0, len;
    char *at, *colon;

    f->count = 0;
    *unit_case() = "";
    while (used < 65000 && fgets(f->text + used, (int)(65536 - used),
                                 f->file) != NULL) {
        at = f->text + used;
        f->line++;
        len = strcspn(at, "\n");
        at[len] = '\0';
        if (len == 0 && f->count > 0)
            break;
        if (len == 0 || at[0] == '#')
            continue;
        colon = strchr(at, ':');
        if (colon == NULL || f->count == UNIT_FIELDS)
            fail_msg("vectors, line %lu: not a field", (unsigned long)f->line);
        *colon = '\0';
        f->names[f->count] = at;
        f->values[f->count] = colon + (colon[1] == ' ' ? 2 : 1);
        if (strcmp(at, "case") == 0)
            *unit_case() = f->values[f->count];
        f->count++;
        used += len + 1;
    }
    return f->count > 0;
}


/* The value of the nth field of that name (from 0), or NULL. */
static inline const char *
unit_field(const unit_file *f, const char *name, size_t nth)
{
    size_t i;

    for (i = 0; i < f->count; i++)
        if (strcmp(f->names[i], name) == 0 && nth-- == 0)
            return f->values[i];
    return NULL;
}


static inline const char *
unit_must(const unit_file *f, const char *name)
{
    const char *value = unit_field(f, name, 0);

    if (value == NULL)
        fail_msg("vectors, record before line %lu: lacks %s",
                 (unsigned long)f->line, name);
    return value;
}


static inline int
unit_digit(int c)
{
    const char *digits = "0123456789abcdef";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;

    return found != NULL ? (int)(found - digits) : -1;
}


/* A field's bytes, with each <hh> undone, in a block of exactly that size. */
static inline uint8_t *
unit_undo(const char *value, size_t *len)
{
    uint8_t *text = malloc(strlen(value) + 1), *exact;
    size_t n = 0;

    assert_non_null(text);
    while (*value != '\0') {
        if (value[0] == '<' && unit_digit(value[1]) >= 0 &&
            unit_digit(value[2]) >= 0 && value[3] == '>') {
            text[n++] = (uint8_t)(unit_digit(value[1]) * 16 +
                                  unit_digit(value[2]));
            value += 4;
        } else {
            text[n++] = (uint8_t)*value++;
        }
    }
    exact = unit_exact(text, n);
    free(text);
    *len = n;
    return exact;
}


/* The bytes of hex digits, likewise. */
static inline uint8_t *
unit_unhex(const char *digits, size_t *len)
{
    uint8_t *exact;
    size_t i;

    *len = strlen(digits) / 2;
    exact = unit_exact(NULL, *len);
    for (i = 0; i < *len; i++)
        exact[i] = (uint8_t)(unit_digit(digits[2 * i]) * 16 +
                             unit_digit(digits[2 * i + 1]));
    return exact;
}

#endif
