/* Room ini: every rule of the grammar, at the ends of the text, too. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"


static void
put(kaws__buf *out, const char *text)
{
    kaws__buf_put(out, text, strlen(text));
}


/* What the text says, in the vectors' form, but for a refusal's words. */
static const char *
tell(kaws_bytes text, kaws__buf *out)
{
    kaws__ini ini = { .left = text };
    char line[16];
    int what;

    out->len = 0;
    while ((what = kaws__ini_next(&ini)) != KAWS__INI_END) {
        put(out, out->len > 0 ? "|" : "");
        put(out, what == KAWS__INI_HEAD ? "[" : "");
        kaws__buf_put(out, ini.name.at, ini.name.len);
        put(out, what == KAWS__INI_HEAD ? "]" : "=");
        if (what == KAWS__INI_PROPERTY)
            kaws__buf_put(out, ini.value.at, ini.value.len);
    }
    assert_int_equal(kaws__ini_next(&ini), KAWS__INI_END);    /* it stays so  */
    if (ini.bad != NULL) {
        put(out, out->len > 0 ? "|" : "");
        (void)snprintf(line, sizeof line, "!%d ", ini.line);
        put(out, line);
    }
    assert_false(out->failed);
    return ini.bad;
}


static void
test_grammar(void **state)
{
    uint8_t room[4096], *text, *says;
    kaws__buf out = kaws__buf_fixed(room, sizeof room);
    size_t count = 0, len, want;
    const char *bad, *words;
    unit_file f;

    (void)state;
    unit_open(&f, __FILE__, "ini.txt");
    for (; unit_next(&f); count++) {
        text = unit_undo(unit_must(&f, "text"), &len);
        says = unit_undo(unit_must(&f, "says"), &want);
        bad = tell(unit_bytes(text, len), &out);
        words = bad == NULL ? NULL : strchr(unit_must(&f, "says"), '!');
        if (bad != NULL) {
            if (words == NULL || strstr(bad, strchr(words, ' ') + 1) == NULL)
                fail_msg("%s: %s", *unit_case(), bad);
            want -= strlen(strchr(words, ' ') + 1);
        }
        unit_same("says", room, out.len, says, want);
        free(text);
        free(says);
    }
    unit_close(&f);
    assert_in_range(count, 40, 1000);
}


/* A text that is cut anywhere is read to its end or refused; no byte beyond it
 * is looked at. */
static void
test_cut(void **state)
{
    static const char whole[] =
        "# c\r\n[ profile a ] ; d\r\nx = y z # w\r\n \t1\r\n\r\n  2\r\ns3 =\r\n"
        "  q = 1\r\n[b]\r\n= 1\r\n";
    uint8_t room[4096], *text;
    kaws__buf out = kaws__buf_fixed(room, sizeof room);
    size_t len;

    (void)state;
    for (len = 0; len < sizeof whole; len++) {
        text = unit_exact(whole, len);
        (void)tell(unit_bytes(text, len), &out);
        free(text);
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grammar), cmocka_unit_test(test_cut)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
