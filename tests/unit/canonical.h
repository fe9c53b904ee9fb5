/* canonical.h - the canonical request that kaws_sign hashes, to be looked at
 *
 * Include it after keyring_aws.h.
 */

#if !defined(KAWS_TESTS_CANONICAL_H)
#define KAWS_TESTS_CANONICAL_H

/* Appends it to `out`; `query` is the request's, or a presigned URL's without
 * its signature. Returns NULL, or what is wrong with the request. */
static inline const char *
canonical_request(kaws__buf *out, const kaws_signing *what, const char *query,
                  const char *token)
{
    char date[17];
    kaws__fields headers;
    const char *wrong;

    kaws__text_amz_date(date, what->when);
    wrong = kaws__sigv4_collect(&headers, what, date, token);
    if (wrong != NULL)
        return wrong;
    return kaws__sigv4_request(out, what, &headers, query);
}


/* Cuts off what is not signed of a query that kaws_sign wrote. */
static inline void
canonical_cut(char *query, const kaws_signing *what)
{
    char *signature = strstr(query, "&X-Amz-Signature="), *token;

    token = strstr(query, "&X-Amz-Security-Token=");
    if (signature != NULL)
        *signature = '\0';
    if (what->token_unsigned && token != NULL)
        *token = '\0';
}

#endif
