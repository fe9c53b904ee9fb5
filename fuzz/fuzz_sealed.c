/* Room pack: bytes that anybody may have sent as a packed sealed value.
 *
 * The first byte of the input says whether the lengths are corrected, as a
 * forger would do it. The next two bytes say where the rest is cut, and which
 * of its bits is flipped. Room pack must accept exactly what a plain reading of
 * the manual's section 7 accepts, and packing that again must give the same
 * bytes. The rest is also packed as if it were a kaws_sealed.
 */

#include "fuzz.h"

#include <regex.h>

enum { FIXED = 16 };


static size_t
number_at(const uint8_t *at)
{
    kaws_bytes in = { at, 2 };

    return (size_t)fuzz_number(&in, 2);
}


/* Sets the blob's length to what the two texts leave. */
static void
mend(uint8_t *at, size_t len)
{
    size_t texts, blob;

    if (len < FIXED)
        return;
    texts = number_at(at + 10) + number_at(at + 12);
    blob = texts <= len - FIXED ? len - FIXED - texts : 0;
    at[14] = (uint8_t)blob;
    at[15] = (uint8_t)(blob >> 8);
}


/* ---- the manual's section 7, read plainly ------------------------------ */

static int
is_like(kaws_bytes text, const char *pattern)
{
    regex_t compiled;
    char copy[256];
    int like;

    if (!kaws__buf_copy_text(copy, sizeof copy, text))
        return 0;
    HOLDS(regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB) == 0);
    like = regexec(&compiled, copy, 0, NULL, 0) == 0;
    regfree(&compiled);
    return like;
}


static int
may_unpack(kaws_bytes in)
{
    kaws_bytes rest = in, head = fuzz_take(&rest, FIXED), arn, material;
    size_t a, m, b;

    if (in.len < FIXED || memcmp(head.at, "KAWSSEAL\1", 10) != 0)
        return 0;
    a = number_at(head.at + 10);
    m = number_at(head.at + 12);
    b = number_at(head.at + 14);
    if (in.len != FIXED + a + m + b || b == 0 || b > 6144 || a > 255)
        return 0;
    arn = fuzz_take(&rest, a);
    material = fuzz_take(&rest, m);
    return is_like(arn, "^arn:aws[a-z-]*:kms:[a-z]+(-[a-z]+)+-[0-9]{1,2}:"
                   "[0-9]{12}:key/[A-Za-z0-9/_-]+$")
        && kaws__arn_parse(arn, &(kaws__arn){ .region = { NULL, 0 } })
        && is_like(material, "^[A-Za-z0-9/_-]{0,64}$");
}


/* ---- the same by room pack --------------------------------------------- */

static void
pack_again(const kaws_sealed *v, kaws_bytes want)
{
    uint8_t *out = malloc(want.len);
    size_t len = want.len, i;
    kaws_error err;

    HOLDS(out != NULL);
    HOLDS(kaws_sealed_pack(v, out, &len, &err) == KAWS_OK);
    HOLDS(err.text[0] == '\0');
    HOLDS(len == want.len && memcmp(out, want.at, len) == 0);
    len--;                                /* and there is no room to spare   */
    HOLDS(kaws_sealed_pack(v, out, &len, &err) == KAWS_ARGUMENT && len == 0);
    for (i = 0; i + 1 < want.len; i++)
        HOLDS(out[i] == 0);
    free(out);
}


static void
look(kaws_bytes in)
{
    static const kaws_sealed zeros;
    static kaws_sealed v;
    kaws_bytes exact = { fuzz_copy(in), in.len };
    kaws_error err;
    int good;

    memset(&v, 'x', sizeof v);
    good = kaws_sealed_unpack(exact, &v, &err) == KAWS_OK;
    HOLDS(good == may_unpack(in));
    if (good) {
        HOLDS(err.text[0] == '\0' && in.len <= KAWS_SEALED_PACKED_MAX);
        pack_again(&v, in);
    } else {
        HOLDS(err.status == KAWS_ARGUMENT);
        HOLDS(strncmp(err.text, "cannot unpack the sealed value: ", 32) == 0);
        HOLDS(memcmp(&v, &zeros, sizeof v) == 0);
    }
    free((void *)(uintptr_t)exact.at);
}


/* Packs a kaws_sealed that a caller filled with arbitrary bytes. If that works,
 * unpacking gives the same value, without the bytes after each end. */
static void
pack_any(kaws_bytes in)
{
    static kaws_sealed v, got;
    uint8_t out[KAWS_SEALED_PACKED_MAX];
    size_t len = sizeof out;
    kaws_bytes packed = { out, 0 }, part;

    memset(&v, 0xff, sizeof v);
    part = fuzz_take(&in, sizeof v.kms_key_arn);
    memcpy(v.kms_key_arn, part.at, part.len);
    part = fuzz_take(&in, sizeof v.key_material_id);
    memcpy(v.key_material_id, part.at, part.len);
    v.blob_len = (size_t)fuzz_number(&in, 2);
    part = fuzz_take(&in, sizeof v.blob);
    memcpy(v.blob, part.at, part.len);
    if (kaws_sealed_pack(&v, out, &len, NULL) != KAWS_OK) {
        HOLDS(len == 0);
        return;
    }
    packed.len = len;
    HOLDS(kaws_sealed_unpack(packed, &got, NULL) == KAWS_OK);
    HOLDS(strcmp(got.kms_key_arn, v.kms_key_arn) == 0);
    HOLDS(strcmp(got.key_material_id, v.key_material_id) == 0);
    HOLDS(got.blob_len == v.blob_len);
    HOLDS(memcmp(got.blob, v.blob, v.blob_len) == 0);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kaws_bytes in = { data, size };
    int how = (int)fuzz_number(&in, 1);
    size_t cut = (size_t)fuzz_number(&in, 2);
    size_t turn = (size_t)fuzz_number(&in, 2);
    kaws_bytes bytes = { NULL, in.len };
    uint8_t *copy;

    if (in.len == 0 || in.len > 8192)
        return 0;
    bytes.at = copy = fuzz_copy(in);
    if (how & 1)
        mend(copy, in.len);
    look(bytes);
    pack_any(bytes);
    turn %= 8 * in.len;
    copy[turn / 8] = (uint8_t)(copy[turn / 8] ^ 1 << turn % 8);
    look(bytes);
    bytes.len = cut % in.len;
    look(bytes);
    free(copy);
    return 0;
}
