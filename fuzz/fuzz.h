/* fuzz.h - what the targets share: the library itself, the check HOLDS, and
 * functions that take the input apart
 *
 * No target can reach a network: it leaves out the built-in sender, or, if it
 * needs the sender's reader of header lines, sets all hooks.
 */

#if !defined(KAWS_FUZZ_H)
#define KAWS_FUZZ_H

#define KEYRING_AWS_IMPLEMENTATION
#if !defined(FUZZ_HEADER_LINES)
#define KEYRING_AWS_NO_CURL
#endif
#include "../keyring_aws.h"

#define FUZZ static __attribute__((unused))

/* Must be true of every input; if it is not, the target says so and aborts. */
#define HOLDS(what) \
    ((what) ? (void)0 : fuzz_broken(#what, __FILE__, __LINE__))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const kaws_hooks fuzz_hooks = { .memory = kaws__mem_builtin,
                                       .ticks_ms = kaws__sys_ticks_ms };


FUZZ void
fuzz_broken(const char *what, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}


/* A copy in a block of exactly its size, so ASan sees a read beyond its end. */
FUZZ void *
fuzz_copy(kaws_bytes from)
{
    uint8_t *copy = malloc(from.len);

    HOLDS(copy != NULL);
    if (from.len > 0)
        memcpy(copy, from.at, from.len);
    return copy;
}


/* ---- taking the input apart -------------------------------------------- */

/* Takes at most `len` bytes off the front. */
FUZZ kaws_bytes
fuzz_take(kaws_bytes *in, size_t len)
{
    kaws_bytes part = { in->at, len < in->len ? len : in->len };

    in->at += part.len;
    in->len -= part.len;
    return part;
}


/* Takes a number of so many bytes off the front; missing bytes count as 0. */
FUZZ uint64_t
fuzz_number(kaws_bytes *in, size_t bytes)
{
    kaws_bytes part = fuzz_take(in, bytes);
    uint64_t number = 0;

    while (part.len > 0)
        number = number << 8 | part.at[--part.len];
    return number;
}


/* Takes all that comes before the next `byte`, or all; drops that byte. */
FUZZ kaws_bytes
fuzz_until(kaws_bytes *in, int byte)
{
    const uint8_t *end = in->len > 0 ? memchr(in->at, byte, in->len) : NULL;
    kaws_bytes part = fuzz_take(in, end != NULL ? (size_t)(end - in->at)
                                                : in->len);

    (void)fuzz_take(in, end != NULL);
    return part;
}


/* Takes the bytes up to a NUL as a string, which the caller frees. */
FUZZ char *
fuzz_string(kaws_bytes *in)
{
    kaws_bytes part = fuzz_until(in, 0);
    char *text = malloc(part.len + 1);

    HOLDS(text != NULL);
    HOLDS(kaws__buf_copy_text(text, part.len + 1, part));
    return text;
}


#endif /* KAWS_FUZZ_H */
