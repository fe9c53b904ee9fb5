/* test_err.c - room err: one sentence, never longer than its room
 *
 *     cc -std=c99 -g -fsanitize=address,undefined -o test_err \
 *        tests/unit/test_err.c -l:libbearssl.a -lcurl -lcmocka
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"


/* An error in a block of exactly its size, full of rubbish. */
static kaws_error *
new_error(void)
{
    kaws_error *err = (kaws_error *)(void *)unit_exact(NULL, sizeof *err);

    memset(err, 'x', sizeof *err);
    return err;
}


/* ---- status texts ------------------------------------------------------ */

static void
test_status_text(void **state)
{
    static const struct { kaws_status status; const char *text; } all[] = {
#define X(name, text) { KAWS_##name, text },
        KAWS_STATUSES(X)
#undef X
    };
    size_t i, k;

    (void)state;
    assert_int_equal(UNIT_COUNT(all), KAWS_STATUS_COUNT);
    assert_int_equal(KAWS_OK, 0);
    for (i = 0; i < UNIT_COUNT(all); i++) {
        unit_same_text("status", kaws_status_text(all[i].status), all[i].text);
        for (k = 0; k < i; k++)
            assert_string_not_equal(all[i].text, all[k].text);
    }
}


static void
test_status_text_of_none(void **state)
{
    static const int none[] = { -1, KAWS_STATUS_COUNT, 1000, INT_MAX, INT_MIN };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(none); i++) {
        kaws_status status;
        memcpy(&status, &none[i], sizeof status);
        unit_same_text("no status", kaws_status_text(status),
                       "no such status");
    }
}


/* ---- filling an error -------------------------------------------------- */

static void
test_clear(void **state)
{
    kaws_error *err = new_error();
    size_t i;

    (void)state;
    kaws__err_clear(err);
    for (i = 0; i < sizeof *err; i++)
        assert_int_equal(((uint8_t *)err)[i], 0);
    free(err);
}


static void
test_set(void **state)
{
    kaws_error *err = new_error();

    (void)state;
    kaws__err_clear(err);
    err->http = 400;
    memcpy(err->aws, "NotFoundException", 18);
    assert_int_equal(kaws__err_set(err, KAWS_KMS_KEY, "key %d of %s", 7, "it"),
                     KAWS_KMS_KEY);
    assert_int_equal(err->status, KAWS_KMS_KEY);
    unit_same_text("text", err->text, "key 7 of it");
    assert_int_equal(err->http, 400);
    assert_int_equal(err->os, 0);
    unit_same_text("AWS's type stays", err->aws, "NotFoundException");
    free(err);
}


/* Texts of all lengths about the room's are cut to its first 511 bytes. */
static void
test_set_cut(void **state)
{
    char text[700];
    size_t len;

    (void)state;
    for (len = 0; len < 600; len++) {
        kaws_error *err = new_error();
        memset(text, 'a', len);
        text[len] = '\0';
        if (len > 0)
            text[len - 1] = 'z';
        (void)kaws__err_set(err, KAWS_CONFIG, "%s", text);
        unit_same("cut", err->text, strlen(err->text), text,
                  len < sizeof err->text ? len : sizeof err->text - 1);
        free(err);
    }
}


/* ---- errors of the system ---------------------------------------------- */

static void
test_os(void **state)
{
    kaws_error *err = new_error();
    char want[64];

    (void)state;
    kaws__err_clear(err);
    assert_int_equal(kaws__err_os(err, KAWS_FILE, ENOSPC, "cannot write %s",
                                  "keys"), KAWS_FILE);
    assert_int_equal(err->status, KAWS_FILE);
    assert_int_equal(err->os, ENOSPC);
    snprintf(want, sizeof want, "cannot write keys: No space left on device "
             "(errno %d)", ENOSPC);
    unit_same_text("text", err->text, want);
    (void)kaws__err_os(err, KAWS_CONFIG, 9999, "cannot");
    unit_same_text("an errno that nobody knows", err->text,
                   "cannot: see its errno (errno 9999)");
    free(err);
}


/* However long the sentence is, the reason is there, whole, behind as much of
 * it as there is room for. */
static void
test_os_cut(void **state)
{
    char text[700], want[800], reason[64];
    size_t len;

    (void)state;
    snprintf(reason, sizeof reason, ": Input/output error (errno %d)", EIO);
    for (len = 0; len < 600; len++) {
        kaws_error *err = new_error();
        memset(text, 'a', len);
        text[len] = '\0';
        (void)kaws__err_os(err, KAWS_FILE, EIO, "%s", text);
        assert_non_null(memchr(err->text, 0, sizeof err->text));
        text[len < sizeof err->text - 73 ? len : sizeof err->text - 73] = '\0';
        snprintf(want, sizeof want, "%s%s", text, reason);
        unit_same_text("the sentence and its reason", err->text, want);
        assert_int_equal(err->os, EIO);
        free(err);
    }
}


/* The room that is left is enough for every reason. */
static void
test_os_reasons(void **state)
{
    char text[700], number[32];
    int os;

    (void)state;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    for (os = 0; os < 200; os++) {
        kaws_error *err = new_error();
        (void)kaws__err_os(err, KAWS_FILE, os == 0 ? INT_MIN : os, "%s", text);
        snprintf(number, sizeof number, "(errno %d)", os == 0 ? INT_MIN : os);
        if (strstr(err->text, number) == NULL)
            fail_msg("errno %d is cut: %s", os, err->text + 400);
        free(err);
    }
}


/* ---- words around a text, and no error to fill -------------------------- */

