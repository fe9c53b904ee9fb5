/* hosts.h - a KMS in several regions, for the tests of what leaves home
 *
 * Include it after keyring_aws.h with its implementation. One multi-region key
 * is in three regions: its home, one with a shorter name, one with a longer
 * one. The `send` hook plays the host that the URL names, and notes what was
 * sent: hosts.trail has a letter for each request. Requests are answered one
 * at a time, whatever thread they come from.
 */

#if !defined(KAWS_HOSTS_H)
#define KAWS_HOSTS_H

#include "world.h"

#define HOSTS_ID       "mrk-0123456789abcdef0123456789abcdef"
#define HOSTS_ARN(region) "arn:aws:kms:" region ":" FAKE_OWN ":key/" HOSTS_ID
#define HOSTS_HOME     "eu-central-1"
#define HOSTS_SHORT    "sa-east-1"
#define HOSTS_LONG     "ap-northeast-1"
#define HOSTS_LIST     HOSTS_SHORT "," HOSTS_LONG

enum { HOME, SHORT, LONG, HOSTS };

typedef struct spot {
    const char *region;
    char        letter;
    fake_script is;               /* how it is; all zeros: it is well         */
    int         hangs;            /* it takes all the time that it is given   */
    int         takes_ms;
    int         no_sts;           /* AWS STS does not answer there; 2: it
                                   * refuses                                  */
} spot;

static struct {
    pthread_mutex_t lock;
    spot at[HOSTS];
    int   count, stss;            /* requests to KMS; to STS                  */
    char  trail[128];             /* "hsl": home, short, long                 */
    char  asked_sts[128];         /* the same, of AWS STS                     */
    struct {
        int  timeout_ms, connect_ms;
        char key[300], action[40], body[9000];
    } sent[64];
    int   asks_cancel;            /* the hook asks whether it is cancelled    */
} hosts;


/* The place whose region the URL names; NULL: none. */
static spot *
hosts_find(const char *url)
{
    int i;

    for (i = 0; i < HOSTS; i++)
        if (strstr(url, hosts.at[i].region) != NULL)
            return &hosts.at[i];
    return NULL;
}


/* Notes the request. The region that it is signed for must be the host's. */
static void
hosts_note(const spot *p, const kaws_request *q)
{
    char scope[200];
    int n = hosts.count % 64;

    (void)snprintf(scope, sizeof scope, "/%s/kms/aws4_request", p->region);
    if (strstr(fake_header(q, "Authorization: "), scope) == NULL)
        fail_msg("not signed for %s: %s", p->region,
                 fake_header(q, "Authorization: "));
    (void)snprintf(scope, sizeof scope, "https://%s/",
                   fake_header(q, "Host: "));
    assert_string_equal(q->url, scope);
    hosts.sent[n].timeout_ms = q->timeout_ms;
    hosts.sent[n].connect_ms = q->connect_timeout_ms;
    (void)snprintf(hosts.sent[n].action, sizeof hosts.sent[n].action, "%s",
                   fake_header(q, "X-Amz-Target: TrentService."));
    assert_in_range(q->body.len, 2, sizeof hosts.sent[n].body - 1);
    memcpy(hosts.sent[n].body, q->body.at, q->body.len);
    hosts.sent[n].body[q->body.len] = '\0';
    assert_int_equal(sscanf(hosts.sent[n].body, "{\"%*[A-Za-z]\":\"%299[^\"]",
                            hosts.sent[n].key), 1);
    hosts.trail[hosts.count++ % 127] = p->letter;
}


static int
hosts_sts(struct fake *f, const spot *p, kaws_reply *r)
{
    hosts.asked_sts[hosts.stss++ % 127] = p->letter;
    if (p->no_sts == 2) {
        r->http = 403;
        r->body_len = (size_t)snprintf((char *)r->body, r->body_max, "<A>"
            "<Error><Code>AccessDenied</Code></Error></A>");
        return 0;
    }
    if (p->no_sts) {
        (void)snprintf(r->text, sizeof r->text, "no STS in %s", p->region);
        return 1;
    }
    r->http = 200;
    (void)snprintf(r->request_id, sizeof r->request_id, "sts-%d", hosts.stss);
    r->body_len = (size_t)snprintf((char *)r->body, r->body_max, "<A><R>"
        "<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s"
        "</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>"
        "2026-11-18T12:06:40Z</Expiration></Credentials></R></A>", f->id,
        f->secret, f->token);
    return 0;
}


