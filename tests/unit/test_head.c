/* Room head: a reply's header lines, as the built-in sender and any `send` hook
 * hand them over. (test_curl.c has the lines that every reply has.) */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "unit.h"

#define V64  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define V255 V64 V64 V64 "0123456789abcdef0123456789abcdef0123456789abcdef" \
             "0123456789abcde"


/* Hands over each line of the head, a heap block of its own length; `ends` with
 * the ends of the lines. */
static void
read_head(kaws_reply *r, const char *head, size_t head_len, int ends)
{
    const char *end = head + head_len;

    while (head < end) {
        const char *at = memchr(head, '\n', (size_t)(end - head));
        size_t n = at != NULL ? (size_t)(at + 1 - head) : (size_t)(end - head);
        size_t len = n;
        char *line;
        while (!ends && len > 0 && (head[len - 1] == '\n' ||
                                    head[len - 1] == '\r'))
            len--;
        line = (char *)unit_exact(head, len);
        kaws_reply_line(r, line, len);
        free(line);
        head += n;
    }
}


/* What is wanted is "ETag" and "x-amz-meta-place". */
#define HEAD(text) text, sizeof text - 1
static const struct {
    const char *head;
    size_t len;
    int etag;
    const char *etag_value;
    int place;
    const char *place_value;
} rows[] = {
    { HEAD(""), 0, "", 0, "" },
    { HEAD("HTTP/1.1 200 OK\r\netag: \"1b2c\"\r\nX-AMZ-META-PLACE: 7 8\r\n"
           "\r\n"), 1, "\"1b2c\"", 1, "7 8" },
    { HEAD("ETAG:\t a:b \t\nx-amz-meta-place:"), 1, "a:b", 1, "" },
    { HEAD("ETag : x\netags: x\nx-etag: x\neta: x\nETag\n:\n\n"), 0, "",
      0, "" },
    { HEAD("etag: " V255 "\n"), 1, V255, 0, "" },
    { HEAD("etag: " V255 "f\nx-amz-meta-place: 1\n"), -1, "", 1, "1" },
    { HEAD("etag: " V255 "f\netag: a"), -1, "", 0, "" },
    { HEAD("etag: a\netag: b\n"), -1, "", 0, "" },
    { HEAD("etag: a\nETAG: a\netag: a\n"), -1, "", 0, "" },
    { HEAD("etag: a\n b\nx-amz-meta-place: 1\n"), -1, "", -1, "" },
    { HEAD("etag: a\n\tb: c\n"), -1, "", -1, "" },
    { HEAD("etag: a\n \n"), -1, "", -1, "" },
    { HEAD("etag: a\0b\nx-amz-meta-place: a\x7f\n"), -1, "", -1, "" },
    { HEAD("etag: \0\nx-amz-meta-place: \xc3\xa4\n"), -1, "", -1, "" },
    { HEAD("etag: a\tb\nx-amz-meta-place: ~ !\n"), -1, "", 1, "~ !" },
    { HEAD("HTTP/1.1 103 Hints\r\netag: a\r\nx-amz-meta-place: 1\r\n\r\n"
           "HTTP/1.1 200 OK\r\netag: b\r\n\r\n"), 1, "b", 0, "" },
    { HEAD("HTTP/1.1 103 Hints\r\netag: a\r\n b\r\netag: c\r\n\r\n"
           "HTTP/1.1 200 OK: etag\r\netag: d\r\n"), 1, "d", 0, "" }
};


static void
test_a_wanted_header_is_found(void **state)
{
    kaws_header wanted[] = { { .name = "ETag" },
                             { .name = "x-amz-meta-place" } };
    size_t i;

    (void)state;
    for (i = 0; i < UNIT_COUNT(rows) * 2; i++) {
        kaws_reply r = { .headers = wanted, .header_count = 2 };
        *unit_case() = rows[i / 2].head;
        memset(wanted[0].value, 'x', sizeof wanted[0].value);
        wanted[1].found = 1;              /* of an earlier reply              */
        kaws__head_begin(&r);
        read_head(&r, rows[i / 2].head, rows[i / 2].len, i % 2);
        assert_int_equal(wanted[0].found, rows[i / 2].etag);
        assert_int_equal(wanted[1].found, rows[i / 2].place);
        assert_string_equal(wanted[0].value, rows[i / 2].etag_value);
        assert_string_equal(wanted[1].value, rows[i / 2].place_value);
    }
}


/* Date and similar headers can be wanted, too, and one name may be wanted
 * twice. If no header is wanted, none is kept, even if the hook emptied the
 * reply. */
static void
test_what_every_reply_has(void **state)
{
    static const char head[] = "HTTP/1.1 200 OK\r\n"
        "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nx-amz-retry-after: 5\r\n"
        "X-Amzn-Requestid: 1b2c\r\n\r\n";
    kaws_header wanted[] = { { .name = "DATE" }, { .name = "date" } };
    kaws_reply r = { .headers = wanted, .header_count = 2 };
    int i;

    (void)state;
    for (i = 0; i < 3; i++) {
        kaws__head_begin(&r);
        assert_int_equal(r.retry_after_ms, -1);
        read_head(&r, head, strlen(head), 1);
        assert_int_equal(r.date, 784111777);
        assert_int_equal(r.retry_after_ms, 5);
        assert_string_equal(r.request_id, "1b2c");
        assert_int_equal(wanted[0].found, i < 2);
        assert_int_equal(wanted[1].found, i < 2);
        assert_string_equal(wanted[1].value, i < 2 ? "Sun, 06 Nov 1994 08:49:37"
                                                     " GMT" : "");
        if (i == 1) {
            kaws__head_begin(&r);
            memset(&r, 0, sizeof r);
            r.header_count = 2;
        }
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_wanted_header_is_found),
        cmocka_unit_test(test_what_every_reply_has)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
