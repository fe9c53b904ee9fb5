/* Room child: programs that we start. They are real ones, mostly the shell. */

#define KEYRING_AWS_IMPLEMENTATION
#include "../../keyring_aws.h"
#include "world.h"
#include "unit.h"

#if !defined(_WIN32)
#include <sys/resource.h>


#define RUN(text, ...) run(text, sizeof text, (char *[]){ __VA_ARGS__, NULL })
#define SHELL(text, script) RUN(text, sh, dash_c, script)

enum { PATIENCE_MS = 20000, NOT_RUN = 1000 };     /* no program's status      */

static char sh[] = "/bin/sh", dash_c[] = "-c";


/* Reads what the program prints, until it has ended. Returns 0 if that does not
 * come about. (In threads cmocka cannot assert anything.) */
static int
collect(kaws__child *c, char *text, size_t room)
{
    const int64_t until = kaws__sys_ticks_ms(NULL) + PATIENCE_MS;
    size_t used = 0, got;
    int ended;

    do {
        ended = kaws__child_ended(c);
        got = kaws__child_read(c, text + used, room - used - 1, ended ? 0 : 20);
        used += got;
    } while ((!ended || got > 0) && kaws__sys_ticks_ms(NULL) < until);
    text[used] = '\0';
    return ended && got == 0;
}


/* What it printed, and its status; or NOT_RUN. */
static int
run(char *text, size_t room, char *const argv[])
{
    kaws__child c;
    int code, well;

    text[0] = '\0';
    if (kaws__child_start(&c, argv) != 0)
        return NOT_RUN;
    well = collect(&c, text, room);
    code = kaws__child_end(&c);
    return well ? code : NOT_RUN;
}


static int
open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (dir != NULL && readdir(dir) != NULL)
        count++;
    if (dir != NULL)
        closedir(dir);
    return count;
}


/* No child is left, not even one that has ended. */
static void
none_left(void)
{
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}


/* Has that process ended? Whoever has it now may not have waited for it. */
static int
is_gone(long pid)
{
    char path[64], text[256];
    FILE *from;
    size_t n;

    (void)snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    if ((from = fopen(path, "r")) == NULL)
        return 1;
    n = fread(text, 1, sizeof text - 1, from);
    fclose(from);
    text[n] = '\0';
    return n == 0 || strstr(text, ") Z ") != NULL ||
           strstr(text, ") X ") != NULL;
}


static void
will_be_gone(long pid)
{
    int tries = 2000;

    while (!is_gone(pid) && tries-- > 0)
        kaws__sys_sleep_ms(NULL, 5);
    assert_true(is_gone(pid));
}


static void
test_it_prints(void **state)
{
    static const struct { const char *script, *says; int status; } rows[] = {
        { "printf hello", "hello", 0 }, { "exit 7", "", 7 }, { "", "", 0 },
        { "printf a; sleep 0.1; printf b; exit 255", "ab", 255 },
        { "kill -9 $$", "", -9 }, { "printf x; kill -TERM $$", "x", -15 },
        { "printf x; exec 1>&-; sleep 0.1; exit 3", "x", 3 },
        { "echo no >&2; printf y", "y", 0 }, { "cat; printf z", "z", 0 },
        { "readlink /proc/self/fd/0 /proc/self/fd/2", "/dev/null\n/dev/null\n",
          0 }
    };
    const int before = open_files();
    char text[256];
    size_t i;

    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        char script[80];
        (void)snprintf(script, sizeof script, "%s", rows[i].script);
        assert_int_equal(SHELL(text, script), rows[i].status);
        assert_string_equal(text, rows[i].says);
    }
    none_left();
    assert_int_equal(open_files(), before);
}


