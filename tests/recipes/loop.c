/* loop.c - the recipe of a program without threads, in an event loop
 *
 *     loop KEY_ID...          makes those keys first
 *
 * The loop has one source of events, its input. Lines of it:
 *
 *     ping            answered at once: pong
 *     fetch KEY_ID    answered when the key is there: KEY_ID and a status
 *     quit            ends the program
 */

#include "recipe.h"

#include <poll.h>
#include <unistd.h>

struct my_loop {
    char   line[256];             /* that is not complete                     */
    size_t len;
    char   jobs[8][256];          /* a ring of key ids                        */
    size_t put, taken;
    int    quit;
};


static void
on_line(my_loop *loop)
{
    if (strcmp(loop->line, "ping") == 0)
        puts("pong");
    else if (strcmp(loop->line, "quit") == 0)
        loop->quit = 1;
    else if (strncmp(loop->line, "fetch ", 6) == 0 && loop->put < 8)
        memcpy(loop->jobs[loop->put++], loop->line + 6, 250);
    else
        MUST(loop->line[0] == '\0');
    fflush(stdout);
}


void
my_turn(my_loop *loop, int wait)
{
    struct pollfd in = { .fd = 0, .events = POLLIN };
    char byte;

    while (!loop->quit && poll(&in, 1, wait ? -1 : 0) > 0) {
        if (read(0, &byte, 1) != 1) {
            loop->quit = 1;
        } else if (byte != '\n') {
            MUST(loop->len + 1 < sizeof loop->line);
            loop->line[loop->len++] = byte;
        } else {
            loop->line[loop->len] = '\0';
            loop->len = 0;
            on_line(loop);
            wait = 0;
        }
    }
}


int
my_quit(my_loop *loop)
{
    return loop->quit;
}


const char *
my_next(my_loop *loop)
{
    return loop->taken < loop->put ? loop->jobs[loop->taken++] : NULL;
}


void
my_answer(my_loop *loop, const kaws_key *key, const kaws_error *err)
{
    MUST((key->len == 32) == (err->status == KAWS_OK));
    printf("%s: %s\n", loop->jobs[loop->taken - 1],
           kaws_status_text(err->status));
    fflush(stdout);
}


int
main(int argc, char **argv)
{
    static my_loop loop;
    kaws_config cfg = { .data_file = "keys.kaws", .kms_key_id = "alias/app",
                        .region = "eu-west-1", .conf_file = "keys.conf" };
    kaws_name name = { NULL, "" };
    kaws_error err;
    kaws *ring;
    int i;

    if (kaws_open(&ring, &cfg, &err) != KAWS_OK)
        return recipe_failed(&err);
    for (i = 1; i < argc; i++) {
        name.key_id = argv[i];
        if (kaws_generate(ring, name, "AES", 32, &err) != KAWS_OK)
            return recipe_failed(&err);
    }
    kaws_close(ring);
    return run(&loop);
}
