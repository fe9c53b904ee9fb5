/* rotation.c - the recipe of a service that rotates its keys
 *
 *     rotation THREADS
 *
 * Makes the key "orders-1". Then THREADS threads fetch each key that was made,
 * for ever, while the program obeys lines of its input:
 *
 *     rotate KMS_KEY NEXT     says the verdict, or ASK and the error
 *     refresh                 as the recipe has it for REFRESH
 *     fetches                 says how many fetches there were; all must work
 *     pretend STATUS          the next re-wrap is said to end with that number
 *
 * Each answer is a line.
 */

#include "recipe.h"

#include <pthread.h>
#include <time.h>

#define KEYS 20

/* As many attempts as the recipe's reader has by default. There is less time
 * than AWS KMS's longest pause takes: a call that is asked for it ends at once.
 */
static kaws_config cfg = { .data_file = "keys.kaws", .region = "eu-west-1",
                           .kms_key_id = "alias/one", .timeout_ms = 5000,
                           .conf_file = "keys.conf" };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char id[32]; uint8_t bytes[32]; } keys[KEYS];
static size_t count;
static long fetches;
static int ends;
static int pretended = -1;
static kaws *ring;

kaws_status __real_kaws_rewrap_all(kaws *it, kaws_error *err);
kaws_status __wrap_kaws_rewrap_all(kaws *it, kaws_error *err);


kaws_status
__wrap_kaws_rewrap_all(kaws *it, kaws_error *err)
{
    if (pretended < 0)
        return __real_kaws_rewrap_all(it, err);
    *err = (kaws_error){ .status = (kaws_status)pretended };
    pretended = -1;
    return err->status;
}


/* Fetches a key, or the error. */
static int
fetched(const char *id, uint8_t bytes[32], kaws_error *err)
{
    kaws_name name = { id, "" };
    kaws_key key;

    if (kaws_fetch(ring, name, &key, err) != KAWS_OK)
        return 0;
    MUST(key.len == 32 && strcmp(key.type, "AES") == 0);
    memcpy(bytes, key.bytes, 32);
    kaws_key_free(ring, &key);
    return 1;
}


/* The next key is used from now on. */
static void
publish(const char *id)
{
    kaws_error err;

    MUST(count < KEYS && fetched(id, keys[count].bytes, &err));
    (void)snprintf(keys[count].id, sizeof keys[count].id, "%s", id);
    pthread_mutex_lock(&lock);
    count++;
    pthread_mutex_unlock(&lock);
}


static void *
fetch_all(void *unused)
{
    uint8_t bytes[32];
    kaws_error err;
    size_t i, n;
    int end;

    (void)unused;
    do {
        pthread_mutex_lock(&lock);
        n = count;
        end = ends;
        fetches += (long)n;
        pthread_mutex_unlock(&lock);
        for (i = 0; i < n; i++) {
            if (!fetched(keys[i].id, bytes, &err)) {
                fprintf(stderr, "fetching %s: %s\n", keys[i].id, err.text);
                exit(3);
            }
            MUST(memcmp(bytes, keys[i].bytes, 32) == 0);
        }
        nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    } while (!end);
    return NULL;
}


static void
obey(char *line)
{
    static const char *const words[] = { "DONE", "LATER", "REFRESH", "ASK" };
    char what[16], kms_key[256], next[32];
    kaws_error err;
    enum verdict it;

    MUST(sscanf(line, "%15s %255s %31s", what, kms_key, next) >= 1);
    if (strcmp(what, "rotate") == 0) {
        it = rotate(ring, kms_key, next, &err);
        if (it == DONE && strcmp(next, keys[count - 1].id) != 0)
            publish(next);
        printf("%s %s\n", words[it], err.text);
    } else if (strcmp(what, "refresh") == 0) {
        if (kaws_refresh(ring, &err) != KAWS_OK)
            exit(recipe_failed(&err));
        puts("fresh");
    } else if (strcmp(what, "pretend") == 0) {
        pretended = (int)strtol(kms_key, NULL, 10);
        puts("yes");
    } else {
        pthread_mutex_lock(&lock);
        printf("%ld\n", fetches);
        pthread_mutex_unlock(&lock);
    }
    fflush(stdout);
}


int
main(int argc, char **argv)
{
    long i, threads = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
    kaws_name first = { "orders-1", "" };
    pthread_t ids[16];
    char line[512];
    kaws_error err;

    MUST(threads >= 1 && threads <= 16);
    if (kaws_open(&ring, &cfg, &err) != KAWS_OK ||
        kaws_generate(ring, first, "AES", 32, &err) != KAWS_OK)
        return recipe_failed(&err);
    publish("orders-1");
    for (i = 0; i < threads; i++)
        MUST(pthread_create(&ids[i], NULL, fetch_all, NULL) == 0);
    while (fgets(line, sizeof line, stdin) != NULL)
        obey(line);
    pthread_mutex_lock(&lock);
    ends = 1;
    pthread_mutex_unlock(&lock);
    for (i = 0; i < threads; i++)
        MUST(pthread_join(ids[i], NULL) == 0);
    kaws_close(ring);
    return 0;
}
