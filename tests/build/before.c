/* before.c - story.c as an old program: it was written against 18b00ff, and
 * knows nothing that came later. It fills structs without naming members.
 *
 *     before DATA_FILE CONF_FILE
 *
 * Its KMS seals nothing. A blob is the key itself, so this KMS only finds a
 * member of a JSON body and returns it under another name. The program prints
 * "ok", or the line that was not as expected.
 */

#include <stdio.h>
#include <string.h>

#include "keyring_aws.h"

#define ARN "arn:aws:kms:us-east-1:111122223333:key/" \
            "1234abcd-12ab-34cd-56ef-1234567890ab"

#define EXPECT(what) \
    do { \
        if (!(what)) \
            return printf("line %d: %s: %s\n", __LINE__, #what, err.text), 1; \
    } while (0)


/* The member's text goes to the reply; of none, 32 bytes of a new key do, or
 * one if that is what is asked for. */
static int
story_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    const char *body = (const char *)q->body.at;
    const char *from[3] = { "\"Plaintext\":\"", "\"CiphertextBlob\":\"",
                            "\"NumberOfBytes\":1," };
    const char *to[4] = { "CiphertextBlob", "Plaintext", "CiphertextBlob",
                          "CiphertextBlob" };
    const char *text = "bmV2ZXIgaW4gdGhlIGNsZWFyLCBzYXlzIHRoZSBLTVM=";
    kaws_reply mine = { 200, r->body, 0, r->body_max, 0, -1, "", "" };
    int len = (int)strlen(text), n, i;
    size_t at;

    for (i = 0; i < 3; i++) {
        size_t skip = strlen(from[i]);
        for (at = 0; at + skip < q->body.len; at++)
            if (memcmp(body + at, from[i], skip) == 0)
                break;
        if (at + skip < q->body.len) {
            text = i < 2 ? body + at + skip : "bg==\"";
            len = (int)((const char *)memchr(text, '"', q->body.len) - text);
            break;
        }
    }
    n = snprintf((char *)r->body, r->body_max, "{\"%s\":\"%.*s\",\"KeyId\":\""
                 ARN "\"}", to[i], len, text);
    mine.body_len = (size_t)n;
    *r = mine;
    ++*(int *)ctx;
    return 0;
}


/* The signature of an empty request, as AWS's own test suite has it. */
static int
story_sign(void)
{
    const char *headers[] = { "Host:example.amazonaws.com", NULL };
    const char *want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/"
        "us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, "
        "Signature="
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    kaws_creds who = { "AKIDEXAMPLE",
                       "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", NULL };
    kaws_signing what = { "GET", "/", NULL, "us-east-1", "service", headers,
                          { NULL, 0 }, 1440938160 };
    kaws_error err;
    char out[512];

    EXPECT(kaws_sign(&what, who, out, sizeof out, &err) == KAWS_OK);
    EXPECT(strcmp(out, want) == 0);
    return 0;
}


static int
story_keys(kaws *ring)
{
    static const char plain[] = "correct horse";
    kaws_name a = { "a", "" }, b = { "b", "someone" };
    kaws_bytes mine = { (const uint8_t *)plain, sizeof plain - 1 };
    kaws_entry_info info;
    kaws_walk *walk;
    kaws_error err;
    kaws_key key;

    EXPECT(kaws_check(ring, &err) == KAWS_OK);
    EXPECT(kaws_generate(ring, a, "AES", 32, &err) == KAWS_OK);
    EXPECT(kaws_generate(ring, a, "AES", 32, &err) == KAWS_EXISTS);
    EXPECT(kaws_store(ring, b, "SECRET", mine, &err) == KAWS_OK);
    EXPECT(kaws_fetch(ring, a, &key, &err) == KAWS_OK && key.len == 32);
    EXPECT(memcmp(key.bytes, "never in the clear, says the KMS", 32) == 0);
    kaws_key_free(ring, &key);
    EXPECT(kaws_fetch(ring, b, &key, &err) == KAWS_OK && key.len == 13);
    EXPECT(memcmp(key.bytes, plain, 13) == 0);
    kaws_key_free(ring, &key);
    EXPECT(kaws_remove(ring, a, &err) == KAWS_OK);
    EXPECT(kaws_rewrap_all(ring, &err) == KAWS_REPLY);
    EXPECT(kaws_walk_begin(ring, &walk, &err) == KAWS_OK);
    EXPECT(kaws_walk_next(walk, &info) && info.len == 13);
    EXPECT(strcmp(info.kms_key_arn, ARN) == 0 && info.created > 0);
    EXPECT(!kaws_walk_next(walk, &info));
    kaws_walk_end(walk);
    return 0;
}


int
main(int argc, char **argv)
{
    kaws_config cfg;
    kaws_error err;
    kaws *ring;
    int calls = 0, failed;

    memset(&cfg, 0, sizeof cfg);
    memset(&err, 0, sizeof err);
    EXPECT(argc == 3);
    EXPECT(strcmp(kaws_version(), KAWS_VERSION) == 0);
    EXPECT(strcmp(kaws_status_text(KAWS_OK), "ok") == 0);
    cfg.data_file = argv[1];
    cfg.conf_file = argv[2];
    cfg.kms_key_id = ARN;
    cfg.hooks.ctx = &calls;
    cfg.hooks.send = story_send;
    EXPECT(kaws_open(&ring, &cfg, &err) == KAWS_OK);
    failed = story_keys(ring) || story_sign();
    kaws_close(ring);
    EXPECT(calls > 0);
    if (!failed)
        puts("ok");
    return failed;
}