static void
test_words_around(void **state)
{
    kaws_error *err = new_error();
    char text[700], want[1300];
    size_t len;

    (void)state;
    kaws__err_clear(err);
    assert_int_equal(kaws__err_memory(err, "adding a key"), KAWS_MEMORY);
    assert_int_equal(err->status, KAWS_MEMORY);
    unit_same_text("memory", err->text, "adding a key: out of memory");
    err->http = 7;
    kaws__err_prefix(err, "on day %d: ", 3);
    kaws__err_append(err, " (%s)\n", "again");
    unit_same_text("around", err->text,
                   "on day 3: adding a key: out of memory (again)\\x0a");
    assert_int_equal(err->status, KAWS_MEMORY);
    assert_int_equal(err->http, 7);
    for (len = 0; len < 600; len++) {
        memset(text, 'a', len);
        text[len] = '\0';
        (void)kaws__err_set(err, KAWS_FILE, "%s", text);
        kaws__err_append(err, "%s", "12345");
        kaws__err_prefix(err, "%s", "678");
        snprintf(want, sizeof want, "678%s", text);
        want[511] = '\0';
        if (len < 511)
            snprintf(want + strlen(want), 6, "%s", "12345");
        want[511] = '\0';
        unit_same_text("cut", err->text, want);
    }
    free(err);
}


static void
test_no_error(void **state)
{
    (void)state;
    kaws__err_clear(NULL);
    assert_int_equal(kaws__err_set(NULL, KAWS_FILE, "%s", "nobody"), KAWS_FILE);
    assert_int_equal(kaws__err_os(NULL, KAWS_FILE, ENOENT, "%s", "nobody"),
                     KAWS_FILE);
    assert_int_equal(kaws__err_memory(NULL, "nothing"), KAWS_MEMORY);
    kaws__err_prefix(NULL, "%s", "nobody");
    kaws__err_append(NULL, "%s", "nobody");
}


/* ---- the log ----------------------------------------------------------- */

typedef struct heard {
    int  level, calls;
    char line[1000];
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


static void
test_log(void **state)
{
    kaws_hooks hooks;
    char text[900];
    heard h;
    size_t len;

    (void)state;
    memset(&hooks, 0, sizeof hooks);
    memset(&h, 0, sizeof h);
    kaws__err_log(&hooks, 1, "%s", "nobody listens");
    hooks.ctx = &h;
    hooks.log = hear;
    kaws__err_log(&hooks, 2, "%d keys in %s", 3, "a file");
    assert_int_equal(h.calls, 1);
    assert_int_equal(h.level, 2);
    unit_same_text("line", h.line, "3 keys in a file");
    kaws__err_log(&hooks, 1, "100%%");
    assert_int_equal(h.level, 1);
    unit_same_text("line", h.line, "100%");
    for (len = 0; len < 800; len++) {
        memset(text, 'b', len);
        text[len] = '\0';
        kaws__err_log(&hooks, 0, "%s", text);
        assert_in_range(strlen(h.line), len < 600 ? len : 600, len);
        assert_memory_equal(h.line, text, strlen(h.line));
    }
    assert_int_equal(h.calls, 802);
}


/* ---- what leaves is one line of printable ASCII ------------------------ */

static void
check_plain(const char *text, const char *want, size_t room)
{
    size_t i, n = strlen(text);

    for (i = 0; i < n; i++)
        assert_in_range(text[i], 0x20, 0x7e);
    if (strlen(want) < room) {
        unit_same_text("escaped", text, want);
    } else {
        assert_in_range(n, room - 4, room - 1);
        unit_same("escaped, and cut between bytes", text, n, want, n);
    }
}


/* Whatever a caller put into it: every byte, and many, at every end of the
 * room; backslashes, which may be of an escape, stay. */
static void
test_one_plain_line(void **state)
{
    kaws_hooks hooks;
    kaws_error *err = new_error();
    char text[700], want[2900], reason[64];
    size_t len, i, n, round;
    heard h;

    (void)state;
    unit_start();
    memset(&hooks, 0, sizeof hooks);
    memset(&h, 0, sizeof h);
    hooks.ctx = &h;
    hooks.log = hear;
    snprintf(reason, sizeof reason, ": Input/output error (errno %d)", EIO);
    for (round = 0; round < 3000; round++) {
        len = round < 256 ? 1 : unit_random(600);
        for (i = n = 0; i < len; i++) {
            int c = round < 256 ? (int)round : unit_random(3)
                  ? 32 + (int)unit_random(95) : (int)unit_random(256);
            c = c == 0 ? '\\' : c;
            text[i] = (char)c;
            n += (size_t)snprintf(want + n, 5, c < 0x20 || c > 0x7e
                                               ? "\\x%02x" : "%c", c);
        }
        text[len] = want[n] = '\0';
        kaws__err_log(&hooks, 1, "%s", text);
        check_plain(h.line, want, 640);
        (void)kaws__err_set(err, KAWS_FILE, "%s", text);
        check_plain(err->text, want, 512);
        (void)kaws__err_os(err, KAWS_FILE, EIO, "%s", text);
        i = strlen(err->text) - strlen(reason);
        unit_same_text("the reason", err->text + i, reason);
        err->text[i] = '\0';
        check_plain(err->text, want, 440);
    }
    free(err);
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_text),
        cmocka_unit_test(test_status_text_of_none),
        cmocka_unit_test(test_clear),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_set_cut),
        cmocka_unit_test(test_os),
        cmocka_unit_test(test_os_cut),
        cmocka_unit_test(test_os_reasons),
        cmocka_unit_test(test_words_around),
        cmocka_unit_test(test_no_error),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_one_plain_line)
    };

    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