/* Words reach the program as they are, and so does our environment. */
static void
test_words_and_environment(void **state)
{
    char script[] = "printf '%s|' \"$#\" \"$@\" \"$KAWS_TEST\"", text[256];
    char odd[] = "a  b\n$HOME `x` *", none[] = "", last[] = "\"'\\";

    (void)state;
    assert_int_equal(setenv("KAWS_TEST", "seen", 1), 0);
    assert_int_equal(RUN(text, sh, dash_c, script, sh, odd, none, last), 0);
    assert_string_equal(text, "3|a  b\n$HOME `x` *||\"'\\|seen|");
    assert_int_equal(unsetenv("KAWS_TEST"), 0);
}


static void
test_it_cannot_be_started(void **state)
{
    struct world *w = *state;
    const int before = open_files();
    char *argv[2] = { w->f.conf, NULL };
    struct rlimit few, files;
    kaws__child c;

    assert_int_equal(kaws__child_start(&c, argv), EACCES);    /* no program   */
    argv[0] = w->f.data;
    assert_int_equal(kaws__child_start(&c, argv), ENOENT);
    none_left();
    assert_int_equal(open_files(), before);
    argv[0] = sh;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    few = files;
    few.rlim_cur = 4;                     /* 0 to 2, and one of two           */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(kaws__child_start(&c, argv), EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    assert_int_equal(open_files(), before);
}


/* It waits no longer than it is told, and reads no more than there is room. */
static void
test_reading(void **state)
{
    char script[] = "printf abcdefg; sleep 1000", text[4] = "....";
    char *const argv[] = { sh, dash_c, script, NULL };
    int64_t began;
    kaws__child c;

    (void)state;
    assert_int_equal(kaws__child_start(&c, argv), 0);
    assert_true(fcntl(c.fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(kaws__child_read(&c, text, 3, PATIENCE_MS), 3);
    assert_memory_equal(text, "abc.", 4);
    while (kaws__child_read(&c, text, 3, 20) > 0)
        continue;
    began = kaws__sys_ticks_ms(NULL);
    assert_int_equal(kaws__child_read(&c, text, 3, 50), 0);
    assert_true(kaws__sys_ticks_ms(NULL) - began >= 49);
    assert_true(c.fd >= 0 && !kaws__child_ended(&c));
    assert_int_equal(kaws__child_end(&c), -SIGKILL);
    none_left();
    assert_int_equal(c.fd, -1);
}


/* All that it has started ends with it, even if that ignores what can be
 * ignored. */
static void
test_the_group_ends(void **state)
{
    static const char *const scripts[] = {
        "trap '' TERM HUP; (echo $$; while :; do sleep 9; done) & wait",
        "sleep 1000 & echo $!; exit 0",   /* which holds the pipe             */
        "(sleep 1000 & echo $!); exec 1>&-; wait; sleep 1000",
        "sh -c 'sleep 1000 & echo $!; wait'",
        "sh -c 'echo $$; exec sleep 1000' & exit 3"
    };
    char text[64], script[160];
    long pid;
    char *const argv[] = { sh, dash_c, script, NULL };
    kaws__child c;
    int64_t until;
    size_t i, n;
    int code;

    (void)state;
    for (i = 0; i < COUNT(scripts); i++) {
        (void)snprintf(script, sizeof script, "%s", scripts[i]);
        assert_int_equal(kaws__child_start(&c, argv), 0);
        until = kaws__sys_ticks_ms(NULL) + PATIENCE_MS;
        for (n = 0; n == 0 || text[n - 1] != '\n';) {
            assert_true(kaws__sys_ticks_ms(NULL) < until);
            n += kaws__child_read(&c, text + n, sizeof text - n - 1, 1000);
        }
        text[n] = '\0';
        pid = strtol(text, NULL, 10);
        assert_true(pid > 1 && !is_gone(pid));
        while ((i == 1 || i == 4) && !kaws__child_ended(&c))
            assert_true(kaws__sys_ticks_ms(NULL) < until);
        code = kaws__child_end(&c);
        assert_int_equal(code, i == 1 ? 0 : i == 4 ? 3 : -SIGKILL);
        will_be_gone(pid);
        assert_true(is_gone(c.pid));
        none_left();
    }
}


/* It has a process group of its own. */
static void
test_its_group(void **state)
{
    char script[] = "cut -d' ' -f1,5 /proc/$$/stat", text[64];
    long pid, group;

    (void)state;
    assert_int_equal(SHELL(text, script), 0);
    assert_int_equal(sscanf(text, "%ld %ld", &pid, &group), 2);
    assert_true(pid == group && pid > 1 && pid != (long)getpid());
}


/* ---- what the program inherits, and what we keep ------------------------- */

static void
test_no_descriptor_is_inherited(void **state)
{
    struct world *w = *state;
    char ls[] = "/bin/ls", folder[] = "/proc/self/fd", text[256];
    int fds[20];
    size_t i;

    for (i = 0; i < COUNT(fds); i++)
        assert_true((fds[i] = open(w->f.conf, O_RDONLY)) > 2);
    assert_int_equal(RUN(text, ls, folder), 0);
#if defined(__GLIBC__) && __GLIBC_MINOR__ >= 34
    assert_string_equal(text, "0\n1\n2\n3\n");    /* 3: the folder            */
#endif
    for (i = 0; i < COUNT(fds); i++)
        close(fds[i]);
}


static void
note_signal(int number)
{
    (void)number;
}


/* Signals that we block, ignore or handle are not so for the program, and here
 * they remain as they were. */
static void
test_signals(void **state)
{
    static const int kinds[] = { SIGTERM, SIGPIPE, SIGHUP, SIGUSR1, SIGCHLD };
    char grep[] = "/bin/grep", words[] = "^Sig[BI]", text[256];
    char path[] = "/proc/self/status";
    struct sigaction set = { .sa_handler = SIG_IGN }, old[5], now;
    sigset_t block, before, after;
    unsigned long long blocked, ignored;
    size_t i;

    (void)state;
    (void)sigemptyset(&block);
    (void)sigaddset(&block, SIGTERM);
    (void)sigaddset(&block, SIGUSR2);
    for (i = 0; i < 5; i++) {
        set.sa_handler = i < 3 ? SIG_IGN : note_signal;
        assert_int_equal(sigaction(kinds[i], &set, &old[i]), 0);
    }
    assert_int_equal(sigprocmask(SIG_BLOCK, &block, &before), 0);
    assert_int_equal(RUN(text, grep, words, path), 0);
    assert_int_equal(sscanf(text, "SigBlk: %llx SigIgn: %llx",
                            &blocked, &ignored), 2);
    assert_true(blocked == 0 && (ignored & 0x7fffffff) == 0);    /* glibc has 32
                                                 * and 33 for its threads     */
    assert_int_equal(sigprocmask(SIG_SETMASK, &before, &after), 0);
    assert_true(sigismember(&after, SIGTERM) && sigismember(&after, SIGUSR2) &&
                !sigismember(&after, SIGCHLD));
    for (i = 0; i < 5; i++) {
        assert_int_equal(sigaction(kinds[i], &old[i], &now), 0);
        assert_true(now.sa_handler == (i < 3 ? SIG_IGN : note_signal));
    }
}


/* If this process ignores SIGCHLD, the system forgets how a program ended. */
static void
test_children_that_are_ignored(void **state)
{
    struct sigaction set = { .sa_handler = SIG_IGN }, old;
    char script[] = "printf seen; exit 3", hang[] = "exec sleep 1000";
    char held[] = "sleep 1000 & echo $!", *argv[] = { sh, dash_c, hang, NULL };
    char text[64];
    kaws__child c;

    (void)state;
    assert_int_equal(sigaction(SIGCHLD, &set, &old), 0);
    assert_int_equal(SHELL(text, script), 0);
    assert_string_equal(text, "seen");
    assert_int_equal(kaws__child_start(&c, argv), 0);
    assert_int_equal(kaws__child_read(&c, text, sizeof text, 50), 0);
    assert_int_equal(kaws__child_ended(&c), 0);
    assert_int_equal(kaws__child_end(&c), 0);
    assert_true(is_gone(c.pid));
    assert_int_equal(SHELL(text, held), 0);
    will_be_gone(strtol(text, NULL, 10));
    assert_int_equal(sigaction(SIGCHLD, &old, NULL), 0);
    none_left();
}


/* A program that waits for any child takes ours; that hangs nothing. */
static void
test_somebody_waits_for_all(void **state)
{
    char script[] = "exit 3", *const argv[] = { sh, dash_c, script, NULL };
    kaws__child c;
    int status;

    (void)state;
    assert_int_equal(kaws__child_start(&c, argv), 0);
    assert_int_equal(waitpid(-1, &status, 0), c.pid);
    assert_int_equal(kaws__child_ended(&c), 1);
    assert_int_equal(kaws__child_end(&c), 0);
}


/* We wait for no child but ours. */
static void
test_another_child(void **state)
{
    char script[] = "exit 4", text[16];
    pid_t other = fork();
    siginfo_t info;
    int status;

    (void)state;
    if (other == 0)
        _exit(5);
    assert_int_equal(waitid(P_PID, (id_t)other, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(SHELL(text, script), 4);
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_int_equal(WEXITSTATUS(status), 5);
}


/* This process may have closed any of its descriptors 0 to 2, and then the pipe
 * is among these. */
static void
test_without_0_to_2(void **state)
{
    char script[] = "readlink /proc/self/fd/0 /proc/self/fd/2; exit 6";
    int closed, fd, status, code;
    pid_t pid;

    (void)state;
    for (closed = 0; closed < 8; closed++) {
        pid = fork();
        if (pid == 0) {
            char text[64];
            for (fd = 0; fd < 3; fd++)
                if (closed >> fd & 1)
                    close(fd);
            code = SHELL(text, script);
            _exit(code != 6 ? 1 : strcmp(text, "/dev/null\n/dev/null\n") != 0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}


enum { THREADS = 16, ROUNDS = 8 };

static void *
run_often(void *arg)
{
    char script[64], text[64], want[32];
    long *wrong = arg;
    int i;

    for (i = 0; i < ROUNDS && *wrong == 0; i++) {
        (void)snprintf(want, sizeof want, "%p %d", arg, i);
        (void)snprintf(script, sizeof script, "printf '%s'; exit %d", want, i);
        *wrong += SHELL(text, script) != i;
        *wrong += strcmp(text, want) != 0;
    }
    return NULL;
}


/* Each reads to the end of its own program's pipe: no other program has it. */
static void
test_many_at_once(void **state)
{
    pthread_t threads[THREADS];
    long wrong[THREADS] = { 0 };
    const int before = open_files();
    int i;

    (void)state;
    for (i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_often,
                                        &wrong[i]), 0);
    for (i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (i = 0; i < THREADS; i++)
        assert_int_equal(wrong[i], 0);
    none_left();
    assert_int_equal(open_files(), before);
}

#else

/* On Windows no program is started. */
static void
test_none_is_started(void **state)
{
    char path[] = "C:\\windows\\system32\\cmd.exe";
    char *const argv[] = { path, NULL };
    kaws__child c;

    (void)state;
    assert_int_equal(KAWS__CHILDREN, 0);
    assert_int_equal(kaws__child_start(&c, argv), ENOSYS);
    assert_int_equal(c.fd, -1);
}

#endif


int
main(void)
{
    const struct CMUnitTest tests[] = {
#if !defined(_WIN32)
        cmocka_unit_test(test_it_prints),
        cmocka_unit_test(test_words_and_environment),
        cmocka_unit_test(test_reading), cmocka_unit_test(test_the_group_ends),
        cmocka_unit_test(test_its_group),
        cmocka_unit_test_setup_teardown(test_no_descriptor_is_inherited,
                                        world_begin, world_end),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_children_that_are_ignored),
        cmocka_unit_test(test_somebody_waits_for_all),
        cmocka_unit_test(test_another_child),
        cmocka_unit_test(test_without_0_to_2),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test_setup_teardown(test_it_cannot_be_started, world_begin,
                                        world_end)
#else
        cmocka_unit_test(test_none_is_started)
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
