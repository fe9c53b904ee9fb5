/* Room fault: what each error of AWS means, and which errors are AWS's. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

enum { LATER = 1, SLOWER = 2, CLOCK = 4, RENEW = 8, CITE = 16,
       ENDS = 32, FINAL = CITE | ENDS,
       ALIVE = 64 };

/* Types as AWS writes them, one row for those that mean the same. */
static const struct {
    const char *types;
    kaws_status status;
    int         cures;
    const char *advice;
} rows[] = {
    { "ThrottlingException Throttling ThrottledException RequestThrottled "
      "RequestThrottledException TooManyRequestsException SlowDown "
      "ProvisionedThroughputExceededException RequestLimitExceeded "
      "BandwidthLimitExceeded PriorRequestNotComplete",
      KAWS_THROTTLED, SLOWER, "call less often" },
    { "KMSInternalException DependencyTimeoutException InternalFailure "
      "InternalServerError ServiceUnavailable "
      "ServiceUnavailableException RequestTimeout RequestTimeoutException",
      KAWS_SERVICE, LATER, "try again later" },
    { "KeyUnavailableException",          /* that key's, and not the host's   */
      KAWS_SERVICE, LATER | ALIVE, "try again later" },
    { "InvalidSignatureException SignatureDoesNotMatch AuthFailure",
      KAWS_CREDENTIALS, CLOCK | RENEW, "clock" },
    { "RequestTimeTooSkewed RequestExpired RequestInTheFuture",
      KAWS_CREDENTIALS, CLOCK, "clock" },
    { "UnrecognizedClientException InvalidClientTokenId",
      KAWS_CREDENTIALS, RENEW, "conf file" },
    { "ExpiredTokenException ExpiredToken",
      KAWS_CREDENTIALS, RENEW, "new session token" },
    { "IncompleteSignature IncompleteSignatureException "
      "MissingAuthenticationToken", KAWS_CREDENTIALS, 0, "conf file" },
    { "OptInRequired", KAWS_CREDENTIALS, 0, "enable the region" },
    { "AccessDeniedException AccessDenied NotAuthorized",
      KAWS_DENIED, FINAL, "IAM policy" },
    { "NotFoundException", KAWS_KMS_KEY, FINAL, "and the region" },
    { "InvalidArnException", KAWS_KMS_KEY, CITE, "check the KMS key's ARN" },
    { "DisabledException", KAWS_KMS_KEY, FINAL, "enable the KMS key" },
    { "KMSInvalidStateException", KAWS_KMS_KEY, FINAL, "state of the KMS key" },
    { "InvalidKeyUsageException", KAWS_KMS_KEY, CITE, "symmetric" },
    { "UnsupportedOperationException", KAWS_KMS_KEY, CITE, "cannot do that" },
    { "InvalidCiphertextException", KAWS_MISMATCH, 0, "another encryption" },
    { "InvalidCiphertext-entry", KAWS_MISMATCH, 0, "another name" },
    { "IncorrectKeyException", KAWS_MISMATCH, 0, "another KMS key" },
    { "LimitExceededException", KAWS_SERVICE, CITE, "25 times" },
    { "ConflictException", KAWS_SERVICE, CITE, "try again later" },
    { "ValidationException", KAWS_ARGUMENT, 0, "invalid" },
    { "DryRunOperationException", KAWS_OK, 0, "another request" },
    { "SomethingNewException Exception notfoundexception type status "
      "NotFoundExceptionException",
      KAWS_SERVICE, 0, "documentation" }
};


static void
expect_fault(const char *of, int http, kaws_status status, int cures,
             const char *advice)
{
    const kaws__fault *fault = kaws__fault_of(of, http);

    if (fault->status != status || fault->cures != cures ||
        strstr(fault->advice, advice) == NULL)
        fail_msg("'%s', HTTP %d: %s, %d, %s", of, http,
                 kaws_status_text(fault->status), fault->cures, fault->advice);
    assert_null(strstr(fault->advice, "remove"));      /* never lose a key   */
    assert_null(strstr(fault->advice, "delete"));
}


/* A type means the same whatever the HTTP status; one that is not known means
 * what its status does. */
static void
test_types(void **state)
{
    static const int statuses[] = { 400, 403, 409, 412, 500, 503 };
    char type[64];
    size_t i, k;
    int n, seen = 0;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        const char *rest = rows[i].types;
        int known = i + 1 < COUNT(rows);
        for (; sscanf(rest, "%63s%n", type, &n) == 1; rest += n, seen++)
            for (k = 0; k < COUNT(statuses); k++)
                if (known || statuses[k] < 500)
                    expect_fault(type, statuses[k], rows[i].status,
                                 rows[i].cures, rows[i].advice);
    }
    assert_int_equal(seen, 56);
    expect_fault("SomethingNew", 500, KAWS_SERVICE, LATER, "try again later");
    expect_fault("SomethingNew", 599, KAWS_SERVICE, LATER, "try again later");
}


