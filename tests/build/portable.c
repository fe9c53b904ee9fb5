/* portable.c - a keyring that is the same on every machine
 *
 *     portable write FOLDER    makes FOLDER/data, always of the same bytes
 *     portable read FOLDER     opens it, and every key in it
 *
 * Clock, chance and KMS are fakes.h's, so that nothing depends on the moment.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "../unit/fakes.h"

static const struct {
    const char *key_id, *user_id, *type, *plain;
} portable_keys[] = {
    { "INNODBKey-1", "", "AES", "0123456789abcdef0123456789abcdef" },
    { "a", "someone@localhost", "SECRET", "correct horse" },
    { "\xc3\xa4 key, \"odd\"\n%", "\xff", "RSA", "x" },
    { "long", "", "DSA", "a longer one, of no multiple of any word's size...." }
};


static int
portable_say(const char *what, const kaws_error *err)
{
    printf("%s: %s\n", what, err->text);
    return 1;
}


static int
portable_write(kaws *ring)
{
    kaws_name made = { "made by KMS", NULL }, gone = { "gone", NULL };
    kaws_error err;
    size_t i;

    if (kaws_generate(ring, gone, "AES", 16, &err) != KAWS_OK ||
        kaws_generate(ring, made, "AES", 32, &err) != KAWS_OK)
        return portable_say("generate", &err);
    for (i = 0; i < sizeof portable_keys / sizeof portable_keys[0]; i++) {
        kaws_name name = { portable_keys[i].key_id, portable_keys[i].user_id };
        if (kaws_store(ring, name, portable_keys[i].type,
                       kaws__buf_of(portable_keys[i].plain), &err) != KAWS_OK)
            return portable_say("store", &err);
        if (i == 1 && (kaws_rotate_kms_key(ring, &err) != KAWS_OK ||
                       kaws_rewrap_all(ring, &err) != KAWS_OK ||
                       kaws_remove(ring, gone, &err) != KAWS_OK))
            return portable_say("change", &err);
    }
    return 0;
}


static int
portable_read(kaws *ring)
{
    kaws_name made = { "made by KMS", NULL };
    kaws_stats stats;
    kaws_error err;
    kaws_key key;
    size_t i;
    int bad;

    kaws_get_stats(ring, &stats);
    if (stats.keys != 5 || kaws_fetch(ring, made, &key, &err) != KAWS_OK)
        return portable_say("the key that KMS made", &err);
    kaws_key_free(ring, &key);
    for (i = 0; i < sizeof portable_keys / sizeof portable_keys[0]; i++) {
        kaws_name name = { portable_keys[i].key_id, portable_keys[i].user_id };
        kaws_bytes want = kaws__buf_of(portable_keys[i].plain), got;
        if (kaws_fetch(ring, name, &key, &err) != KAWS_OK)
            return portable_say("fetch", &err);
        got.at = key.bytes;
        got.len = key.len;
        bad = !kaws__buf_same(got, want) ||
              strcmp(key.type, portable_keys[i].type) != 0;
        kaws_key_free(ring, &key);
        if (bad)
            return puts("not the key that was stored"), 1;
    }
    return 0;
}


int
main(int argc, char **argv)
{
    struct fake f;
    kaws_config cfg;
    kaws_error err;
    kaws *ring;
    char path[512];
    int failed;

    if (argc != 3)
        return 2;
    (void)snprintf(path, sizeof path, "%s/data", argv[2]);
    fake_init(&f);
    f.keys[0].material = 1;               /* one rotation is behind it        */
    cfg = fake_config(&f);
    cfg.data_file = path;
    cfg.rewrap_parallel = 1;
    if (strcmp(argv[1], "write") == 0)
        f.keys[0].material = 0;
    if (kaws_open(&ring, &cfg, &err) != KAWS_OK)
        failed = portable_say("open", &err);
    else
        failed = strcmp(argv[1], "write") == 0 ? portable_write(ring)
                                               : portable_read(ring);
    if (ring != NULL)
        kaws_close(ring);
    fake_end(&f);
    if (!failed)
        puts("ok");
    return failed;
}
