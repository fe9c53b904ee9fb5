/* Room json: what the reader accepts and refuses, and what the writer writes.
 *
 * The input is one text. A second, recursive reader (judge.h) must come to the
 * same verdict and the same values.
 */

#include "fuzz.h"
#include "judge.h"

enum { WANTED = 4 };

static const char *const wanted[WANTED] = {
    "KeyId", "CiphertextBlob", "a", ""
};


static void
want(kaws__member members[WANTED], judge *j)
{
    size_t i;

    memset(j, 0, sizeof *j);
    memset(members, 0, WANTED * sizeof *members);
    for (i = 0; i < WANTED; i++)
        members[i].name = j->want[i] = wanted[i];
}


/* Reads the text with both readers; returns 1 if it is good. The members'
 * values are views into `copy`, which must be as long as the text. */
static int
read_twice(kaws_bytes text, uint8_t *copy, kaws__member members[WANTED])
{
    judge j;
    size_t i, offset = SIZE_MAX;
    uint8_t *room = malloc(text.len + 1);
    const char *bad;
    int good;

    HOLDS(room != NULL);
    want(members, &j);
    good = judge_object(&j, text, room);
    bad = kaws__json_read(copy, text.len, members, WANTED, &offset);
    HOLDS(good == (bad == NULL));
    HOLDS(offset <= text.len);
    HOLDS(bad != NULL || offset == text.len);
    for (i = 0; good && i < WANTED; i++) {
        kaws_bytes value = members[i].value;
        HOLDS((value.at == NULL) == (j.found[i].at == NULL));
        if (value.at == NULL)
            continue;
        HOLDS(value.at >= copy && value.len <= text.len);
        HOLDS(value.at + value.len <= copy + text.len);
        HOLDS(kaws__buf_same(value, j.found[i]));
    }
    free(room);
    return good;
}


/* Writes the members and reads the result: the members must be the same. */
static void
write_and_read(const kaws__member members[WANTED])
{
    kaws__member again[WANTED];
    kaws__buf out;
    uint8_t *copy;
    size_t i;

    kaws__buf_init(&out, &fuzz_hooks);
    kaws__json_begin(&out);
    for (i = 0; i < WANTED; i++) {
        if (members[i].value.at == NULL)
            continue;
        kaws__json_name(&out, members[i].name);
        kaws__json_string(&out, members[i].value);
    }
    kaws__json_name(&out, "a number");
    kaws__json_number(&out, members[0].value.len);
    kaws__json_name(&out, "true");
    kaws__json_true(&out);
    kaws__json_end(&out);
    HOLDS(!out.failed);
    copy = fuzz_copy(kaws__buf_view(&out));
    HOLDS(read_twice(kaws__buf_view(&out), copy, again));
    for (i = 0; i < WANTED; i++) {
        HOLDS((again[i].value.at == NULL) == (members[i].value.at == NULL));
        HOLDS(kaws__buf_same(again[i].value, members[i].value));
    }
    free(copy);
    kaws__buf_free(&out);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes text = { data, size };
    kaws__member members[WANTED];
    uint8_t *copy;

    if (size > 2000)
        return 0;
    copy = fuzz_copy(text);
    if (read_twice(text, copy, members))
        write_and_read(members);
    free(copy);

    /* The writer takes any UTF-8, and the reader reads it back unchanged. */
    HOLDS(kaws__text_is_utf8(text) == judge_is_utf8(text));
    if (!judge_is_utf8(text))
        return 0;
    memset(members, 0, sizeof members);
    members[0].name = wanted[0];
    members[0].value = text;
    write_and_read(members);
    return 0;
}