static int
hosts_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    struct fake *f = ctx;
    spot *p = hosts_find(q->url);
    int none = 1;

    if (p == NULL)
        fail_msg("nobody is at %s", q->url);
    pthread_mutex_lock(&hosts.lock);
    if (strncmp(q->url, "https://sts.", 12) == 0) {
        none = hosts_sts(f, p, r);
    } else {
        fake_script is = p->is;
        hosts_note(p, q);
        pthread_mutex_lock(&f->lock);
        f->now_ms += p->hangs ? q->timeout_ms : p->takes_ms;
        pthread_mutex_unlock(&f->lock);
        if (is.action != NULL &&
            strcmp(is.action, fake_actions[fake_action(q)]) != 0)
            memset(&is, 0, sizeof is);
        if (is.no_reply != NULL || is.error != NULL || is.http != 0 ||
            is.from != NULL || is.lost || is.cut > 0)
            fake_push(f, is);
        if (!p->hangs)
            none = fake_send(ctx, q, r);
        else
            (void)snprintf(r->text, sizeof r->text, "timed out");
        if (hosts.asks_cancel && q->cancelled(q->cancelled_arg))
            none = 1;
    }
    pthread_mutex_unlock(&hosts.lock);
    return none;
}


/* Forgets what was sent. */
FAKE void
hosts_forget(void)
{
    memset(hosts.trail, 0, sizeof hosts.trail);
    memset(hosts.asked_sts, 0, sizeof hosts.asked_sts);
    hosts.count = hosts.stss = 0;
}


/* The regions were checked just now, whatever the KMS key. */
FAKE void
hosts_no_check(struct world *w)
{
    int i;

    for (i = 0; i < KAWS__CHECKED_MAX; i++)
        w->ring->kms.checked[i].ms = w->f.now_ms;
}


/* The key in its three regions, each of them well; no ring is open yet. */
FAKE int
hosts_begin(void **state)
{
    static const fake_key keys[HOSTS] = {
        { .arn = HOSTS_ARN(HOSTS_HOME), .alias = "alias/multi" },
        { .arn = HOSTS_ARN(HOSTS_SHORT) }, { .arn = HOSTS_ARN(HOSTS_LONG) }
    };
    static const spot places[HOSTS] = {
        { .region = HOSTS_HOME, .letter = 'h' },
        { .region = HOSTS_SHORT, .letter = 's' },
        { .region = HOSTS_LONG, .letter = 'l' }
    };
    struct world *w;

    if (world_begin(state) != 0)
        return 1;
    w = *state;
    memset(&hosts, 0, sizeof hosts);
    pthread_mutex_init(&hosts.lock, NULL);
    memcpy(hosts.at, places, sizeof places);
    memcpy(w->f.keys + 4, keys, sizeof keys);
    w->cfg.data_file = NULL;
    w->cfg.hooks.send = hosts_send;
    w->cfg.kms_key_id = HOSTS_ARN(HOSTS_HOME);
    w->cfg.region = HOSTS_HOME;
    w->cfg.failover_regions = HOSTS_LIST;
    return 0;
}


FAKE int
hosts_begin_open(void **state)
{
    if (hosts_begin(state) != 0)
        return 1;
    world_open(*state);
    return 0;
}


/* How the place is from now on. */
#define IS(host, ...) (hosts.at[host].is = (fake_script){ __VA_ARGS__ })
#define IS_WELL(host)                                                         \
    (hosts.at[host].hangs = hosts.at[host].takes_ms = 0,                      \
     hosts.at[host].is = (fake_script){ .action = NULL })

#endif /* KAWS_HOSTS_H */
