// Loops that are compiled for several instruction sets; the one to use is chosen when the program is loaded. They are
// written with operations that are exact or correctly rounded (and without fused multiply-add), so every version gives
// the same bits.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && defined(__gnu_linux__)
#define TR_VERSIONS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TR_VERSIONS
#endif

// What such a loop calls for each element: a call would make it no vector loop.
#if defined(__GNUC__)
#define TR_INLINE __attribute__((always_inline)) inline
#else
#define TR_INLINE inline
#endif
