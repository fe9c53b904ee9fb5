/* listener.h - a small HTTP server on this machine, in a thread of its own
 *
 * What it answers is the test's: `answer` reads one request, by listener_hear,
 * and writes what it likes to the connection. If it returns 0, the connection
 * ends.
 */

#if !defined(KAWS_TESTS_LISTENER_H)
#define KAWS_TESTS_LISTENER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

enum { LISTENER_OPEN = 16 };

typedef struct listener {
    int           (*answer)(struct listener *, int fd);
    pthread_t       thread;
    pthread_mutex_t lock;         /* guards the next two                      */
    int             requests;     /* that `answer` has counted                */
    int             connections;
    struct pollfd   open[LISTENER_OPEN];      /* the first listens            */
    nfds_t          count;
    char            url[32];
} listener;


/* Reads one request; 0 if there is none any more. Without a length it has no
 * body. */
static int
listener_hear(int fd, char *text, size_t max)
{
    size_t len = 0;
    char *body, *length;
    ssize_t n;

    do {
        n = recv(fd, text + len, max - 1 - len, 0);
        if (n <= 0)
            return 0;
        len += (size_t)n;
        text[len] = '\0';
        body = strstr(text, "\r\n\r\n");
        length = strstr(text, "Content-Length: ");
    } while (body == NULL || (length != NULL &&
             len < (size_t)(body + 4 - text) + strtoul(length + 16, NULL, 10)));
    return 1;
}


static void *
listener_run(void *arg)
{
    struct timeval most = { 2, 0 };
    listener *v = arg;
    int on = 1, fd;
    nfds_t i;

    while (poll(v->open, v->count, -1) > 0) {
        for (i = v->count - 1; i > 0; i--)
            if (v->open[i].revents != 0 && !v->answer(v, v->open[i].fd)) {
                close(v->open[i].fd);
                v->open[i] = v->open[--v->count];
            }
        if (v->open[0].revents == 0)
            continue;
        v->open[v->count].fd = fd = accept(v->open[0].fd, NULL, NULL);
        if (fd < 0 || v->count == LISTENER_OPEN - 1)
            break;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
        v->open[v->count].events = POLLIN;
        v->open[v->count++].revents = 0;
        pthread_mutex_lock(&v->lock);
        v->connections++;
        pthread_mutex_unlock(&v->lock);
    }
    return NULL;
}


/* 0 if it cannot be had. */
static int
listener_open(listener *v, int (*answer)(listener *, int))
{
    struct sockaddr_in where = { .sin_family = AF_INET };
    socklen_t len = sizeof where;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(v, 0, sizeof *v);
    v->answer = answer;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&where, len) != 0 ||
        listen(fd, LISTENER_OPEN) != 0 ||
        getsockname(fd, (struct sockaddr *)&where, &len) != 0)
        return 0;
    (void)snprintf(v->url, sizeof v->url, "http://127.0.0.1:%d/",
                   ntohs(where.sin_port));
    v->open[0].fd = fd;
    v->open[0].events = POLLIN;
    v->count = 1;
    return pthread_mutex_init(&v->lock, NULL) == 0 &&
           pthread_create(&v->thread, NULL, listener_run, v) == 0;
}


static void
listener_close(listener *v)
{
    (void)shutdown(v->open[0].fd, SHUT_RDWR);
    pthread_join(v->thread, NULL);
    while (v->count > 0)
        close(v->open[--v->count].fd);
    pthread_mutex_destroy(&v->lock);
}

#endif /* KAWS_TESTS_LISTENER_H */
