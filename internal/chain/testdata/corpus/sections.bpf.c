// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The names that sections of XDP programs have had over the years.
#include "corpus.h"

#define PROGRAM(section, name, n)               \
	SEC(section) int name(CTX *ctx)         \
	{                                       \
		leave(ctx, n, byte(ctx, 15) + n); \
		return verdict(ctx);            \
	}

PROGRAM("xdp", section_new, 17)
PROGRAM("?xdp", section_optional, 18)
PROGRAM("xdp/firewall", section_slash, 19)
PROGRAM("xdp_firewall", section_any, 20)
PROGRAM("xdp.frags", section_frags, 21)
PROGRAM("xdp.frags/named", section_frags_named, 22)
