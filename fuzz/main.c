/* main.c - replays inputs without libFuzzer: gcc, valgrind and any machine do
 *
 *     fuzz_x FILE|FOLDER...     hands each file to the target, folder by folder
 *
 * A target aborts where something does not hold. The last line says how many
 * inputs there were; none at all is a failure.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* 1: one input more. */
static long
replay_file(const char *path, size_t size)
{
    FILE *from = fopen(path, "rb");
    uint8_t *data = malloc(size + 1);
    size_t got;

    if (from == NULL || data == NULL) {
        perror(path);
        exit(2);
    }
    got = fread(data, 1, size, from);
    (void)fclose(from);
    if (getenv("FUZZ_SHOW") != NULL)
        (void)fprintf(stderr, "%s\n", path);
    (void)LLVMFuzzerTestOneInput(data, got);
    free(data);
    return 1;
}


static long
replay(const char *path)
{
    struct dirent **entries;
    struct stat st;
    long count = 0;
    int i, n;

    if (stat(path, &st) != 0) {
        perror(path);
        exit(2);
    }
    if (!S_ISDIR(st.st_mode))
        return replay_file(path, (size_t)st.st_size);
    n = scandir(path, &entries, NULL, alphasort);
    for (i = 0; i < n; i++) {
        char inner[4096];
        (void)snprintf(inner, sizeof inner, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            count += replay(inner);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return count;
}


int
main(int argc, char **argv)
{
    long count = 0;
    int i;

    for (i = 1; i < argc; i++)
        count += replay(argv[i]);
    (void)printf("%ld inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
