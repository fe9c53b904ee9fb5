/* main.c - replays inputs without libFuzzer: with gcc, valgrind, on any machine
 *
 *     fuzz_x FILE|FOLDER...     hands each file to the target, folder by folder
 *
 * A target aborts if a check fails. The last line says how many inputs there
 * were. If there was none, the program fails.
 */

#define _XOPEN_SOURCE 700
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static long count;


static int
replay(const char *path, const struct stat *st, int type, struct FTW *where)
{
    size_t size = (size_t)st->st_size;
    uint8_t *data = malloc(size + 1);
    FILE *from;

    if (type == FTW_F && path[where->base] != '.') {
        from = fopen(path, "rb");
        if (from == NULL || data == NULL) {
            perror(path);
            exit(2);
        }
        size = fread(data, 1, size, from);
        (void)fclose(from);
        if (getenv("FUZZ_SHOW") != NULL)
            (void)fprintf(stderr, "%s\n", path);
        (void)LLVMFuzzerTestOneInput(data, size);
        count++;
    }
    free(data);
    return 0;
}


int
main(int argc, char **argv)
{
    int i;

    for (i = 1; i < argc; i++)
        if (nftw(argv[i], replay, 16, FTW_PHYS) != 0) {
            perror(argv[i]);
            return 2;
        }
    (void)printf("%ld inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
