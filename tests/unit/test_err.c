/* test_err.c - room err: one sentence, never longer than its array
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"

typedef struct heard {            /* what a log got                           */
    int  level, calls;
    char line[KAWS__ERR_LINE];
} heard;


static void
hear(void *ctx, int level, const char *line)
{
    heard *h = ctx;

    h->level = level;
    h->calls++;
    assert_in_range(strlen(line), 0, sizeof h->line - 1);
    memcpy(h->line, line, strlen(line) + 1);
}


static kaws_hooks
hooks_to(heard *h)
{
    kaws_hooks hooks;

    memset(&hooks, 0, sizeof hooks);
    memset(h, 0, sizeof *h);
    hooks.ctx = h;
    hooks.log = hear;
    return hooks;
}


/* An error in a block of exactly its size, full of rubbish. */
static kaws_error *
new_error(void)
{
    kaws_error *err = (kaws_error *)(void *)unit_exact(NULL, sizeof *err);

    return memset(err, 'x', sizeof *err);
}


static void
test_each_status_has_a_text(void **state)
{
    static const struct { int status; const char *text; } all[] = {
#define X(name, text) { KAWS_##name, text },
        KAWS_STATUSES(X)
#undef X
        { -1, "no such status" }, { KAWS_STATUS_COUNT, "no such status" },
        { INT_MAX, "no such status" }, { INT_MIN, "no such status" }
    };
    size_t i, k;

    (void)state;
    assert_int_equal(UNIT_COUNT(all), KAWS_STATUS_COUNT + 4);
    assert_int_equal(KAWS_OK, 0);
    for (i = 0; i < UNIT_COUNT(all); i++) {
        kaws_status status;
        memcpy(&status, &all[i].status, sizeof status);
        unit_same_text("status", kaws_status_text(status), all[i].text);
        for (k = 0; k < i && i < KAWS_STATUS_COUNT; k++)
            assert_string_not_equal(all[i].text, all[k].text);
    }
}


/* Each way to fill an error: what it sets, and what it leaves unchanged. */
static void
test_each_way_to_fill_an_error(void **state)
{
    kaws_error *err = new_error();
    char want[128];
    size_t i;

    (void)state;
    kaws__err_clear(err);
    for (i = 0; i < sizeof *err; i++)
        assert_int_equal(((uint8_t *)err)[i], 0);
    err->http = 400;
    memcpy(err->aws, "NotFoundException", 18);
    assert_int_equal(kaws__err_set(err, KAWS_KMS_KEY, "key %d of %s", 7, "it"),
                     KAWS_KMS_KEY);
    assert_int_equal(err->status, KAWS_KMS_KEY);
    unit_same_text("set", err->text, "key 7 of it");
    assert_int_equal(err->os, 0);
    assert_int_equal(kaws__err_os(err, KAWS_FILE, ENOSPC, "cannot write %s",
                                  "keys"), KAWS_FILE);
    assert_int_equal(err->status, KAWS_FILE);
    assert_int_equal(err->os, ENOSPC);
    snprintf(want, sizeof want, "cannot write keys: No space left on device "
             "(errno %d)", ENOSPC);
    unit_same_text("os", err->text, want);
    (void)kaws__err_os(err, KAWS_CONFIG, 9999, "cannot");
    unit_same_text("an errno that nobody knows", err->text,
                   "cannot: see its errno (errno 9999)");
    assert_int_equal(kaws__err_memory(err, "adding a key"), KAWS_MEMORY);
    (void)kaws__err_set(err, err->status, "on day %d: %s (%s)\n", 3, err->text,
                        "again");
    unit_same_text("words around", err->text,
                   "on day 3: adding a key: out of memory (again)\\x0a");
    assert_int_equal(err->status, KAWS_MEMORY);
    assert_int_equal(err->http, 400);
    unit_same_text("AWS's type stays", err->aws, "NotFoundException");
    free(err);
    kaws__err_clear(NULL);                /* no error to fill                */
    assert_int_equal(kaws__err_set(NULL, KAWS_FILE, "%s", "-"), KAWS_FILE);
    assert_int_equal(kaws__err_os(NULL, KAWS_FILE, EIO, "%s", "-"), KAWS_FILE);
    assert_int_equal(kaws__err_memory(NULL, "nothing"), KAWS_MEMORY);
}


/* Sentences about as long as the array are cut: alone, before a reason of the
 * system's, which stays whole, and between other words. */
static void
test_a_long_sentence_is_cut(void **state)
{
    char text[700], want[1400], reason[64];
    size_t len, cut = 511;
    int os;

    (void)state;
    cut -= (size_t)snprintf(reason, sizeof reason,
                            ": Input/output error (errno %d)", EIO);
    for (len = 0; len < 600; len++) {
        kaws_error *err = new_error();
        memset(text, 'a', len);
        text[len] = '\0';
        text[len > 0 ? len - 1 : 0] = len > 0 ? 'z' : '\0';
        (void)kaws__err_set(err, KAWS_CONFIG, "%s", text);
        memcpy(want, text, len + 1);
        want[511] = '\0';
        unit_same_text("cut", err->text, want);
        (void)kaws__err_set(err, KAWS_CONFIG, "678%s12345", err->text);
        snprintf(want, sizeof want, "678%.511s12345", text);
        want[511] = '\0';
        unit_same_text("words around", err->text, want);
        (void)kaws__err_os(err, KAWS_FILE, EIO, "%s", text);
        memcpy(want, text, len + 1);
        memcpy(want + (len < cut ? len : cut), reason, sizeof reason);
        unit_same_text("a reason", err->text, want);
        free(err);
    }
    for (os = -1; os < 200; os++) {       /* there is room for every reason   */
        kaws_error *err = new_error();
        int which = os == 0 ? 9999 : os < 0 ? INT_MIN : os;
        (void)kaws__err_os(err, KAWS_FILE, which, "%s", text);
        snprintf(want, sizeof want, "(errno %d)", which);
        if (strstr(err->text, want) == NULL)
            fail_msg("errno %d is cut: %s", which, err->text + 400);
        free(err);
    }
}


