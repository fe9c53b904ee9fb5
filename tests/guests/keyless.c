/* keyless.c - programs that have no credentials, not yet, or bad ones
 *
 * Most calls need no credentials. A call that asks KMS says what is wrong, and
 * works once that is corrected; the ring need not be reopened.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"

#include <sys/wait.h>

/* What the program's hook does, in turn. */
static struct {
    kaws_creds  creds;
    int64_t     expires;
    const char *fails;
    int         slow_ms;
} gives;

static int calls;
static kaws_identity who;


static int
hook(void *ctx, kaws_creds_wanted *wanted)
{
    MUST(ctx == &gives);
    calls++;
    usleep((useconds_t)gives.slow_ms * 1000);
    wanted->creds = gives.creds;
    wanted->expires = gives.expires;
    if (gives.fails != NULL)
        (void)snprintf(wanted->text, sizeof wanted->text, "%s", gives.fails);
    return gives.fails != NULL;
}


static void
heard(void *ctx, int level, const char *line)
{
    (void)ctx;
    if (level == 1 && strstr(line, "[KAWS-142]") != NULL)
        printf("%s\n", line);
}


/* All that works without credentials, and one call that does not. */
static void
use_without(kaws_status status)
{
    kaws_entry_info info;
    kaws_stats stats;
    kaws_walk *walk;
    kaws_sealed sealed;
    int keys = 0;

    WORKS(kaws_walk_begin(ring, &walk, &err));
    while (kaws_walk_next(walk, &info))
        keys++;
    kaws_walk_end(walk);
    kaws_get_stats(ring, &stats);
    MUST(stats.keys == (uint64_t)keys && stats.kms_requests == 0);
    WORKS(kaws_could_use(ring, "alias/x", "eu-west-1", &err));
    if (keys > 1)
        WORKS(kaws_remove(ring, guest_name("second"), &err));
    MUST(kaws_remove(ring, guest_name("none"), &err) == KAWS_NOT_FOUND);
    MUST(guest_fetch("none", &err) == KAWS_NOT_FOUND);
    MUST(guest_fetch("first", &err) == status);
    printf("%s\n", err.text);
    MUST(kaws_generate(ring, guest_name("x"), "AES", 32, &err) == status);
    MUST(kaws_try(ring, "alias/x", NULL, &err) == status);
    MUST(kaws_kms_generate_data_key(ring, NULL, 16, NULL, &sealed, &err) ==
         status);
    MUST(kaws_whoami(ring, &who, &err) == status);
    kaws_get_stats(ring, &stats);
    MUST(stats.kms_requests == 0);
    printf("%s in %s at %s, account %s\n", who.source, who.region,
           strstr(who.endpoint, "127.0.0.1:") != NULL ? "here" : "?",
           who.account);
    fflush(stdout);
}


static void *
fetch_one(void *arg)
{
    (void)arg;
    WORKS(guest_fetch("first", &err));
    return NULL;
}


/* A child is made while one thread is in the hook, and others wait for it. */
static void
fork_meanwhile(void)
{
    kaws_error why;
    pthread_t threads[4];
    int i, status;
    pid_t pid;

    gives.slow_ms = 500;
    calls = 0;
    for (i = 0; i < 4; i++)
        MUST(pthread_create(&threads[i], NULL, fetch_one, NULL) == 0);
    usleep(200000);
    if ((pid = fork()) == 0) {
        alarm(5);                         /* or it would hang                 */
        MUST(kaws_whoami(ring, &who, &why) == KAWS_CONFIG);
        MUST(kaws_reload_creds(ring, &why) == KAWS_CONFIG);
        kaws_close(ring);
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0) == pid && status == 0);
    for (i = 0; i < 4; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    MUST(calls == 1);
}


