/* forks.c - a server that forks: the child tries to use its parent's ring
 *
 * When the child is made, other threads of the parent use the ring: one waits
 * for the file's lock, and the others wait for their turn.
 */

#define KEYRING_AWS_IMPLEMENTATION
#include "guest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>


static void *
add(void *key_id)
{
    kaws_error why;

    MUST(kaws_generate(ring, guest_name(key_id), "AES", 32, &why) == KAWS_OK);
    return NULL;
}


/* The lock that each change of the file takes. */
static void
lock(int fd, short type)
{
    struct flock slot = { .l_type = type, .l_whence = SEEK_SET, .l_start = 1,
                          .l_len = 1 };

    MUST(fcntl(fd, F_OFD_SETLK, &slot) == 0);
}


static void
say(const char *what, kaws_status status)
{
    printf("%s %s\n", what, kaws_status_text(status));
}


/* All that the child tries with a ring that is not its own. */
static void
child(void)
{
    static const kaws_bytes plain = { (const uint8_t *)"secret", 6 };
    static const uint8_t zeros[sizeof(kaws_stats)];
    static const kaws_identity nobody;
    kaws_sealed sealed = { .blob_len = 1 };
    kaws_identity who;
    kaws_stats stats;
    kaws_walk *walk;
    uint8_t room[64];
    size_t len = sizeof room;

    say("fetch", guest_fetch("first", &err));
    printf("says %s\n", err.text);
    say("check", kaws_check(ring, &err));
    say("generate", kaws_generate(ring, guest_name("x"), "AES", 32, &err));
    say("store", kaws_store(ring, guest_name("x"), "AES", plain, &err));
    say("remove", kaws_remove(ring, guest_name("first"), &err));
    say("walk", kaws_walk_begin(ring, &walk, &err));
    MUST(walk == NULL);
    say("use_kms_key", kaws_use_kms_key(ring, "alias/x", &err));
    say("use_region", kaws_use_region(ring, "eu-west-1", &err));
    say("use", kaws_use(ring, "alias/x", "eu-west-1", &err));
    say("try", kaws_try(ring, "alias/x", "eu-west-1", &err));
    say("reload", kaws_reload_creds(ring, &err));
    say("whoami", kaws_whoami(ring, &who, &err));
    MUST(memcmp(&who, &nobody, sizeof who) == 0);
    say("rotate", kaws_rotate_kms_key(ring, &err));
    say("rewrap", kaws_rewrap_all(ring, &err));
    say("refresh", kaws_refresh(ring, &err));
    say("data_key", kaws_kms_generate_data_key(ring, NULL, 16, room, &sealed,
                                               &err));
    say("encrypt", kaws_kms_encrypt(ring, NULL, plain, &sealed, &err));
    say("decrypt", kaws_kms_decrypt(ring, NULL, &sealed, room, &len, &err));
    say("reencrypt", kaws_kms_reencrypt(ring, NULL, &sealed, &sealed, &err));
    say("bad argument", kaws_fetch(ring, guest_name(""), NULL, &err));
    kaws_use_timeouts(ring, 1, 1);
    kaws_use_cache(ring, 60);
    kaws_get_stats(ring, &stats);
    MUST(memcmp(&stats, zeros, sizeof stats) == 0);
    kaws_close(ring);
    printf("child closed\n");
    fflush(stdout);
}


int
main(int argc, char **argv)
{
    static char names[6][16];
    struct stat before, after;
    pthread_t threads[6];
    pid_t pid;
    char path[4096], line[16];
    int i, status, fd;

    MUST(argc == 6);
    guest_open(argv, NULL);
    add((char *)"first");
    (void)snprintf(path, sizeof path, "%s.lock", argv[1]);
    MUST((fd = open(path, O_RDWR)) >= 0);
    lock(fd, F_WRLCK);
    for (i = 0; i < 6; i++) {
        (void)snprintf(names[i], sizeof names[i], "key-%d", i);
        MUST(pthread_create(&threads[i], NULL, add, names[i]) == 0);
    }
    printf("answered\n");                 /* the test waits for that          */
    fflush(stdout);
    MUST(fgets(line, sizeof line, stdin) != NULL);
    usleep(100 * 1000);                   /* all wait for the lock now        */
    if ((pid = fork()) == 0) {
        child();
        _exit(0);
    }
    MUST(waitpid(pid, &status, 0) == pid && status == 0);
    lock(fd, F_UNLCK);
    for (i = 0; i < 6; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    WORKS(guest_fetch("first", &err));
    WORKS(guest_fetch("key-5", &err));
    MUST(stat(argv[1], &before) == 0);
    if (fork() == 0) {                    /* a child of an idle parent        */
        kaws_close(ring);
        _exit(0);
    }
    MUST(wait(&status) > 0 && status == 0);
    MUST(stat(argv[1], &after) == 0);
    MUST(memcmp(&before.st_mtim, &after.st_mtim, sizeof after.st_mtim) == 0);
    WORKS(guest_fetch("first", &err));
    WORKS(kaws_remove(ring, guest_name("key-0"), &err));
    kaws_close(ring);
    printf("parent done\n");
    return 0;
}
