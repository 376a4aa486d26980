/*
 * sanitizers.h: which sanitizer a test runs under.
 *
 * What lives here: two constants, for what repeats the same work for other reasons than a sanitizer's: ThreadSanitizer looks
 * for races alone, and takes its time. What it must not know: what is cut short.
 */
#ifndef WM_TESTS_SANITIZERS_H
#define WM_TESTS_SANITIZERS_H

#if defined(__SANITIZE_THREAD__)
enum { UNDER_TSAN = 1, UNDER_ASAN = 0 };
#elif defined(__SANITIZE_ADDRESS__)
enum { UNDER_TSAN = 0, UNDER_ASAN = 1 };
#else
enum { UNDER_TSAN = 0, UNDER_ASAN = 0 };
#endif

#endif
