// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// stamp in a later version: other code, the same maps.
#define VERSION 2
#include "stamp.bpf.c"
