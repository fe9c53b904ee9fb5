/* Room table: against a plain array, with random changes, names that
 * collide, and removals that wrap around the table's end. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

enum { MODEL_MAX = 6000 };

typedef struct model_entry {
    char     key_id[24], user_id[24];
    int      version;                     /* tells one from its successor     */
    uint64_t serial;
} model_entry;

typedef struct both {                     /* the table, and what it should be */
    struct world *w;
    kaws__table   t;
    model_entry   model[MODEL_MAX];
    size_t        count;
    int           versions;
} both;


static kaws__entry *
entry_of(both *b, const char *key_id, const char *user_id, int version)
{
    kaws__record r = {
        kaws__buf_of(key_id), kaws__buf_of(user_id), kaws__buf_of("AES"),
        kaws__buf_of(FAKE_EAST), kaws__buf_of(""),
        { (const uint8_t *)&version, sizeof version }, 32, 0, { NULL, 0 }
    };
    kaws__buf buf;
    kaws__entry *e;

    kaws__buf_init(&buf, &fake_plain);
    kaws__store_record(&buf, &r);
    e = kaws__table_new(&b->w->f.hooks, kaws__buf_view(&buf));
    kaws__buf_free(&buf);
    return e;
}


static int
version_of(const kaws__entry *e)
{
    kaws_bytes record = kaws__table_record(e);
    int version;

    memcpy(&version, record.at + record.len - sizeof version, sizeof version);
    return version;
}


static size_t
model_find(const both *b, const char *key_id, const char *user_id)
{
    size_t i;

    for (i = 0; i < b->count; i++)
        if (strcmp(b->model[i].key_id, key_id) == 0 &&
            strcmp(b->model[i].user_id, user_id) == 0)
            break;
    return i;
}


static kaws__entry *
find(const both *b, const char *key_id, const char *user_id)
{
    uint64_t hash;

    return kaws__table_find(&b->t, kaws__buf_of(key_id),
                            kaws__buf_of(user_id), &hash);
}


/* The whole table says what the model says. */
static void
agree(const both *b)
{
    size_t i, used = 0;

    assert_int_equal(b->t.count, b->count);
    for (i = 0; i < b->count; i++) {
        const model_entry *m = &b->model[i];
        const kaws__row *p = &b->t.rows[i];
        assert_int_equal(version_of(p->entry), m->version);
        assert_int_equal(p->serial, m->serial);
        assert_true(i == 0 || p->serial > p[-1].serial);
        assert_ptr_equal(find(b, m->key_id, m->user_id), p->entry);
        assert_int_equal(kaws__table_from(&b->t, p->serial), i);
        assert_int_equal(kaws__table_from(&b->t, p->serial + 1), i + 1);
    }
    for (i = 0; i < b->t.slot_count; i++)
        used += b->t.slots[i].entry != NULL;
    assert_int_equal(used, b->count);
    assert_true(used * 8 <= b->t.slot_count * 7);
    assert_int_equal(b->t.slot_count & (b->t.slot_count - 1), 0);
}


static void
add(both *b, const char *key_id, const char *user_id)
{
    model_entry *m = &b->model[b->count];
    kaws__entry *e;

    assert_true(kaws__table_reserve(&b->t, 1));
    e = entry_of(b, key_id, user_id, ++b->versions);
    assert_non_null(e);
    assert_true(kaws__table_add(&b->t, e));
    (void)snprintf(m->key_id, sizeof m->key_id, "%s", key_id);
    (void)snprintf(m->user_id, sizeof m->user_id, "%s", user_id);
    m->version = b->versions;
    m->serial = b->t.rows[b->count].serial;
    b->count++;
}


static void
take_out(both *b, size_t i)
{
    kaws__table_remove(&b->t, find(b, b->model[i].key_id,
                                   b->model[i].user_id));
    b->count--;
    memmove(b->model + i, b->model + i + 1,
            (b->count - i) * sizeof b->model[0]);
}


static void
swap(both *b, size_t i)
{
    kaws__entry *e = entry_of(b, b->model[i].key_id, b->model[i].user_id,
                              ++b->versions);

    assert_non_null(e);
    kaws__table_swap(&b->t, i, e);
    b->model[i].version = b->versions;
}


