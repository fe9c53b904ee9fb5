/* peers.c - what the library is measured against
 *
 * The least that others have to do for the same result: a bare libcurl POST of
 * bytes that are there already, libcurl's own SigV4, and two JSON libraries
 * reading a reply of KMS.
 */

#include "peers.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct peer_post {
    CURL *easy;
    struct curl_slist *headers;
    size_t have;
    char reply[16384];
};


static size_t
on_body(char *data, size_t size, size_t count, void *to)
{
    peer_post *p = to;

    if (size * count > sizeof p->reply - p->have)
        return 0;
    memcpy(p->reply + p->have, data, size * count);
    p->have += size * count;
    return size * count;
}


peer_post *
peer_post_open(const char *url, const char *const *headers, const void *body,
               size_t len, const char *sigv4, const char *creds)
{
    peer_post *p = calloc(1, sizeof *p);

    if (p == NULL)
        return NULL;
    p->easy = curl_easy_init();
    p->headers = curl_slist_append(NULL, "Expect:");
    for (; *headers != NULL; headers++)
        p->headers = curl_slist_append(p->headers, *headers);
    curl_easy_setopt(p->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(p->easy, CURLOPT_URL, url);
    curl_easy_setopt(p->easy, CURLOPT_HTTPHEADER, p->headers);
    curl_easy_setopt(p->easy, CURLOPT_POSTFIELDSIZE, (long)len);
    curl_easy_setopt(p->easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(p->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(p->easy, CURLOPT_WRITEDATA, p);
    if (sigv4 != NULL) {
        curl_easy_setopt(p->easy, CURLOPT_AWS_SIGV4, sigv4);
        curl_easy_setopt(p->easy, CURLOPT_USERPWD, creds);
    }
    return p;
}


int
peer_post_send(peer_post *p)
{
    p->have = 0;
    return curl_easy_perform(p->easy) == CURLE_OK ? (int)p->have : -1;
}


void
peer_post_close(peer_post *p)
{
    curl_easy_cleanup(p->easy);
    curl_slist_free_all(p->headers);
    free(p);
}


static const char *const wanted[] = { "CiphertextBlob", "Plaintext", "KeyId" };


size_t
peer_cjson(const char *reply, size_t len)
{
    cJSON *root = cJSON_ParseWithLength(reply, len);
    const char *text;
    size_t i, sum = 0;

    for (i = 0; i < 3; i++) {
        text = cJSON_GetStringValue(
            cJSON_GetObjectItemCaseSensitive(root, wanted[i]));
        sum += text != NULL ? strlen(text) : 0;
    }
    cJSON_Delete(root);
    return sum;
}


size_t
peer_jansson(const char *reply, size_t len)
{
    json_t *root = json_loadb(reply, len, JSON_REJECT_DUPLICATES, NULL);
    size_t i, sum = 0;

    for (i = 0; i < 3; i++)
        sum += json_string_length(json_object_get(root, wanted[i]));
    json_decref(root);
    return sum;
}
