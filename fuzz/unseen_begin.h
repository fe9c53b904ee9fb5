/* unseen_begin.h - what follows, until unseen_end.h, is not the product: the
 * fuzzer need not watch it, and runs three times as fast where it does not */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), \
                             apply_to = function)
#endif
