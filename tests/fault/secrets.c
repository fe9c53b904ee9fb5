/* What is left of secrets in a process's memory, for tests/test_secrets.py.
 *
 *     cc -o secrets secrets.c -l:libbearssl.a -lcurl
 *
 * Works on a keyring with the real libcurl, and between its operations searches
 * all that it can read of /proc/self/mem for what the test names. Commands come
 * on standard input, one a line, and each is answered with a line on standard
 * output. Secrets come as hex digits with every byte XORed, are kept like that,
 * and are compared on the fly, so that the searcher holds nothing to be found.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"

#define MASK    0xa5u             /* what secrets are XORed with              */
#define PIECE   16                /* so many bytes of a needle are a find     */
#define LINE    65536
#define WINDOW  65536             /* memory is read in these                  */

typedef struct piece {            /* of a needle                              */
    char    label[24];
    uint8_t masked[PIECE];
    size_t  len;
    size_t  next;                 /* one that begins alike, plus 1; 0: none   */
} piece;

typedef struct area {             /* a mapping, from /proc/self/smaps         */
    unsigned long from, to;
    char perms[8], name[128];
    char flags[160];              /* " rd wr mr ... lo dd "                   */
} area;

static kaws *ring;
static char line[LINE];           /* the command, wiped after it              */
static char *words[24];
static size_t count;
static piece pieces[4096];
static size_t piece_count;
static size_t begins[65536];      /* a piece by its first two bytes, plus 1   */
static area areas[4096];
static size_t area_count;
static uint8_t *window;           /* not searched: it holds what was read     */
static uint8_t *planted;


static void
answer(const char *text)
{
    static const char end = '\n';

    if (write(STDOUT_FILENO, text, strlen(text)) < 0 ||
        write(STDOUT_FILENO, &end, 1) < 0)
        _exit(3);
}


/* Reads a command without any buffer but our own: nobody sends the next one
 * before the answer. 0 at the end. */
static int
read_command(void)
{
    size_t len = 0;
    ssize_t got = 1;
    char *at;

    while (got > 0 && len < LINE - 1 && (len == 0 || line[len - 1] != '\n')) {
        got = read(STDIN_FILENO, line + len, LINE - 1 - len);
        len += got > 0 ? (size_t)got : 0;
    }
    if (len == 0 || line[len - 1] != '\n')
        return 0;
    line[len - 1] = '\0';
    count = 0;
    for (at = line; *at != '\0' && count < 24; count++) {
        words[count] = at;
        at += strcspn(at, " ");
        if (*at != '\0')
            *at++ = '\0';
    }
    return 1;
}


static unsigned
digit(int c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}


