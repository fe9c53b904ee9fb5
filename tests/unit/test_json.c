/* test_json.c - room json: which texts are read, which are refused, and where
 *
 * Texts lie in blocks of exactly their size, so a sanitizer sees any read
 * beyond the end.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#include "unit.h"

/* Every kind of token, for what is to be cut and mutated. */
static const char document[] =
    " {\"KeyId\" : \"arn:aws:kms:us-east-1:111122223333:key/1\",\n"
    "\t\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00fc\\u20ac\\ud83d\\udd11\","
    "\"numbers\":[0,-0,12.5e+3,-0.25E-7,1e9], \"words\":[true,false,null],\r\n"
    "\"nested\":{\"a\":{\"b\":[[],{},[{}],[[1],[2]]]},\"c\":\"\xc3\xbc\"},"
    "\"b\":\"\xe2\x82\xac \xf0\x9f\x94\x91 plain\", \"\":\"\" } ";

typedef struct reading {
    kaws__member want[2];
    const char  *bad;
    size_t       offset, len;
    uint8_t     *text;
} reading;


/* Reads a copy; free it with done_reading. */
static reading
read_text(const void *text, size_t len)
{
    reading r;
    size_t i;

    memset(&r, 0, sizeof r);
    r.text = unit_exact(text, len);
    r.len = len;
    r.want[0].name = "a";
    r.want[1].name = "b";
    r.want[0].value = r.want[1].value = unit_bytes("not emptied", 11);
    r.bad = kaws__json_read(r.text, len, r.want, 2, &r.offset);
    if (r.offset > len)
        fail_msg("the offset is %lu of %lu", (unsigned long)r.offset,
                 (unsigned long)len);
    for (i = 0; i < 2; i++) {
        kaws_bytes value = r.want[i].value;
        if (value.at == NULL) {
            assert_int_equal(value.len, 0);
            continue;
        }
        assert_in_range(value.at - r.text, 0, len);
        assert_in_range(value.len, 0, len - (size_t)(value.at - r.text));
    }
    return r;
}


static void
done_reading(reading *r)
{
    free(r->text);
}


static void
must_be(const void *text, size_t len, const char *bad, size_t offset)
{
    reading r = read_text(text, len);
    int same = bad == NULL || r.bad == NULL ? bad == r.bad
             : strcmp(bad, r.bad) == 0 && r.offset == offset;

    if (!same) {
        print_error("%s\n  should be: %s\n", *unit_case(),
                    bad == NULL ? "taken" : bad);
        unit_caret(text, len, offset);
        print_error("  but is: %s\n", r.bad == NULL ? "taken" : r.bad);
        unit_caret(text, len, r.offset);
        fail();
    }
    done_reading(&r);
}


/* ---- the tables -------------------------------------------------------- */

static void
check_value(const unit_file *f, const reading *r, size_t which)
{
    const char *value = unit_field(f, r->want[which].name, 0);
    uint8_t *want;
    size_t len;

    if (value == NULL) {
        assert_null(r->want[which].value.at);
        return;
    }
    assert_non_null(r->want[which].value.at);
    want = unit_undo(value, &len);
    unit_same(r->want[which].name, r->want[which].value.at,
              r->want[which].value.len, want, len);
    free(want);
}


static void
test_vectors(void **state)
{
    unit_file f;
    size_t taken = 0, refused = 0, len;

    (void)state;
    unit_open(&f, __FILE__, "json.txt");
    while (unit_next(&f)) {
        const char *name = unit_must(&f, "case");
        uint8_t *text = unit_undo(unit_must(&f, "text"), &len);
        if (name[0] == 'y') {
            reading r;
            must_be(text, len, NULL, 0);
            r = read_text(text, len);
            check_value(&f, &r, 0);
            check_value(&f, &r, 1);
            done_reading(&r);
            taken++;
        } else {
            const char *wrong = unit_must(&f, "wrong");
            must_be(text, len, strchr(wrong, ' ') + 1,
                    strtoul(wrong, NULL, 10));
            refused++;
        }
        free(text);
    }
    unit_close(&f);
    assert_in_range(taken, 50, 1000);
    assert_in_range(refused, 160, 1000);
}


/* ---- depth ------------------------------------------------------------- */

/* {"c": and then `depth` levels, opened by turns as the pattern says, closed
 * again, and } */
