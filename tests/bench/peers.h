/* peers.h - what the library is measured against; see peers.c */

#if !defined(PEERS_H)
#define PEERS_H

#include <stddef.h>

/* A libcurl handle that does one POST, again and again, and nothing else. With
 * `sigv4` ("aws:amz:region:service") libcurl signs each, as CREDS says. */
typedef struct peer_post peer_post;

peer_post *peer_post_open(const char *url, const char *const *headers,
                          const void *body, size_t len, const char *sigv4,
                          const char *creds);
int        peer_post_send(peer_post *p);      /* bytes of the reply, or -1    */
void       peer_post_close(peer_post *p);

/* The lengths of CiphertextBlob, Plaintext and KeyId in a reply, added up. */
size_t     peer_cjson(const char *reply, size_t len);
size_t     peer_jansson(const char *reply, size_t len);

#endif
