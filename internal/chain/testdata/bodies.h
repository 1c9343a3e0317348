// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The programs that the composer is tested with. Included with CTX, SECTION
// and the functions load, store and move defined for one hook.
#define AT 14 // the packet's bytes that decide, after the Ethernet header

char _license[] SEC("license") = "Dual BSD/GPL";

// What a program says: the table entry that one byte of the packet picks.
volatile const __s32 verdicts[8] = {};
volatile const __u8 byte = 0;
volatile const __u8 key = 0x5a;

__u64 total = 7;       // .data
__u32 seen;            // .bss
__u8 last[4];          // .bss
static __u64 hidden;   // .bss, no symbol

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u16);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, __u8[6]);
	__type(value, __u32);
} lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} ring SEC(".maps");

struct locked {
	struct bpf_spin_lock lock;
	__u32 n;
	__u64 sum;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct locked);
} guarded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} progs SEC(".maps");

static __always_inline __u8 peek(CTX *ctx, __u32 at)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	at &= 0xff;
	return data + at + 1 <= end ? data[at] : 0xff;
}

static __always_inline int verdict(CTX *ctx) { return verdicts[peek(ctx, AT + byte) & 7]; }

SECTION int bybyte(CTX *ctx) { return verdict(ctx); }

SECTION int rewrite(CTX *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + AT + 8 > end)
		return verdicts[0];
	for (int i = 0; i < 6; i++) {
		__u8 b = data[i];
		data[i] = data[i + 6];
		data[i + 6] = b;
	}
	data[AT + (key & 7)] ^= key;
	data[AT + 1] += byte;
	return verdict(ctx);
}

SECTION int counts(CTX *ctx)
{
	__u8 b = peek(ctx, AT + byte);
	__u32 i = b & 3, zero = 0;
	__u16 h = b | key << 8;
	__u8 addr[6] = {b, key, 1, 2, 3, b & 0x0f};
	__u64 one = 1, *n = bpf_map_lookup_elem(&array, &i);
	if (n)
		__sync_fetch_and_add(n, b);
	n = bpf_map_lookup_elem(&hash, &h);
	if (n)
		*n += 1;
	else
		bpf_map_update_elem(&hash, &h, &one, BPF_ANY);
	n = bpf_map_lookup_elem(&percpu, &zero);
	if (n)
		*n += b;
	__u32 *m = bpf_map_lookup_elem(&lru, addr), first = 1;
	if (m)
		*m += 1;
	else
		bpf_map_update_elem(&lru, addr, &first, BPF_ANY);
	return verdict(ctx);
}

SECTION int globals(CTX *ctx)
{
	__u8 b = peek(ctx, AT + byte);
	total += b;
	seen++;
	last[seen & 3] = b;
	hidden ^= total;
	return verdict(ctx);
}

static __noinline __u32 mix(__u32 a, __u32 b)
{
	for (int i = 0; i < 13; i++) {
		a = a * 33 + b;
		if (a & 1)
			b += a >> 3;
	}
	return a;
}

static __noinline __u32 twice(__u32 a)
{
	volatile __u32 room[8] = {};
	room[a & 7] = mix(a, 7);
	return room[a & 7] + room[0];
}

SECTION int local(CTX *ctx)
{
	__u8 b = twice(peek(ctx, AT + byte)) + mix(key, 3);
	store(ctx, AT + 2, &b, 1);
	return verdict(ctx);
}

__noinline int sum(CTX *ctx, int from)
{
	__u32 n = 0;
	for (__u32 i = 0; i < 40; i++)
		n += peek(ctx, AT + i) ^ from;
	return n;
}

SECTION int global(CTX *ctx)
{
	__u8 b = sum(ctx, key);
	store(ctx, AT + 3, &b, 1);
	return verdict(ctx);
}

struct turn {
	__u32 n, sum;
	__u64 room[8];
};

static long step(__u32 i, void *arg)
{
	struct turn *t = arg;
	t->sum += mix(i, t->n);
	t->room[i & 7] += i;
	return t->sum % 17 == 0;
}

static long each(void *map, const void *k, void *v, void *arg)
{
	struct turn *t = arg;
	t->sum += *(__u32 *)k + *(__u64 *)v;
	return 0;
}

SECTION int callback(CTX *ctx)
{
	struct turn t = {.n = peek(ctx, AT + byte)};
	__u32 i = t.n & 3;
	bpf_loop(t.n, step, &t, 0);
	__u64 *n = bpf_map_lookup_elem(&array, &i);
	if (n)
		*n += t.room[3];
	bpf_for_each_map_elem(&array, each, &t, 0);
	store(ctx, AT + 4, &t.sum, 4);
	return verdict(ctx);
}

SECTION int deep(CTX *ctx)
{
	__u8 buf[400] = {};
	__u32 n = peek(ctx, AT) & 0x1f;
	__u64 h = 14695981039346656037ull;
	if (load(ctx, AT, buf, n + 1))
		return verdicts[1];
	for (int i = 0; i < 32; i++) {
		h = (h ^ buf[i]) * 1099511628211ull;
		buf[32 + i] = h >> 7;
	}
	if (store(ctx, AT, buf + 32, 4))
		return verdicts[2];
	return verdict(ctx);
}

SECTION int record(CTX *ctx)
{
	__u64 r = (__u64)peek(ctx, AT + byte) << 32 | ctx->data_end - ctx->data;
	bpf_ringbuf_output(&ring, &r, sizeof(r), BPF_RB_NO_WAKEUP);
	return verdict(ctx);
}

SECTION int lock(CTX *ctx)
{
	__u32 zero = 0;
	__u8 b = peek(ctx, AT + byte);
	struct locked *l = bpf_map_lookup_elem(&guarded, &zero);
	if (!l)
		return verdicts[0];
	bpf_spin_lock(&l->lock);
	l->n++;
	l->sum += b;
	bpf_spin_unlock(&l->lock);
	return verdict(ctx);
}

SECTION int loop(CTX *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 odd = 0;
	for (int i = 0; i < 64 && data + i + 1 <= end; i++) {
		if (data[i] == 0xee)
			return verdicts[3];
		odd += data[i] & 1;
	}
	__u8 b = odd;
	store(ctx, AT + 5, &b, 1);
	return verdict(ctx);
}

struct task_struct___l3af {
	int pid;
	int tgid;
	int no_such_field;
} __attribute__((preserve_access_index));

SECTION int core(CTX *ctx)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&array, &zero);
	if (n)
		*n += (__u64)bpf_core_type_size(struct task_struct___l3af) << 32 |
		      __builtin_preserve_field_info(((struct task_struct___l3af *)0)->tgid, BPF_FIELD_BYTE_OFFSET);
	if (bpf_core_field_exists(((struct task_struct___l3af *)0)->no_such_field))
		return verdicts[0];
	return verdict(ctx);
}

SECTION int move(CTX *ctx)
{
	__u8 b = peek(ctx, AT + byte);
	if (change(ctx, b))
		return verdicts[4];
	store(ctx, AT + 6, &b, 1);
	return verdict(ctx);
}

SECTION int fields(CTX *ctx) { return inspect(ctx) ? verdicts[5] : verdict(ctx); }

SECTION int tailer(CTX *ctx)
{
	bpf_tail_call(ctx, &progs, 0);
	return verdict(ctx);
}

extern int LINUX_KERNEL_VERSION __kconfig;

SECTION int configured(CTX *ctx) { return LINUX_KERNEL_VERSION < 0x30000 ? verdicts[0] : verdict(ctx); }
