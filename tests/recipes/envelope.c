/* envelope.c - the recipe of a file in an envelope, behind a command line
 *
 *     envelope encrypt|decrypt PATH FROM TO
 */

#include <bearssl.h>

#include "recipe.h"

static uint8_t in[1 << 20], out[(1 << 20) + ENVELOPE];
static const void *open_key;      /* a data key that has to be wiped yet      */

kaws_status __real_kaws_kms_generate_data_key(
    kaws *ring, const kaws_context *ctx, size_t len, uint8_t *plain,
    kaws_sealed *sealed, kaws_error *err);
kaws_status __wrap_kaws_kms_generate_data_key(
    kaws *ring, const kaws_context *ctx, size_t len, uint8_t *plain,
    kaws_sealed *sealed, kaws_error *err);
kaws_status __real_kaws_kms_decrypt(
    kaws *ring, const kaws_context *ctx, const kaws_sealed *sealed,
    uint8_t *plain, size_t *len, kaws_error *err);
kaws_status __wrap_kaws_kms_decrypt(
    kaws *ring, const kaws_context *ctx, const kaws_sealed *sealed,
    uint8_t *plain, size_t *len, kaws_error *err);
void __real_kaws_wipe(void *secret, size_t len);
void __wrap_kaws_wipe(void *secret, size_t len);


kaws_status
__wrap_kaws_kms_generate_data_key(kaws *ring, const kaws_context *ctx,
                                  size_t len, uint8_t *plain,
                                  kaws_sealed *sealed, kaws_error *err)
{
    open_key = plain;
    MUST(len == 32);
    return __real_kaws_kms_generate_data_key(ring, ctx, len, plain, sealed,
                                             err);
}


kaws_status
__wrap_kaws_kms_decrypt(kaws *ring, const kaws_context *ctx,
                        const kaws_sealed *sealed, uint8_t *plain, size_t *len,
                        kaws_error *err)
{
    kaws_status status = __real_kaws_kms_decrypt(ring, ctx, sealed, plain, len,
                                                 err);

    open_key = status == KAWS_OK ? plain : NULL;
    return status;
}


void
__wrap_kaws_wipe(void *secret, size_t len)
{
    if (secret == open_key && len == 32)
        open_key = NULL;
    __real_kaws_wipe(secret, len);
}


static void
save(const char *path, const uint8_t *bytes, size_t len)
{
    FILE *file = fopen(path, "wb");

    MUST(file != NULL && fwrite(bytes, 1, len, file) == len);
    MUST(fclose(file) == 0);
}


int
main(int argc, char **argv)
{
    kaws_config cfg = {
        .kms_key_id = "arn:aws:kms:eu-west-1:111122223333:alias/app",
        .conf_file = "keys.conf"
    };
    kaws_bytes text = { in, 0 };
    size_t len = 0, i;
    kaws_error err;
    FILE *file;
    kaws *ring;

    MUST(argc == 5 && (file = fopen(argv[3], "rb")) != NULL);
    text.len = fread(in, 1, sizeof in, file);
    MUST(fclose(file) == 0);
    if (kaws_open(&ring, &cfg, &err) != KAWS_OK)
        return recipe_failed(&err);
    if (strcmp(argv[1], "encrypt") == 0) {
        if (encrypt_file(ring, argv[2], text, out, &len, &err) == KAWS_OK)
            save(argv[4], out, len);
        else
            MUST(len == 0);
    } else {
        size_t had = text.len;
        /* To the byte: what reads or writes beyond it, is seen. */
        uint8_t *exact = malloc(had > 0 ? had : 1);

        MUST(exact != NULL);
        memcpy(exact, in, had);
        if (decrypt_file(ring, argv[2], exact, had, &text, &err) == KAWS_OK)
            save(argv[4], text.at, text.len);
        else
            MUST(text.len == 0);
        /* Nothing of a text that was not proved stays. */
        for (i = 0; err.status == KAWS_CORRUPT && i < had; i++)
            MUST(exact[i] == 0);
        free(exact);
    }
    MUST(open_key == NULL);
    kaws_close(ring);
    return err.status == KAWS_OK ? 0 : recipe_failed(&err);
}
