// cflags: -mcpu=v2
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// cpu.h, compiled for the instructions of v2.
#define ENTRY v2
#define TOTAL total_v2
#include "cpu.h"
