/* Room xml: the replies of STS, and what is none. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"

enum { WANTED = 3 };


static void
test_documents(void **state)
{
    static const char *const names[WANTED] = { "C/Id", "C/Token", "Error/Code"
    };
    static const char *const fields[WANTED] = { "id", "token", "code" };
    kaws__member want[WANTED];
    const char *bad, *expected;
    size_t count = 0, len, at, offset, i;
    uint8_t *text, *value;
    unit_file f;

    (void)state;
    unit_open(&f, __FILE__, "xml.txt");
    for (; unit_next(&f); count++) {
        text = unit_undo(unit_must(&f, "text"), &len);
        for (i = 0; i < WANTED; i++)
            want[i] = (kaws__member){ names[i], { (uint8_t *)"x", 1 }, 0 };
        bad = kaws__xml_read(text, len, want, WANTED, &offset);
        expected = unit_field(&f, "wrong", 0);
        assert_in_range(offset, 0, len);
        if ((bad == NULL) != (expected == NULL) ||
            (bad != NULL && strstr(bad, expected) == NULL))
            fail_msg("%s: %s at %lu", *unit_case(), bad,
                     (unsigned long)offset);
        for (i = 0; i < WANTED && bad == NULL; i++) {
            expected = unit_field(&f, fields[i], 0);
            assert_int_equal(want[i].value.at != NULL, expected != NULL);
            if (expected == NULL)
                continue;
            value = unit_undo(expected, &at);
            unit_same(fields[i], want[i].value.at, want[i].value.len, value,
                      at);
            free(value);
        }
        free(text);
    }
    unit_close(&f);
    assert_in_range(count, 40, 1000);
}


/* A document that is cut anywhere is none, and nothing beyond it is looked at.
 */
static void
test_cut(void **state)
{
    static const char whole[] =
        "<?xml version=\"1.0\"?>\n<R xmlns='https://x/'><A b=\"c>d\" /><C>"
        "<Id>a&amp;b&#43;</Id>\n<Token>t</Token></C><E>&lt;</E></R>";
    kaws__member want[2];
    size_t len, offset;
    uint8_t *text;

    (void)state;
    for (len = 0; len < sizeof whole; len++) {
        want[0].name = "C/Id";
        want[1].name = "C/Token";
        text = unit_exact(whole, len);
        assert_int_equal(kaws__xml_read(text, len, want, 2, &offset) == NULL,
                         len == sizeof whole - 1);
        free(text);
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents), cmocka_unit_test(test_cut)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
