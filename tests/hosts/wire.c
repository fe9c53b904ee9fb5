/* wire.c - sends requests of any method by room http, as later rooms will
 *
 *     wire URL [CA_FILE]
 *
 * A line of the standard input is "METHOD PATH CLEAN BODY": the body in hex or
 * "-", and CLEAN 1 if room http is told that the reply was clean. For each line
 * the program prints the status, the HTTP status, the headers ETag,
 * Last-Modified and x-amz-meta-place, the body (hex), and why there is no
 * reply. Without libcurl the hook of plain_sender.h sends.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#if defined(KEYRING_AWS_NO_CURL)
#include "../guests/plain_sender.h"
#endif

enum { BODY_MAX = 100000 };

static uint8_t body[BODY_MAX], room[BODY_MAX];
static char line[2 * BODY_MAX + 400], hex[2 * BODY_MAX + 1];


static void
ask(kaws__http *http, const char *url)
{
    static const char *const headers[] = {
        "Host: localhost", "x-amz-meta-place: 7 8", NULL
    };
    kaws_header want[] = { { .name = "ETag" }, { .name = "last-modified" },
                           { .name = "X-AMZ-META-PLACE" } };
    char address[400], method[16], path[200];
    kaws_request q = { .url = address, .headers = headers,
                       .connect_timeout_ms = 5000, .timeout_ms = 5000,
                       .method = method };
    kaws_reply r = { .body = room, .body_max = sizeof room, .headers = want,
                     .header_count = 3 };
    kaws_status status;
    void *lent;
    int clean, i;
    size_t n;

    if (sscanf(line, "%15s %199s %d %200000s", method, path, &clean, hex) != 4)
        exit(2);
    for (n = 0; hex[0] != '-' && hex[2 * n] != '\0'; n++) {
        char two[3] = { hex[2 * n], hex[2 * n + 1], '\0' };
        body[n] = (uint8_t)strtoul(two, NULL, 16);
    }
    q.body = (kaws_bytes){ n > 0 ? body : NULL, n };
    (void)snprintf(address, sizeof address, "%s%s", url, path);
    status = kaws__http_send(http, &q, &r, &lent);
    kaws__http_done(http, lent, clean);
    printf("%d|%d|", (int)status, r.http);
    for (i = 0; i < 3; i++)
        printf("%d|%s|", want[i].found, want[i].value);
    if (r.body_len > r.body_max)
        printf("long");
    for (n = 0; r.body_len <= r.body_max && n < r.body_len; n++)
        printf("%02x", (unsigned)r.body[n]);
    printf("|%s\n", r.text);
    fflush(stdout);
}


int
main(int argc, char **argv)
{
    static kaws__http http;
    kaws_hooks hooks = { .memory = kaws__mem_builtin };
    kaws_config cfg = { .ca_file = argc > 2 ? argv[2] : NULL };
    kaws_error err;
    int sent = 0;

    hooks.ctx = &sent;
#if defined(KEYRING_AWS_NO_CURL)
    hooks.send = plain_send;
#endif
    if (argc < 2 || kaws__http_open(&http, &hooks, &cfg, argc == 2, &err) !=
        KAWS_OK)
        return 1;
    while (fgets(line, sizeof line, stdin) != NULL)
        ask(&http, argv[1]);
    kaws__http_close(&http);
    return 0;
}
