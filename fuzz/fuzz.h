/* fuzz.h - what the targets share: the library itself, a word that must hold,
 * bytes to take one after the other, and a place to put them
 *
 * No target can touch a network: the built-in sender is left out, or, where
 * its reader of header lines is wanted, all hooks are set.
 */

#if !defined(KAWS_FUZZ_H)
#define KAWS_FUZZ_H

#define KEYRING_AWS_IMPLEMENTATION
#if !defined(FUZZ_HEADER_LINES)
#define KEYRING_AWS_NO_CURL
#endif
#include "../keyring_aws.h"

#define FUZZ static __attribute__((unused))

/* What must be true of every input; if not, says so and stops. */
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


/* A copy without a byte to spare, so that a look beyond its end is seen. */
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

/* At most `len` bytes off the front. */
FUZZ kaws_bytes
fuzz_take(kaws_bytes *in, size_t len)
{
    kaws_bytes part = { in->at, len < in->len ? len : in->len };

    in->at += part.len;
    in->len -= part.len;
    return part;
}


/* A number of so many bytes; what is missing is 0. */
FUZZ uint64_t
fuzz_number(kaws_bytes *in, size_t bytes)
{
    kaws_bytes part = fuzz_take(in, bytes);
    uint64_t number = 0;

    while (part.len > 0)
        number = number << 8 | part.at[--part.len];
    return number;
}


/* What is before the next such byte, or all; the byte itself is dropped. */
FUZZ kaws_bytes
fuzz_until(kaws_bytes *in, int byte)
{
    const uint8_t *end = in->len > 0 ? memchr(in->at, byte, in->len) : NULL;
    kaws_bytes part = fuzz_take(in, end != NULL ? (size_t)(end - in->at)
                                                : in->len);

    (void)fuzz_take(in, end != NULL);
    return part;
}


/* The same up to a NUL, as a string; free it. */
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