static both *
begin_both(struct world *w, uint64_t seed)
{
    both *b = calloc(1, sizeof *b);
    uint64_t seeds[2] = { 0, 12345 };

    assert_non_null(b);
    b->w = w;
    seeds[0] = seed;
    kaws__table_open(&b->t, &w->f.hooks, seeds);
    return b;
}


static void
end_both(both *b)
{
    kaws__table_close(&b->t);
    kaws__table_close(&b->t);
    assert_int_equal(b->w->f.live, 0);
    free(b);
}


static uint64_t chance;


static size_t
random_below(size_t n)
{
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(chance >> 33) % n;
}


/* ---- tests ------------------------------------------------------------- */

/* An empty table; an entry that is swapped keeps its row and its serial; a name
 * that is there already is not added. */
static void
test_entries_are_added_and_swapped(void **state)
{
    both *b = begin_both(*state, 1);
    kaws__entry *e;
    uint64_t serial;

    assert_null(find(b, "a", ""));
    assert_int_equal(kaws__table_from(&b->t, 0), 0);
    assert_true(kaws__table_reserve(&b->t, 1));
    assert_null(find(b, "a", ""));
    add(b, "a", "");
    take_out(b, 0);
    agree(b);
    assert_null(find(b, "a", ""));
    add(b, "a", "");
    add(b, "b", "u");
    add(b, "c", "");
    serial = b->t.rows[1].serial;
    swap(b, 1);
    assert_int_equal(b->t.rows[1].serial, serial);
    agree(b);
    e = entry_of(b, "b", "u", 99);
    assert_false(kaws__table_add(&b->t, e));
    kaws__table_discard(&b->w->f.hooks, e);
    kaws__table_discard(&b->w->f.hooks, NULL);
    agree(b);
    take_out(b, 1);
    add(b, "b", "u");                     /* made again: at the end           */
    assert_int_equal(b->t.rows[2].serial, serial + 2);
    agree(b);
    end_both(b);
}


/* Names differ if any byte differs, or the place where key id and user id
 * divide. */
static void
test_different_names_are_told_apart(void **state)
{
    static const char *const names[][2] = {
        { "ab", "" }, { "a", "b" }, { "abc", "" }, { "ab", "c" },
        { "a", "bc" }, { "ABC", "" }, { "abcdefgh", "" }, { "abcdefgh", "i" },
        { "abcdefghi", "" }, { "abcdefg", "hi" }, { "\xff", "" },
        { "\xff\xff", "" }, { "\x01", "" }, { "a ", "" }, { " a", "" }
    };
    both *b = begin_both(*state, 7);
    char longest[256], other[256];
    size_t i;

    for (i = 0; i < COUNT(names); i++)
        add(b, names[i][0], names[i][1]);
    agree(b);
    assert_null(find(b, "a", ""));
    assert_null(find(b, "", "ab"));
    assert_null(find(b, "abcdefghij", ""));
    end_both(b);

    b = begin_both(*state, 8);
    memset(longest, 'x', 255);
    longest[255] = '\0';
    assert_true(kaws__table_reserve(&b->t, 1));
    assert_true(kaws__table_add(&b->t, entry_of(b, longest, longest, 1)));
    for (i = 0; i < 255; i++) {           /* no byte goes unseen              */
        memcpy(other, longest, sizeof other);
        other[i] = 'y';
        assert_null(find(b, other, longest));
        assert_null(find(b, longest, other));
    }
    assert_non_null(find(b, longest, longest));
    end_both(b);
}


/* Few names, so that most operations hit. */
static void
churn(both *b, int rounds, size_t names)
{
    char key[24], user[24];
    size_t i;

    while (rounds-- > 0) {
        (void)snprintf(key, sizeof key, "key%lu",
                       (unsigned long)random_below(names));
        (void)snprintf(user, sizeof user, "%lu",
                       (unsigned long)random_below(3));
        if (user[0] == '0')
            user[0] = '\0';
        i = model_find(b, key, user);
        if (i == b->count) {
            assert_null(find(b, key, user));
            add(b, key, user);
        } else if (random_below(4) == 0) {
            swap(b, i);
        } else {
            take_out(b, i);
        }
        if (rounds % (5 + (int)names / 8) == 0)
            agree(b);
    }
    agree(b);
}


