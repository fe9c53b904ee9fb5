/* plain_sender.h - a `send` hook over plain sockets, as a stranger may write it
 * for a machine without libcurl: a new connection for each request
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>


/* Reads one head, and hands over its lines. Returns the HTTP status, or 0. */
static int
plain_head(FILE *in, kaws_reply *r)
{
    char *line = NULL;
    size_t max = 0;
    ssize_t len;
    int http = 0;

    while ((len = getline(&line, &max, in)) > 0 && *line != '\r' &&
           *line != '\n') {
        (void)sscanf(line, "HTTP/1.%*d %d", &http);
        kaws_reply_line(r, line, (size_t)len);
    }
    free(line);
    return len > 0 ? http : 0;
}


static int
plain_talk(FILE *io, const kaws_request *q, const char *how, kaws_reply *r)
{
    const char *path = strchr(strstr(q->url, "//") + 2, '/');
    size_t i;

    fprintf(io, "%s %s HTTP/1.1\r\nConnection: close\r\n", how, path);
    for (i = 0; q->headers[i] != NULL; i++)
        fprintf(io, "%s\r\n", q->headers[i]);
    if (how[0] == 'P')
        fprintf(io, "Content-Length: %lu\r\n", (unsigned long)q->body.len);
    fprintf(io, "\r\n");
    if (q->body.len > 0)
        fwrite(q->body.at, 1, q->body.len, io);
    fflush(io);
    do
        r->http = plain_head(io, r);
    while (r->http / 100 == 1);
    if (strcmp(how, "HEAD") == 0 || r->http == 204 || r->http == 304)
        return r->http;
    r->body_len = fread(r->body, 1, r->body_max, io);
    if (getc(io) != EOF)
        r->body_len = r->body_max + 1;
    return r->http;
}


static int
plain_send(void *ctx, const kaws_request *q, kaws_reply *r)
{
    static const char *const known[] = { "POST", "GET", "HEAD", "PUT" };
    const char *how = q->method != NULL ? q->method : "POST", *port;
    struct sockaddr_in to = { .sin_family = AF_INET };
    struct timeval most = { q->timeout_ms / 1000,
                            q->timeout_ms % 1000 * 1000 };
    size_t i = 0;
    FILE *io;
    int fd;

    ++*(int *)ctx;
    while (i < 4 && strcmp(known[i], how) != 0)
        i++;
    if (i == 4) {
        (void)snprintf(r->text, sizeof r->text, "cannot send %s", how);
        return 1;
    }
    port = strchr(q->url + 7, ':');
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port == NULL ? 80
                        : (unsigned short)strtol(port + 1, NULL, 10));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 ||
        (io = fdopen(fd, "r+")) == NULL) {
        (void)snprintf(r->text, sizeof r->text, "cannot connect");
        close(fd);
        return 1;
    }
    if (plain_talk(io, q, how, r) == 0)
        (void)snprintf(r->text, sizeof r->text, "no reply came");
    fclose(io);
    return r->http == 0;
}
