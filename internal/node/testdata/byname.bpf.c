// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// tiny whose table is to be pinned by its name, for others to find.
#define PINNING LIBBPF_PIN_BY_NAME
#include "tiny.bpf.c"