/* A masked secret of the command line in the clear, in pages of its own. */
static kaws_bytes
unmask(const char *hex)
{
    size_t i, len = strlen(hex) / 2;
    uint8_t *at = mmap(NULL, KAWS_PLAIN_MAX, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    kaws_bytes out = { at, len };

    for (i = 0; i < len; i++)
        at[i] = (uint8_t)((digit(hex[2 * i]) * 16 + digit(hex[2 * i + 1])) ^
                          MASK);
    return out;
}


static void
unmap(kaws_bytes bytes)
{
    kaws_wipe((void *)(uintptr_t)bytes.at, bytes.len);
    munmap((void *)(uintptr_t)bytes.at, KAWS_PLAIN_MAX);
}


/* ---- needles ------------------------------------------------------------ */

static void
add_piece(const char *label, const char *hex, size_t len)
{
    piece *p = &pieces[piece_count++];
    size_t i;

    (void)snprintf(p->label, sizeof p->label, "%s", label);
    p->len = len;
    for (i = 0; i < len; i++)
        p->masked[i] = (uint8_t)(digit(hex[2 * i]) * 16 +
                                 digit(hex[2 * i + 1]));
    p->next = begins[p->masked[0] * 256 + p->masked[1]];
    begins[p->masked[0] * 256 + p->masked[1]] = piece_count;
}


/* A needle is looked for in pieces, so that parts of it are found, too. */
static void
add_needle(const char *label, const char *hex)
{
    size_t len = strlen(hex) / 2, at;

    if (len <= PIECE) {
        add_piece(label, hex, len);
        return;
    }
    for (at = 0; at + PIECE <= len; at += PIECE)
        add_piece(label, hex + 2 * at, PIECE);
    if (at < len)
        add_piece(label, hex + 2 * (len - PIECE), PIECE);
}


/* ---- the search --------------------------------------------------------- */

/* One line of smaps: the head of a mapping, or its flags. */
static void
take_line(char *text)
{
    area *a = &areas[area_count], head;
    int at = 0;

    if (sscanf(text, "%lx-%lx %7s %*s %*s %*s %n", &head.from, &head.to,
               head.perms, &at) >= 3 && at > 0) {
        (void)snprintf(head.name, sizeof head.name, "%s",
                       text[at] != '\0' ? text + at : "anonymous");
        *a = head;
    } else if (strncmp(text, "VmFlags:", 8) == 0 && area_count < 4095) {
        (void)snprintf(a->flags, sizeof a->flags, "%.150s", text + 8);
        area_count++;
    }
}


static void
read_areas(void)
{
    static char text[1 << 20];
    size_t len = 0;
    ssize_t got = 1;
    char *at = text, *end;
    int fd = open("/proc/self/smaps", O_RDONLY);

    while (got > 0) {
        got = read(fd, text + len, sizeof text - 1 - len);
        len += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    text[len] = '\0';
    area_count = 0;
    while ((end = strchr(at, '\n')) != NULL) {
        *end = '\0';
        take_line(at);
        at = end + 1;
    }
}


/* "LABEL FLAGS NAME+OFFSET|surroundings", to find out whose memory it is: the
 * secret itself, and all that is not printable, is shown as dots. */
static void
report(const piece *p, const area *a, unsigned long where, size_t at,
       size_t len)
{
    char text[512];
    size_t from = at < 48 ? 0 : at - 48, to = at + p->len + 48, i;
    int used = snprintf(text, sizeof text, " [%s%s%s%s %s+%lx |", p->label,
                        strstr(a->flags, " dd") ? " dd" : "",
                        strstr(a->flags, " lo") ? " lo" : "",
                        a->perms[1] == 'w' ? "" : " ro", a->name,
                        where - a->from);

    for (i = 1; text[i] != '\0'; i++)     /* "[stack]"                        */
        text[i] = (char)(text[i] == '[' || text[i] == ']' ? '<' : text[i]);
    text[1] = '[';
    for (i = from; i < to && i < len && used < 500; i++) {
        int c = window[i];
        int plain = c > 0x20 && c < 0x7f && c != '[' && c != ']' &&
                    (i < at || i >= at + p->len);
        text[used++] = (char)(plain ? c : '.');
    }
    text[used++] = ']';
    if (write(STDOUT_FILENO, text, (size_t)used) < 0)
        _exit(3);
    kaws_wipe(text, sizeof text);         /* its neighbours may be secret    */
}


static int
is_here(const uint8_t *at, const piece *p)
{
    size_t i;

    for (i = 0; i < p->len; i++)
        if ((at[i] ^ MASK) != p->masked[i])
            return 0;
    return 1;
}


static void
search_window(const area *a, unsigned long where, size_t len)
{
    size_t i, n;

    for (i = 0; i + 1 < len; i++) {
        n = begins[(window[i] ^ MASK) * 256 + (window[i + 1] ^ MASK)];
        for (; n > 0; n = pieces[n - 1].next)
            if (i + pieces[n - 1].len <= len &&
                is_here(window + i, &pieces[n - 1]))
                report(&pieces[n - 1], a, where + i, i, len);
    }
}


/* Windows overlap by a piece less a byte; so no find is reported twice. */
static void
search_area(int mem, const area *a)
{
    unsigned long at, own = (unsigned long)(uintptr_t)window;

    for (at = a->from; at < a->to; at += WINDOW - (PIECE - 1)) {
        size_t len = a->to - at < WINDOW ? a->to - at : WINDOW;
        ssize_t got;
        if (at < own + WINDOW && at + len > own) {
            if (at >= own) {              /* step over our own               */
                at = own + (PIECE - 1);
                continue;
            }
            len = own - at;
        }
        got = pread(mem, window, len, (off_t)at);
        if (got > 0)
            search_window(a, at, (size_t)got);
        if (a->to - at <= WINDOW)
            break;
    }
    kaws_wipe(window, WINDOW);
}


static void
search(void)
{
    int mem = open("/proc/self/mem", O_RDONLY);
    size_t i;

    read_areas();
    for (i = 0; i < area_count; i++)
        if (areas[i].perms[0] == 'r')
            search_area(mem, &areas[i]);
    close(mem);
    answer("");
}


/* Three copies: at the start of a mapping, where two windows meet, and at the
 * mapping's end. */
static void
plant(kaws_bytes plain)
{
    uint8_t *at;

    planted = mmap(NULL, 4 * WINDOW, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    at = planted + WINDOW;
    if (mprotect(planted, WINDOW, PROT_NONE) != 0)
        _exit(5);
    memcpy(at, plain.at, plain.len);
    memcpy(at + WINDOW - plain.len / 2, plain.at, plain.len);
    memcpy(at + 3 * WINDOW - plain.len, plain.at, plain.len);
}


/* ---- operations --------------------------------------------------------- */

static kaws_name
name_of(size_t n)
{
    kaws_name name;

    name.key_id = words[n];
    name.user_id = NULL;
    return name;
}


/* open DATA-FILE CONF-FILE ENDPOINT CA-FILE KMS-KEY */
static kaws_status
do_open(kaws_error *err)
{
    kaws_config cfg;

    memset(&cfg, 0, sizeof cfg);
    cfg.data_file = words[1];
    cfg.conf_file = words[2];
    cfg.endpoint = words[3];
    cfg.ca_file = words[4];
    cfg.kms_key_id = words[5];
    cfg.rewrap_parallel = 2;
    return kaws_open(&ring, &cfg, err);
}


static kaws_status
do_store(kaws_error *err)
{
    kaws_bytes plain = unmask(words[2]);
    kaws_status status = kaws_store(ring, name_of(1), "AES", plain, err);

    unmap(plain);
    return status;
}


static kaws_status
do_fetch(kaws_error *err)
{
    kaws_key key;
    kaws_status status = kaws_fetch(ring, name_of(1), &key, err);

    kaws_key_free(ring, &key);
    return status;
}


/* The KMS calls by themselves: what is sealed is opened again. */
static kaws_status
do_kms(kaws_error *err)
{
    kaws_bytes plain = unmask(words[1]);
    size_t room = KAWS_PLAIN_MAX;
    uint8_t *out = mmap(NULL, room, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    kaws_sealed sealed;
    kaws_status status = kaws_kms_encrypt(ring, NULL, plain, &sealed, err);

    if (status == KAWS_OK)
        status = kaws_kms_decrypt(ring, NULL, &sealed, out, &room, err);
    kaws_wipe(out, KAWS_PLAIN_MAX);
    munmap(out, KAWS_PLAIN_MAX);
    unmap(plain);
    return status;
}


/* Gives the key that KMS made, masked. */
static kaws_status
do_data_key(kaws_error *err)
{
    char hex[65];
    uint8_t key[32];
    kaws_sealed sealed;
    size_t i;
    kaws_status status = kaws_kms_generate_data_key(ring, NULL, sizeof key, key,
                                                    &sealed, err);

    for (i = 0; i < sizeof key; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", key[i] ^ MASK);
    kaws_wipe(key, sizeof key);
    (void)snprintf(err->text, sizeof err->text, "%s", hex);
    return status;
}


/* sign SECRET: what is derived from it is looked for. */
static kaws_status
do_sign(kaws_error *err)
{
    static char out[512];
    const char *headers[] = { "Host:kms.us-east-1.amazonaws.com", NULL };
    kaws_bytes secret = unmask(words[1]);
    kaws_creds who = { "AKIDEXAMPLE", (const char *)secret.at, NULL };
    kaws_signing what = { "POST", "/", NULL, "us-east-1", "kms", headers,
                          { NULL, 0 }, 1440938160 };
    kaws_status status = kaws_sign(&what, who, out, sizeof out, err);

    unmap(secret);
    return status;
}


#define JOBS(X) \
    X(open,         do_open(err)) \
    X(check,        kaws_check(ring, err)) \
    X(generate,     kaws_generate(ring, name_of(1), "AES", 32, err)) \
    X(store,        do_store(err)) \
    X(fetch,        do_fetch(err)) \
    X(remove,       kaws_remove(ring, name_of(1), err)) \
    X(use_kms_key,  kaws_use_kms_key(ring, words[1], err)) \
    X(rewrap,       kaws_rewrap_all(ring, err)) \
    X(rotate,       kaws_rotate_kms_key(ring, err)) \
    X(reload_creds, kaws_reload_creds(ring, err)) \
    X(kms,          do_kms(err)) \
    X(data_key,     do_data_key(err)) \
    X(sign,         do_sign(err))


static kaws_status
operate(const char *what, kaws_error *err)
{
#define JOB(name, call) if (strcmp(what, #name) == 0) return call;
    JOBS(JOB)
#undef JOB
    _exit(4);
}


/* Commands that are the test's own; 0 if it is not one. */
static int
command(const char *what)
{
    kaws_bytes plain;

    if (strcmp(what, "search") == 0) {
        search();
        return 1;
    }
    if (strcmp(what, "needle") == 0) {
        add_needle(words[1], words[2]);
    } else if (strcmp(what, "timeout") == 0) {
        kaws_use_timeouts(ring, 0, (int)strtol(words[1], NULL, 10));
    } else if (strcmp(what, "close") == 0) {
        kaws_close(ring);
        ring = NULL;
    } else if (strcmp(what, "plant") == 0) {
        plain = unmask(words[1]);
        plant(plain);
        unmap(plain);
    } else if (strcmp(what, "unplant") == 0) {
        munmap(planted, 4 * WINDOW);
    } else {
        return 0;
    }
    answer("");
    return 1;
}


int
main(void)
{
    kaws_error err;
    char text[700];

    window = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    while (read_command()) {
        if (!command(words[0])) {
            kaws_status status = operate(words[0], &err);
            (void)snprintf(text, sizeof text, "%d %s", (int)status, err.text);
            answer(text);
        }
        kaws_wipe(line, sizeof line);
    }
    kaws_close(ring);
    return 0;
}
