/* unseen_begin.h - the code from here to unseen_end.h is not the product. The
 * fuzzer runs three times as fast because it does not watch this code. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), \
                             apply_to = function)
#endif