static size_t
nest(char *out, const char *pattern, size_t depth, size_t *deepest)
{
    size_t n, i, patterns = strlen(pattern);

    memcpy(out, "{\"c\":", 5);
    n = 5;
    for (i = 0; i < depth; i++) {
        *deepest = n;
        out[n++] = pattern[i % patterns];
        if (out[n - 1] == '{') {
            memcpy(out + n, "\"d\":", 4);
            n += 4;
        }
    }
    out[n++] = '1';
    for (i = depth; i-- > 0;)
        out[n++] = pattern[i % patterns] == '{' ? '}' : ']';
    out[n++] = '}';
    return n;
}


static void
test_64_levels_are_read(void **state)
{
    static const char *const patterns[] = { "[", "{", "[{", "{[", "{{[" };
    char *text = malloc(8 * 100000);
    size_t i, n, depth, deepest, far;

    (void)state;
    assert_non_null(text);
    for (i = 0; i < UNIT_COUNT(patterns); i++) {
        for (depth = 1; depth <= 64; depth++) {
            n = nest(text, patterns[i], depth, &deepest);
            must_be(text, n, NULL, 0);
        }
        n = nest(text, patterns[i], 65, &deepest);
        must_be(text, n, "nested too deeply", deepest);
        n = nest(text, patterns[i], 100000, &far);
        must_be(text, n, "nested too deeply", deepest);
    }
    free(text);
}


/* After a level is closed, the reader must know the kind of the level around
 * it. */
static void
test_each_level_closes_as_it_opened(void **state)
{
    char text[1024];
    size_t n, place, deepest, round;

    (void)state;
    unit_start();
    for (round = 0; round < 200; round++) {
        char pattern[9];
        size_t depth = 2 + unit_random(62);
        for (n = 0; n < 8; n++)
            pattern[n] = unit_random(2) ? '[' : '{';
        pattern[8] = '\0';
        n = nest(text, pattern, depth, &deepest);
        must_be(text, n, NULL, 0);
        place = n - 2 - unit_random((uint32_t)depth);
        text[place] = text[place] == '}' ? ']' : '}';
        must_be(text, n, "a comma or an end was expected", place);
    }
}


/* ---- a long document --------------------------------------------------- */

/* Only blanks may be cut off. */
static void
test_a_cut_text_is_refused(void **state)
{
    size_t len = strlen(document), n;
    reading whole = read_text(document, len);

    (void)state;
    assert_null(whole.bad);
    unit_same("a", whole.want[0].value.at, whole.want[0].value.len,
              "\"\\/\b\f\n\r\tA\xc3\xbc\xe2\x82\xac\xf0\x9f\x94\x91", 18);
    unit_same("b", whole.want[1].value.at, whole.want[1].value.len,
              "\xe2\x82\xac \xf0\x9f\x94\x91 plain", 14);
    done_reading(&whole);
    must_be(document, len - 1, NULL, 0);
    for (n = 0; n < len - 1; n++) {
        reading r = read_text(document, n);
        if (r.bad == NULL) {
            unit_caret(document, len, n);
            fail_msg("cut at byte %lu, and taken", (unsigned long)n);
        }
        assert_in_range(r.offset, n > 12 ? n - 12 : 0, n);
        done_reading(&r);
    }
}


/* If nothing is wanted, a member may be of any kind, and come twice. */
static void
test_unwanted_members_may_be_anything(void **state)
{
    uint8_t text[] = "{\"a\":1,\"a\":[2]}";
    size_t offset = 99;

    (void)state;
    assert_null(kaws__json_read(text, strlen((char *)text), NULL, 0, &offset));
    assert_int_equal(offset, strlen((char *)text));
}


/* ---- writing ----------------------------------------------------------- */

static void
write_all(kaws__buf *out)
{
    kaws__json_begin(out);
    kaws__json_name(out, "KeyId");
    kaws__json_string(out, kaws__buf_of("alias/app"));
    kaws__json_name(out, "NumberOfBytes");
    kaws__json_number(out, 32);
    kaws__json_name(out, "EncryptionContext");
    kaws__json_begin(out);
    kaws__json_name(out, "app");
    kaws__json_string(out, kaws__buf_of("{"));
    kaws__json_name(out, "we \"quote\"");
    kaws__json_string(out, kaws__buf_of(""));
    kaws__json_end(out);
    kaws__json_name(out, "Empty");
    kaws__json_begin(out);
    kaws__json_end(out);
    kaws__json_name(out, "Plaintext");
    kaws__json_base64(out, unit_bytes("\0\xff~", 3));
    kaws__json_name(out, "None");
    kaws__json_base64(out, unit_bytes(NULL, 0));
    kaws__json_name(out, "DryRun");
    kaws__json_true(out);
    kaws__json_end(out);
}


