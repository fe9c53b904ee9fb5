/* sockets.c - a program without libcurl: its `send` hook opens its own sockets,
 * for the ring's requests and for the program's own
 */

#define KEYRING_AWS_NO_CURL
#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"
#include "plain_sender.h"

static int sent;


/* Asks KMS in a way that it does not know, and says what came back. */
static void
say(const char *url, const char *method)
{
    kaws_header wanted[] = { { .name = "CONTENT-TYPE" }, { .name = "x-none" } };
    const char *const headers[] = { "Host: localhost", NULL };
    uint8_t body[4096];
    char address[200];
    kaws_request q = { .url = address, .headers = headers,
                       .timeout_ms = 9000, .method = method };
    kaws_reply r = { .body = body, .body_max = sizeof body,
                     .headers = wanted, .header_count = 2 };
    int failed;

    (void)snprintf(address, sizeof address, "%s/", url);
    failed = plain_send(&sent, &q, &r);
    printf("%s %d %d %d %d %s %d %d %s\n", method, failed, r.http,
           r.request_id[0] != '\0', wanted[0].found, wanted[0].value,
           wanted[1].found, (int)r.body_len, r.text);
}


int
main(int argc, char **argv)
{
    static const kaws_bytes plain = { (const uint8_t *)"correct horse", 13 };
    kaws_config cfg;

    MUST(argc == 6);
    memset(&cfg, 0, sizeof cfg);
    cfg.data_file = argv[1];
    cfg.conf_file = argv[2];
    cfg.endpoint = argv[4];
    cfg.kms_key_id = argv[5];
    cfg.hooks.ctx = &sent;
    cfg.hooks.send = plain_send;
    WORKS(kaws_open(&ring, &cfg, &err));
    WORKS(kaws_check(ring, &err));
    WORKS(kaws_store(ring, guest_name("a"), "SECRET", plain, &err));
    WORKS(guest_fetch("a", &err));
    MUST(kaws_fetch(ring, guest_name("b"), NULL, &err) != KAWS_OK);
    kaws_close(ring);
    printf("sent %d\n", sent);
    say(argv[4], "GET");
    say(argv[4], "HEAD");
    say(argv[4], "PATCH");
    return 0;
}
