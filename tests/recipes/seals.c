/* seals.c - the recipe of a client that seals and a server that opens
 *
 *     seals client|server FROM < in > out
 */

#include "recipe.h"


int
main(int argc, char **argv)
{
    uint8_t in[KAWS_SEALED_PACKED_MAX + 1], out[KAWS_SEALED_PACKED_MAX];
    int seals = argc == 3 && strcmp(argv[1], "client") == 0;
    size_t len = seals ? KAWS_SEALED_PACKED_MAX : KAWS_PLAIN_MAX;
    kaws_bytes bytes = { in, fread(in, 1, sizeof in, stdin) };
    kaws_error err;
    kaws *ring;

    MUST(seals || (argc == 3 && strcmp(argv[1], "server") == 0));
    if (kaws_open(&ring, seals ? &client : &server, &err) == KAWS_OK)
        (void)(seals ? client_seal : server_open)(ring, argv[2], bytes, out,
                                                  &len, &err);
    kaws_close(ring);
    if (err.status != KAWS_OK)
        return recipe_failed(&err);
    MUST(fwrite(out, 1, len, stdout) == len && fflush(stdout) == 0);
    kaws_wipe(in, sizeof in);
    kaws_wipe(out, sizeof out);
    return 0;
}