static void
test_what_is_written_is_read_again(void **state)
{
    kaws__buf out;

    (void)state;
    kaws__buf_init(&out, unit_hooks());
    write_all(&out);
    assert_false(out.failed);
    kaws__buf_put(&out, "", 1);
    unit_same_text("written", (char *)out.at,
        "{\"KeyId\":\"alias/app\",\"NumberOfBytes\":32,"
        "\"EncryptionContext\":{\"app\":\"{\",\"we \\\"quote\\\"\":\"\"},"
        "\"Empty\":{},\"Plaintext\":\"AP9+\",\"None\":\"\",\"DryRun\":true}");
    out.len--;
    must_be(out.at, out.len, NULL, 0);
    kaws__buf_free(&out);
}


/* Every byte below 128 is escaped only if it must be. */
static void
test_each_byte_is_escaped_if_needed(void **state)
{
    int c;

    (void)state;
    for (c = 0; c < 128; c++) {
        char byte = (char)c, want[16];
        kaws__buf out;
        if (c == '"' || c == '\\')
            snprintf(want, sizeof want, "\"\\%c\"", c);
        else
            snprintf(want, sizeof want, c < 0x20 ? "\"\\u%04x\"" : "\"%c\"",
                     c);
        kaws__buf_init(&out, unit_hooks());
        kaws__json_string(&out, unit_bytes(&byte, 1));
        unit_same("string", out.at, out.len, want, strlen(want));
        kaws__buf_free(&out);
    }
}


/* Whichever allocation fails, the writer goes on, and the buffer has failed. */
static void
test_a_writer_without_memory_fails(void **state)
{
    unit_ledger ledger;
    kaws__buf out;
    size_t n;
    int i;

    (void)state;
    for (n = 1; n < 5; n++) {
        kaws__buf_init(&out, unit_ledger_open(&ledger));
        ledger.fail_from = n;
        for (i = 0; i < 40; i++)
            write_all(&out);
        assert_true(out.failed);
        kaws__buf_free(&out);
        kaws__json_name(&out, "of nothing");
        assert_int_equal(out.len + ledger.live, 0);
    }
}


/* What a wanted member may be. */
static void
test_kinds(void **state)
{
    static const struct { int kind; const char *text, *value, *bad; } rows[] = {
        { 0, "\"x\"", "x", NULL }, { 0, "null", NULL, "a string" },
        { 0, "1", NULL, "a string" },
        { KAWS__OR_NULL, "\"x\"", "x", NULL }, { KAWS__OR_NULL, "null", NULL,
          NULL }, { KAWS__OR_NULL, " null ", NULL, NULL },
        { KAWS__OR_NULL, "nul", NULL, "" }, { KAWS__OR_NULL, "1", NULL, "" },
        { KAWS__OR_NULL, "true", NULL, "" }, { KAWS__OR_NULL, "{}", NULL, "" },
        { KAWS__AS_WRITTEN, "1", "1", NULL },
        { KAWS__AS_WRITTEN, " -0.5e1 ", "-0.5e1", NULL },
        { KAWS__AS_WRITTEN, "\"1\"", "\"1\"", NULL },
        { KAWS__AS_WRITTEN, "null", "null", NULL },
        { KAWS__AS_WRITTEN, "01", NULL, "" }
    };
    kaws__member want = { .name = "a" };
    const char *bad;
    char text[64];
    uint8_t *copy;
    size_t i, n, offset;

    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        n = (size_t)snprintf(text, sizeof text, "{\"a\":%s,\"b\":2}",
                             rows[i].text);
        want.kind = rows[i].kind;
        copy = unit_exact(text, n);
        bad = kaws__json_read(copy, n, &want, 1, &offset);
        if ((bad == NULL) != (rows[i].bad == NULL) ||
            (bad != NULL && strstr(bad, rows[i].bad) == NULL))
            fail_msg("%s: %s", text, bad);
        if (bad == NULL && rows[i].value == NULL)
            assert_null(want.value.at);
        else if (bad == NULL)
            unit_same(text, want.value.at, want.value.len, rows[i].value,
                      strlen(rows[i].value));
        free(copy);
    }
}


int
main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_64_levels_are_read),
        cmocka_unit_test(test_each_level_closes_as_it_opened),
        cmocka_unit_test(test_a_cut_text_is_refused),
        cmocka_unit_test(test_unwanted_members_may_be_anything),
        cmocka_unit_test(test_what_is_written_is_read_again),
        cmocka_unit_test(test_each_byte_is_escaped_if_needed),
        cmocka_unit_test(test_a_writer_without_memory_fails)
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