static void
test_random_changes_match_an_array(void **state)
{
    static const struct { int rounds; size_t names; } runs[] = {
        { 4000, 3 }, { 4000, 12 }, { 3000, 40 }, { 600, 500 }, { 9000, 3000 }
    };
    size_t i;

    chance = 11;
    for (i = 0; i < COUNT(runs); i++) {
        both *b = begin_both(*state, chance);
        churn(b, runs[i].rounds, runs[i].names);
        while (b->count > 0)
            take_out(b, random_below(b->count));
        agree(b);
        end_both(b);
    }
}


/* Names that all hash to the last slots, so runs of them go around the table's
 * end. They are removed in every order. */
static void
test_removal_wraps_around_the_end(void **state)
{
    both *b = begin_both(*state, 3);
    char names[9][24];
    size_t n = 0, order, left, pick, i;
    unsigned long k;

    for (k = 0; n < COUNT(names); k++) {
        uint32_t at;
        (void)snprintf(names[n], sizeof names[n], "w%lu", k);
        at = kaws__table_hash(&b->t, kaws__buf_of(names[n]),
                              kaws__buf_of("")) & 31;
        n += at == 30 || at == 31 || (at == 0 && n > 5);
    }
    for (order = 0; order < 5040; order++) {
        size_t rest = order;
        int out[9] = { 0 };
        for (i = 0; i < n; i++)
            add(b, names[(i + order) % n], "");
        assert_int_equal(b->t.slot_count, 32);
        assert_non_null(b->t.slots[31].entry);
        assert_non_null(b->t.slots[0].entry);
        for (left = 7; left > 0; left--) {
            pick = rest % left;
            rest /= left;
            for (i = 0; ; i++)
                if (!out[i] && pick-- == 0)
                    break;
            out[i] = 1;
            take_out(b, model_find(b, names[i], ""));
            agree(b);
        }
        while (b->count > 0)
            take_out(b, 0);
    }
    end_both(b);
}


static int
by_hash(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}


/* The n-th of many names, which differ in the key id or in the user id. */
static void
nth_name(char key[24], char user[24], uint64_t n)
{
    (void)snprintf(key, 24, "c%lu", n % 2 ? 0 : (unsigned long)n);
    (void)snprintf(user, 24, "c%lu", n % 2 ? (unsigned long)n : 0);
}


/* Different names with the same hash, which the test finds among many. */
static void
test_names_with_one_hash(void **state)
{
    enum { TRIED = 400000 };
    both *b = begin_both(*state, 5);
    uint64_t *all = calloc(TRIED, sizeof *all), k;
    char key[24], user[24], key2[24], user2[24];
    size_t i, pairs = 0;

    assert_non_null(all);
    for (k = 0; k < TRIED; k++) {
        nth_name(key, user, k);
        all[k] = (uint64_t)kaws__table_hash(&b->t, kaws__buf_of(key),
                                            kaws__buf_of(user)) << 32 | k;
    }
    qsort(all, TRIED, sizeof *all, by_hash);
    for (i = 1; i < TRIED; i++) {
        if (all[i] >> 32 != all[i - 1] >> 32)
            continue;
        nth_name(key, user, all[i] & 0xffffffff);
        nth_name(key2, user2, all[i - 1] & 0xffffffff);
        add(b, key, user);
        assert_null(find(b, key2, user2));
        add(b, key2, user2);
        agree(b);
        take_out(b, pairs % 2 ? model_find(b, key, user)
                              : model_find(b, key2, user2));
        agree(b);
        pairs++;
    }
    assert_in_range(pairs, 3, 120);
    assert_true(b->count == pairs);
    free(all);
    end_both(b);
}


