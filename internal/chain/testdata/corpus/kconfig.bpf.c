// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The kernel's configuration, of every type.
#include "corpus.h"

extern int LINUX_KERNEL_VERSION __kconfig;
extern unsigned int CONFIG_HZ __kconfig;
extern _Bool CONFIG_BPF __kconfig;
extern enum libbpf_tristate CONFIG_NET __kconfig;
extern const char CONFIG_DEFAULT_HOSTNAME[8] __kconfig;

static __noinline __u32 hz(void) { return CONFIG_HZ; }

SEC("xdp") int kconfig(CTX *ctx)
{
	if (LINUX_KERNEL_VERSION < 0x50000 || !CONFIG_BPF || CONFIG_NET != TRI_YES)
		return XDP_ABORTED;
	leave(ctx, 7, hz() + CONFIG_DEFAULT_HOSTNAME[0] + LINUX_KERNEL_VERSION);
	return verdict(ctx);
}

SEC("xdp") int kconfig_too(CTX *ctx)
{
	leave(ctx, 8, CONFIG_HZ >> 1);
	return verdict(ctx);
}
