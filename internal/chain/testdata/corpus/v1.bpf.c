// cflags: -mcpu=v1
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// cpu.h, compiled for the instructions of v1.
#define ENTRY v1
#define TOTAL total_v1
#include "cpu.h"