static void
test_a_log_line_has_its_tag_and_level(void **state)
{
    heard h;
    kaws_hooks hooks = hooks_to(&h);

    (void)state;
    kaws__err_log(&hooks, 7, KAWS__NOTE, "%d keys in %s, 100%%", 3, "a file");
    assert_int_equal(h.level, 2);
    unit_same_text("line", h.line, "[KAWS-7] 3 keys in a file, 100%");
    kaws__err_log(&hooks, KAWS__LOG_CLOCK, 300L, "behind");
    assert_int_equal(h.level, 1);
    assert_memory_equal(h.line, "[KAWS-113] this machine's clock is 300 ", 39);
    hooks.log = NULL;
    kaws__err_log(&hooks, 7, KAWS__WARNING, "%s", "nobody listens");
}


/* Who may read and write a file or folder, and what is said about it. */
static void
test_who_may_use_a_file(void **state)
{
    static const struct { kaws__stat st; const char *said; } rows[] = {
        { { .regular = 1, .mine = 1 }, NULL },
        { { .regular = 1, .mine = 1, .others_read = 1 }, "chmod 600" },
        { { .regular = 1, .mine = 1, .others_write = 1 }, "be written by" },
        { { .regular = 1 }, "belongs to another user" },
        { { .mine = 1 }, NULL }, { { .mine = 1, .others_read = 1 }, NULL },
        { { .mine = 1, .others_write = 1 }, "chmod 700" },
        { { .others_read = 1 }, "chmod 700" }
    };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows); i++) {
        heard h;
        kaws_hooks hooks = hooks_to(&h);
        kaws__err_others(&hooks, "the file", "/x", &rows[i].st);
        assert_int_equal(h.calls, rows[i].said != NULL);
        if (rows[i].said != NULL && (strstr(h.line, rows[i].said) == NULL ||
                                     strstr(h.line, "the file /x") == NULL))
            fail_msg("row %lu: %s", (unsigned long)i, h.line);
    }
}


/* ---- what leaves is one line of printable ASCII ------------------------ */

static void
check_plain(const char *text, const char *want, size_t room)
{
    size_t i, n = strlen(text);

    for (i = 0; i < n; i++)
        assert_in_range(text[i], 0x20, 0x7e);
    if (strlen(want) >= room)
        assert_in_range(n, room - 4, room - 1);
    unit_same("escaped, and cut between bytes", text, n, want,
              strlen(want) < room ? strlen(want) : n);
}


/* Whatever a caller put into it: every byte, and many, at every end of the
 * array; backslashes, which may be of an escape, stay. */
static void
test_any_text_becomes_one_plain_line(void **state)
{
    char text[700], want[2900], reason[64];
    kaws_error *err = new_error();
    size_t len, i, n, round;
    heard h;
    kaws_hooks hooks = hooks_to(&h);

    (void)state;
    unit_start();
    snprintf(reason, sizeof reason, ": Input/output error (errno %d)", EIO);
    for (round = 0; round < 3000; round++) {
        len = round < 256 ? 1 : unit_random(690);
        for (i = n = 0; i < len; i++) {
            int c = round < 256 ? (int)round : unit_random(3)
                  ? 32 + (int)unit_random(95) : (int)unit_random(256);
            c = c == 0 ? '\\' : c;
            text[i] = (char)c;
            n += (size_t)snprintf(want + n, 5, c < 0x20 || c > 0x7e
                                               ? "\\x%02x" : "%c", c);
        }
        text[len] = want[n] = '\0';
        kaws__err_log(&hooks, 101, KAWS__NOTE, "%s", text);
        check_plain(h.line + 11, want, KAWS__ERR_LINE - 11);
        (void)kaws__err_set(err, KAWS_FILE, "%s", text);
        check_plain(err->text, want, 512);
        (void)kaws__err_os(err, KAWS_FILE, EIO, "%s", text);
        i = strlen(err->text) - strlen(reason);
        unit_same_text("the reason", err->text + i, reason);
        err->text[i] = '\0';
        check_plain(err->text, want, 512 - strlen(reason));
    }
    free(err);
}


/* All digits of a number, even if a long has 32 bits. */
static void
test_all_digits_are_written(void **state)
{
    static const struct { uint64_t n; const char *text; } rows[] = {
        { 0, "0" }, { 9, "9" }, { 10, "10" }, { 4294967295u, "4294967295" },
        { 4294967296u, "4294967296" }, { 5000000000u, "5000000000" },
        { UINT64_MAX, "18446744073709551615" }
    };
    char many[64];
    size_t i;

    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_string_equal(KAWS__DECIMAL(rows[i].n), rows[i].text);
    (void)snprintf(many, sizeof many, "%s of %s key%s, %s key%s",
                   KAWS__DECIMAL(7u), KAWS__COUNT(1u), KAWS__COUNT(2u));
    assert_string_equal(many, "7 of 1 key, 2 keys");
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_status_has_a_text),
        cmocka_unit_test(test_each_way_to_fill_an_error),
        cmocka_unit_test(test_a_long_sentence_is_cut),
        cmocka_unit_test(test_all_digits_are_written),
        cmocka_unit_test(test_a_log_line_has_its_tag_and_level),
        cmocka_unit_test(test_who_may_use_a_file),
        cmocka_unit_test(test_any_text_becomes_one_plain_line)
    };

    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
