/* world.h - what the tests of the upper rooms share: the fakes, a ring that
 * uses them, and checks of what a call answered
 *
 * Include it after keyring_aws.h with its implementation. Every test gets fakes
 * of its own. When the test ends, the ring is closed, and all memory must have
 * been wiped and given back.
 */

#if !defined(KAWS_WORLD_H)
#define KAWS_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "fakes.h"

struct world {
    struct fake f;
    kaws_config cfg;
    kaws       *ring;
    kaws_error  err;
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

FAKE const char *world_case = "";         /* what a failure is about          */


/* The call must answer `want`, say so in the error, and say why. */
FAKE void
expect_at(int line, const kaws_error *err, kaws_status got, kaws_status want,
          const char *words)
{
    static const kaws_error none;

    if (got != want)
        fail_msg("line %d: %s: '%s' for '%s': %s", line, world_case,
                 kaws_status_text(got), kaws_status_text(want), err->text);
    if (err->status != want)
        fail_msg("line %d: %s: the error says '%s'", line, world_case,
                 kaws_status_text(err->status));
    if (want == KAWS_OK && memcmp(err, &none, sizeof none) != 0)
        fail_msg("line %d: %s: an error of no error: %s", line, world_case,
                 err->text);
    if (want != KAWS_OK && (err->text[0] == '\0' ||
                            strchr(err->text, '\n') != NULL))
        fail_msg("line %d: %s: no sentence: '%s'", line, world_case, err->text);
    if (want != KAWS_OK && words != NULL && strstr(err->text, words) == NULL)
        fail_msg("line %d: %s: '%s' is not in: %s", line, world_case, words,
                 err->text);
}

#define EXPECT(w, want, words, call) \
    expect_at(__LINE__, &(w)->err, call, want, words)


FAKE void
world_open(struct world *w)
{
    EXPECT(w, KAWS_OK, NULL, kaws_open(&w->ring, &w->cfg, &w->err));
    assert_non_null(w->ring);
}


FAKE void
world_close(struct world *w)
{
    kaws_close(w->ring);
    w->ring = NULL;
}


FAKE void
world_reopen(struct world *w)
{
    world_close(w);
    world_open(w);
}


/* A world before its ring is opened: `cfg` may be changed. */
FAKE int
world_begin(void **state)
{
    struct world *w = calloc(1, sizeof *w);

    if (w == NULL)
        return 1;
    fake_init(&w->f);
    w->cfg = fake_config(&w->f);
    *state = w;
    return 0;
}


/* The same, with the ring opened. */
FAKE int
world_begin_open(void **state)
{
    if (world_begin(state) != 0)
        return 1;
    world_open(*state);
    return 0;
}


FAKE int
world_end(void **state)
{
    struct world *w = *state;
    int wrong = 0;

    world_close(w);
    if (w->f.live != 0 || w->f.dirty != 0 || w->f.misfreed != 0) {
        print_error("%lu blocks kept, %lu given back unwiped, %lu with "
                    "another length\n", (unsigned long)w->f.live,
                    (unsigned long)w->f.dirty, (unsigned long)w->f.misfreed);
        wrong = 1;
    }
    if (fake_logged(&w->f, -1, w->f.secret) > 0) {
        print_error("the secret is in the log\n");
        wrong = 1;
    }
    fake_end(&w->f);
    free(w);
    return wrong;
}


/* The same without a data file: KMS calls only. */
FAKE int
world_begin_bare(void **state)
{
    struct world *w;

    if (world_begin(state) != 0)
        return 1;
    w = *state;
    w->cfg.data_file = NULL;
    world_open(w);
    return 0;
}


/* What the KMS says instead of the truth; and nothing of that any more. */
#define SAY(w, ...) fake_push(&(w)->f, (fake_script){ __VA_ARGS__ })
#define SAY_NO_MORE(w) memset((w)->f.scripts, 0, sizeof (w)->f.scripts)

/* After calls in vain, so much later that the next call is sent: a probe. */
#define LATER(w) ((void)((w)->f.now_ms += 5000))


/* Has KMS make a data key, and expects the answer after so many requests. */
FAKE void
ask_at(int line, struct world *w, kaws_status want, const char *words,
       int requests)
{
    kaws_sealed sealed;

    w->f.requests = 0;
    expect_at(line, &w->err, kaws_kms_generate_data_key(w->ring, NULL, 16,
                                                        NULL, &sealed, &w->err),
              want, words);
    if (w->f.requests != requests)
        fail_msg("line %d: %d requests for %d: %s", line, w->f.requests,
                 requests, w->err.text);
}

#define ASK(w, want, words, requests) ask_at(__LINE__, w, want, words, requests)


FAKE kaws_name
name_of(const char *key_id, const char *user_id)
{
    kaws_name name;

    name.key_id = key_id;
    name.user_id = user_id;
    return name;
}


/* ---- files ------------------------------------------------------------- */

/* Reads a whole file; free() it. NULL: it is not there. */
FAKE uint8_t *
slurp(const char *path, size_t *len)
{
    FILE *from = fopen(path, "rb");
    uint8_t *all = NULL;

    *len = 0;
    if (from == NULL)
        return NULL;
    all = calloc(1, 1 << 22);
    assert_non_null(all);
    *len = fread(all, 1, 1 << 22, from);
    fclose(from);
    return all;
}


FAKE int
is_there(struct world *w, const char *suffix)
{
    char path[200];
    struct stat st;

    (void)snprintf(path, sizeof path, "%s%s", w->f.data, suffix);
    return lstat(path, &st) == 0;
}


FAKE void
spill(const char *path, const void *data, size_t len)
{
    FILE *to = fopen(path, "wb");

    assert_non_null(to);
    assert_int_equal(fwrite(data, 1, len, to), len);
    assert_int_equal(fclose(to), 0);
    assert_int_equal(chmod(path, 0600), 0);
}


/* Windows has neither modes nor, for us, links. */
#if defined(_WIN32)
enum { HAS_LINKS = 0 };
#define symlink(to, path) ((void)(to), (void)(path), -1)
#else
enum { HAS_LINKS = 1 };
#endif


FAKE void
has_mode(const char *path, unsigned mode)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    if (HAS_LINKS)
        assert_int_equal(st.st_mode & 07777, mode);
}

#endif /* KAWS_WORLD_H */
