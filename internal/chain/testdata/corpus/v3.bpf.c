// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// cpu.h, compiled for the instructions of v3.
#define ENTRY v3
#define TOTAL total_v3
#include "cpu.h"