static void
test_http_statuses(void **state)
{
    static const struct {
        int from, to;
        kaws_status status;
        int cures;
        const char *advice;
    } ranges[] = {
        { -1, 299, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 300, 399, KAWS_REPLY, 0, "redirects are not followed" },
        { 400, 400, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 401, 401, KAWS_DENIED, RENEW, "conf file" },
        { 402, 402, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 403, 403, KAWS_DENIED, RENEW, "conf file" },
        { 404, 407, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 408, 408, KAWS_SERVICE, LATER, "try again later" },
        { 409, 424, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 425, 425, KAWS_SERVICE, LATER, "try again later" },
        { 426, 428, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 429, 429, KAWS_THROTTLED, SLOWER, "call less often" },
        { 430, 499, KAWS_REPLY, 0, "is that AWS KMS?" },
        { 500, 500, KAWS_SERVICE, LATER, "try again later" },
        { 501, 501, KAWS_SERVICE, 0, "is that AWS KMS?" },
        { 502, 504, KAWS_SERVICE, LATER, "try again later" },
        { 505, 599, KAWS_SERVICE, 0, "is that AWS KMS?" },
        { 600, 700, KAWS_REPLY, 0, "is that AWS KMS?" },
        { INT_MAX, INT_MAX, KAWS_REPLY, 0, "is that AWS KMS?" },
        { INT_MIN, INT_MIN, KAWS_REPLY, 0, "is that AWS KMS?" }
    };
    size_t i;
    int64_t http;

    (void)state;
    for (i = 0; i < COUNT(ranges); i++)
        for (http = ranges[i].from; http <= ranges[i].to; http++)
            expect_fault("", (int)http, ranges[i].status, ranges[i].cures,
                         ranges[i].advice);
}


static const struct { const char *body, *type, *message; } bodies[] = {
    { "{\"__type\":\"NotFound\"}", "NotFound", "" },
    { "{\"__type\":\"com.amazonaws.kms#NotFoundException\"}",
      "NotFoundException", "" },
    { "{\"__type\":\"NotFoundException:http://internal/x\"}",
      "NotFoundException", "" },
    { "{\"__type\":\"a#b#NotFoundException:c#Throttling\"}",
      "NotFoundException", "" },
    { "{\"__type\":\"4#a#NotFoundException:1\"}", "NotFoundException", "" },
    { "{\"__type\":\"X\",\"message\":\"small\"}", "X", "small" },
    { "{\"Message\":\"Big\",\"__type\":\"X\"}", "X", "Big" },
    { "{\"message\":\"small\",\"Message\":\"Big\",\"__type\":\"X\"}", "X",
      "small" },
    { "{\"a\":[{}],\"__type\":\"X\",\"b\":{\"__type\":\"Y\"}}", "X", "" },
    { "{\"__type\":\"Aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee"
      "ffffffffffgggggggggg\"}", "Aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd"
      "eeeeeeeeeeffffffffffggg", "" },

    { "<html><body>Not here</body></html>", "", "" },
    { "{}", "", "" }, { "[]", "", "" }, { "{\"__type\":5}", "", "" },
    { "{\"__type\":\"\"}", "", "" }, { "{\"__type\":\"#:\"}", "", "" },
    { "{\"type\":\"x\"}", "", "" }, { "\"\"", "", "" },
    { "{\"__type\":\"NotFoundException\"", "", "" },
    { "NotFoundException", "", "" },
    { "{\"__type\":\"NotFoundException\",\"__type\":\"x\"}", "", "" },
    { "{\"__type\":\"Not Found\"}", "", "" },
    { "{\"__type\":\"NotFoundException2\"}", "", "" },
    { "{\"__type\":\"@Not\\n{Fo`und\\u001b[/Exception\"}", "", "" },
    { "{\"__type\":\"NotFoundException#wJalrXUtnFEMI/K7MDENG=\"}", "", "" }
};


/* What AWS writes around a type, where its message stands, and what is no
 * error of AWS's. */
static void
test_reading(void **state)
{
    char body[400], type[64];
    kaws_bytes message;
    kaws_reply r;
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(bodies); i++) {
        memset(&r, 0, sizeof r);
        memset(type, 'x', sizeof type);
        r.body = (uint8_t *)body;
        r.body_max = sizeof body;
        r.body_len = strlen(bodies[i].body);
        r.http = 404;
        memcpy(body, bodies[i].body, r.body_len);
        assert_ptr_equal(kaws__fault_read(&r, type, &message),
                         kaws__fault_of(bodies[i].type, 404));
        assert_string_equal(type, bodies[i].type);
        if (!kaws__buf_same(message, kaws__buf_of(bodies[i].message)))
            fail_msg("%s", bodies[i].body);
    }
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types), cmocka_unit_test(test_http_statuses),
        cmocka_unit_test(test_reading)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