/* What a hook may do wrong, and what comes of it. */
static void
try_hook(kaws_creds good)
{
    static const struct { kaws_creds creds; int64_t expires; } junk[] = {
        { { NULL, NULL, NULL }, 0 },
        { { "", "", "" }, 0 },
        { { "AKIDEXAMPLE", "two words", NULL }, 0 },
        { { "ASIAIOSFODNN7EXAMPLE", "secret", NULL }, 0 },
        { { "AKIDEXAMPLE", "secret", "\n" }, 0 },
        { { "AKIDEXAMPLE", "secret", NULL }, 1764000000000 }
    };
    size_t i;

    gives.fails = "the vault is sealed";
    use_without(KAWS_CREDENTIALS);
    gives.fails = NULL;
    for (i = 0; i < sizeof junk / sizeof junk[0]; i++) {
        gives.creds = junk[i].creds;
        gives.expires = junk[i].expires;
        MUST(guest_fetch("first", &err) == KAWS_CREDENTIALS);
        printf("%s\n", err.text);
    }
    gives.creds = (kaws_creds){ "AKIDUNKNOWN", "secret", NULL };
    gives.expires = 0;
    calls = 0;
    MUST(guest_fetch("first", &err) == KAWS_CREDENTIALS);
    printf("%s\n", err.text);
    MUST(calls == 2);                     /* at need, and when refused        */
    gives.creds = good;
    gives.expires = 1;                    /* long ago, says the hook          */
    WORKS(guest_fetch("first", &err));    /* AWS decides                      */
    WORKS(guest_fetch("first", &err));
    MUST(calls == 3);
    WORKS(kaws_whoami(ring, &who, &err));
    printf("ends in %s, expires %d\n", who.access_key_end, (int)who.expires);
}


/* Without any, and with a file that is written later. */
static void
wait_for_file(kaws_config cfg, const char *path)
{
    cfg.conf_file = NULL;                 /* none at all                      */
    WORKS(kaws_open(&ring, &cfg, &err));
    use_without(KAWS_CONFIG);
    kaws_close(ring);

    cfg.conf_file = path;                 /* not there yet                    */
    WORKS(kaws_open(&ring, &cfg, &err));
    use_without(KAWS_CONFIG);
    printf("write\n");
    fflush(stdout);
    MUST(getchar() == '\n');
    WORKS(guest_fetch("first", &err));
    WORKS(kaws_whoami(ring, &who, &err));
    printf("%s, ends in %s, expires %d\n", who.source, who.access_key_end,
           (int)who.expires);
    kaws_close(ring);
}


int
main(int argc, char **argv)
{
    static char text[2][128], path[4096];
    kaws_config cfg = { .data_file = argv[1], .ca_file = argv[3],
                        .endpoint = argv[4], .kms_key_id = argv[5],
                        .hooks = { .log = heard } };
    kaws_creds good = { text[0], text[1], NULL };
    FILE *conf;

    MUST(argc == 6);
    MUST((conf = fopen(argv[2], "r")) != NULL);
    MUST(fscanf(conf, "%127s %127s", text[0], text[1]) == 2);
    fclose(conf);
    cfg.conf_file = argv[2];
    WORKS(kaws_open(&ring, &cfg, &err));
    WORKS(kaws_generate(ring, guest_name("first"), "AES", 32, &err));
    WORKS(kaws_generate(ring, guest_name("second"), "AES", 32, &err));
    kaws_close(ring);

    (void)snprintf(path, sizeof path, "%s.conf", argv[1]);
    wait_for_file(cfg, path);
    cfg.conf_file = path;
    cfg.must_have_creds = 1;
    cfg.hooks.ctx = &gives;               /* it outranks the file             */
    cfg.hooks.creds = hook;
    gives.fails = "the vault is sealed";
    MUST(kaws_open(&ring, &cfg, &err) == KAWS_CREDENTIALS && ring == NULL);
    cfg.must_have_creds = 0;
    calls = 0;
    WORKS(kaws_open(&ring, &cfg, &err));
    MUST(calls == 0);
    try_hook(good);
    kaws_close(ring);
    WORKS(kaws_open(&ring, &cfg, &err));
    fork_meanwhile();
    kaws_close(ring);
    printf("end\n");
    return 0;
}
