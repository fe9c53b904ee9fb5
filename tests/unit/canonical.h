/* canonical.h - the canonical request that kaws_sign hashes, to be looked at
 *
 * Include it after keyring_aws.h.
 */

#if !defined(KAWS_TESTS_CANONICAL_H)
#define KAWS_TESTS_CANONICAL_H

/* Appends it to `out`; returns NULL, or what is wrong with the request. */
static inline const char *
canonical_request(kaws__buf *out, const kaws_signing *what, const char *token)
{
    char date[17], names[16384];
    kaws__buf list = kaws__buf_fixed(names, sizeof names);
    kaws__fields headers;
    const char *wrong;
    size_t i;

    kaws__text_amz_date(date, what->when);
    wrong = kaws__sigv4_collect(&headers, what, date, token);
    if (wrong != NULL)
        return wrong;
    for (i = 0; i < headers.count; i++)
        kaws__sigv4_name(&list, &headers, i, i > 0 ? ";" : "");
    if (list.failed)
        return "the names are too long for this test";
    return kaws__sigv4_request(out, what, &headers, kaws__buf_view(&list));
}

#endif
