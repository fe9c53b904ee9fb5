/* Room http, in a library that was built without libcurl: the caller's hook
 * sends, and without a hook kaws_open fails and says so. */

#if !defined(KEYRING_AWS_NO_CURL)
#define KEYRING_AWS_NO_CURL
#endif
#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"

#if defined(LIBCURL_VERSION_NUM)
#error "libcurl's header was included"
#endif


static void
test_without_a_hook_open_fails(void **state)
{
    struct world *w = *state;
    kaws *ring = (kaws *)(void *)w;

    w->cfg.hooks.send = NULL;
    EXPECT(w, KAWS_CONFIG, "hooks.send has to be set",
           kaws_open(&ring, &w->cfg, &w->err));
    assert_null(ring);
    assert_int_equal(w->f.live, 0);
}


static void
test_the_hook_sends(void **state)
{
    struct world *w = *state;
    kaws_key key;

    world_open(w);
    EXPECT(w, KAWS_OK, NULL, kaws_generate(w->ring, name_of("k", NULL), "AES",
                                           32, &w->err));
    EXPECT(w, KAWS_OK, NULL, kaws_fetch(w->ring, name_of("k", NULL), &key,
                                        &w->err));
    assert_int_equal(key.len, 32);
    kaws_key_free(w->ring, &key);
    assert_int_equal(fake_calls(&w->f, "Decrypt"), 1);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_without_a_hook_open_fails,
                                        world_begin, world_end),
        cmocka_unit_test_setup_teardown(test_the_hook_sends,
                                        world_begin, world_end)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
