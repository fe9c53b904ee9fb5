/* unseen_end.h - see unseen_begin.h */
#if defined(__clang__)
#pragma clang attribute pop
#endif
