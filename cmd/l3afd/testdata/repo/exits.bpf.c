// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts calls of exit(3), as a probe of L3AF: its section says where. */
#include "l3af.h"

MAP(exits_seen, ARRAY, __u32, __u64, 1);

SEC("uprobe//lib/x86_64-linux-gnu/libc.so.6:exit")
int exits(void *ctx)
{
	__u32 key = 0;

	add(&exits_seen, &key);
	return 0;
}
