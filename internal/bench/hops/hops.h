// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// How the same small program is made a hundred times over. Programs are numbered
// from 10, so that the numbers paste together.

// Each program has a bound of its own, so that no compiler can merge two checks
// into one. They go around from 14 to 53 bytes.
#define BOUND(n) (14 + (n - 9) % 40)

#define TEN(M, t) M(t##0) M(t##1) M(t##2) M(t##3) M(t##4) M(t##5) M(t##6) M(t##7) M(t##8) M(t##9)
#define HUNDRED(M) TEN(M, 1) TEN(M, 2) TEN(M, 3) TEN(M, 4) TEN(M, 5) TEN(M, 6) TEN(M, 7) TEN(M, 8) TEN(M, 9) TEN(M, 10)
#define FIVE(M) M(10) M(11) M(12) M(13) M(14)
#define FIFTY(M) TEN(M, 1) TEN(M, 2) TEN(M, 3) TEN(M, 4) TEN(M, 5)
#define SIXTY_THREE(M) FIFTY(M) TEN(M, 6) M(70) M(71) M(72)