/* Without memory nothing changes, and what was reserved can be used. */
static void
test_no_memory_changes_nothing(void **state)
{
    struct world *w = *state;
    both *b = begin_both(w, 9);
    char key[24];
    unsigned long k;
    size_t n;

    for (k = 0; k < 200; k++) {
        (void)snprintf(key, sizeof key, "m%lu", k);
        for (n = 1; ; n++) {
            w->f.fail_nth = w->f.allocs + n;
            if (kaws__table_reserve(&b->t, 1))
                break;
            agree(b);
        }
        w->f.fail_nth = w->f.allocs + 1;
        assert_null(entry_of(b, key, "", 0));
        w->f.fail_nth = 0;
        add(b, key, "");
    }
    n = w->f.allocs;                      /* more than there can be           */
    assert_false(kaws__table_reserve(&b->t, SIZE_MAX));
    assert_false(kaws__table_reserve(&b->t, SIZE_MAX / 64));
    assert_int_equal(w->f.allocs, n);
    agree(b);
    end_both(b);
}


/* Adds `count` entries as they stand in a file: one after the other, each with
 * a digest behind it. Returns where the image begins. */
static const uint8_t *
add_image(both *b, size_t count)
{
    size_t at[8], i;
    kaws_bytes image;
    kaws__buf bytes;

    kaws__buf_init(&bytes, &b->w->f.hooks);
    for (i = 0; i < count; i++) {
        model_entry *m = &b->model[b->count + i];
        kaws__entry *e;
        (void)snprintf(m->key_id, sizeof m->key_id, "i%u", (unsigned)i);
        m->user_id[0] = '\0';
        m->version = ++b->versions;
        m->serial = b->t.next_serial + i;
        e = entry_of(b, m->key_id, "", m->version);
        at[i] = bytes.len;
        kaws__buf_put(&bytes, e, kaws__table_record(e).len);
        kaws__buf_put(&bytes, "a digest, or what looks like one", 32);
        kaws__table_discard(&b->w->f.hooks, e);
    }
    image = kaws__table_adopt(&b->t, &bytes);
    assert_null(bytes.at);
    assert_true(kaws__table_reserve(&b->t, count));
    for (i = 0; i < count; i++)
        assert_true(kaws__table_add(&b->t, (kaws__entry *)(b->t.image.at +
                                                           at[i])));
    b->count += count;
    return image.at;
}


/* Entries that point into the file's bytes. Each is wiped when it is removed or
 * replaced, and the bytes are given back with the last one. */
static void
test_the_image_is_wiped_and_given_back(void **state)
{
    both *b = begin_both(*state, 3);
    const uint8_t *image = add_image(b, 5);
    size_t len = kaws__table_record(b->t.rows[1].entry).len, i;
    const uint8_t *second = (const uint8_t *)b->t.rows[1].entry;

    assert_int_equal(b->t.image_entries, 5);
    assert_ptr_equal(b->t.rows[0].entry, image);
    agree(b);
    take_out(b, 1);
    for (i = 0; i < len; i++)
        assert_int_equal(second[i], 0);
    assert_memory_equal(second + len, "a digest", 8);
    agree(b);
    add(b, "own", "");
    add(b, "another", "u");
    swap(b, 0);
    swap(b, 3);
    take_out(b, 3);
    agree(b);
    take_out(b, 3);
    assert_int_equal(b->t.image_entries, 2);
    assert_ptr_equal(b->t.image.at, image);
    while (b->t.image_entries > 1)
        take_out(b, b->count - 1);
    assert_ptr_equal(b->t.image.at, image);
    swap(b, b->count - 1);
    assert_null(b->t.image.at);
    agree(b);
    end_both(b);
}


/* A ring that is closed, or whose file was refused half way, gives back all
 * memory. */
static void
test_closing_gives_the_image_back(void **state)
{
    both *b = begin_both(*state, 6);
    kaws__buf none;

    (void)add_image(b, 8);
    add(b, "own", "");
    swap(b, 2);
    end_both(b);

    b = begin_both(*state, 6);
    kaws__buf_init(&none, &b->w->f.hooks);
    kaws__buf_text(&none, "a header, and no entries");
    (void)kaws__table_adopt(&b->t, &none);
    add(b, "own", "");
    agree(b);
    end_both(b);
}


int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        TEST(test_entries_are_added_and_swapped),
        TEST(test_different_names_are_told_apart),
        TEST(test_random_changes_match_an_array),
        TEST(test_removal_wraps_around_the_end),
        TEST(test_names_with_one_hash),
        TEST(test_no_memory_changes_nothing),
        TEST(test_the_image_is_wiped_and_given_back),
        TEST(test_closing_gives_the_image_back)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
