// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the kernel's compiler for arm64 makes of programs: arithmetic, loads and
// stores of all sizes, atomics, calls, branches, and what begins and ends functions.
// clang-14 --target=aarch64-linux-gnu -O2 -march=armv8-a+lse+sb -mbranch-protection=standard -ffreestanding -c arm64.c -o arm64.o

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

u64 external(u64 a, void *b);

u64 arithmetic(u64 a, u64 b, u32 c, u32 d)
{
	a = a * b + (b >> 3) - (a << 7);
	a ^= b / (c | 1);
	a |= b % (a | 1);
	a += (u64)((int)c >> (d & 31)) + ((long)a >> (b & 63));
	a -= -b & ~a;
	return a + 0x123456789abcdef0ULL + c * d + c / (d | 1);
}

u64 memory(u8 *a, u16 *b, u32 *c, u64 *d, signed char *e, short *f, int *g)
{
	a[3] = b[5];
	c[7] = d[9];
	d[1] = a[2] + e[1] + f[2] + g[3];
	d[2] = __builtin_bswap64(d[3]) + __builtin_bswap32(c[1]) + __builtin_bswap16(b[1]);
	return a[1] + b[2] + c[3] + d[4];
}

u64 atomics(u64 *a, u32 *b, u64 v, u8 *c, u16 *d)
{
	__atomic_fetch_add(a, v, __ATOMIC_RELAXED);
	__atomic_fetch_or(b, v, __ATOMIC_SEQ_CST);
	v += __atomic_fetch_and(a, v, __ATOMIC_SEQ_CST);
	v += __atomic_fetch_xor(b, v, __ATOMIC_ACQUIRE);
	v += __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST);
	v += __sync_val_compare_and_swap(b, v, 7);
	v += __sync_val_compare_and_swap(a, v, 7);
	__atomic_store_n(b, __atomic_load_n(a, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
	v += __atomic_fetch_add(c, v, __ATOMIC_RELEASE) + __atomic_exchange_n(d, v, __ATOMIC_RELAXED);
	return v;
}

u64 branches(u64 a, long b, u64 *c)
{
	u64 local[20];

	for (int i = 0; i < 20; i++)
		local[i] = external(a + i, local);
	if (b < 0 || a & 4)
		return external(local[3], c);
	while (*c != a && *c > 3)
		c += local[*c & 15];
	return b > 77 ? local[2] : (u64)(c - local);
}

void barriers(void (**f)(void))
{
	__asm__ volatile("sb\n\tdsb nsh\n\tisb\n\tdmb ish\n\tbti j\n\tmrs x7, tpidr_el1\n\tbrk #0x100");
	(*f)();
}
