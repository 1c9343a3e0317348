// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// byname in a later version: its table holds more, the rest is the same.
#define TABLE 128
#include "byname.bpf.c"
