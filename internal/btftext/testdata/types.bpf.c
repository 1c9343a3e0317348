// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Types that are hard to write in C again: each is the type of a variable. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u64 __attribute__((aligned(4))) loose64;

enum same { ONE = 1, MINUS = -1 };
typedef enum { TINY_A, TINY_B } __attribute__((packed)) tiny;
typedef enum { TWO_A, TWO_B = 300 } __attribute__((packed)) two;

struct packed {
	u8 a;
	u32 b;
	u16 c : 3, d : 9;
	u64 e;
} __attribute__((packed));

struct sparse {
	u8 a;
	u32 b __attribute__((aligned(16)));
	u8 c;
	u64 d __attribute__((aligned(64)));
} __attribute__((aligned(128)));

struct fields {
	u32 a : 3;
	int b : 7;
	u64 c : 42;
	u8 : 4;
	u8 d : 3;
	u32 : 0;
	u16 e : 5;
	_Bool f : 1;
	enum same g : 4;
	u32 h;
	u64 i : 1;
};

struct loose {
	u32 a;
	loose64 b;
	u32 c;
};

union wide {
	u8 a;
	u32 b;
} __attribute__((aligned(32)));

union tight {
	u8 a[5];
	u32 b;
} __attribute__((packed));

struct node;
typedef int (*visit)(struct node *n, const char *name, ...);
typedef struct node *link;
typedef void call(void (*done)(int), int (*rows)[3]);

struct node {
	struct node *next, *const *volatile prev;
	link links[2][3];
	visit visit;
	call *call;
	visit (*choose)(u32 which);
	const struct {
		u8 tag;
		union {
			u64 n;
			u8 bytes[8];
		};
		struct {
			int : 32;
			int deep;
		} in[2];
	} items[2];
	int (*row)[4];
	const char *const name;
	struct later *later;
	union other *other;
	enum { RED, GREEN } color;
	__int128 big;
	float f;
	double g;
	u8 rest[0];
};

struct later {
	struct node by_value;
	struct packed p;
	u8 c;
	struct sparse s;
	union tight t;
	tiny e;
	two w;
};

/* Names of one kind may be those of another. */
typedef struct later node;
struct same_tag {
	int a;
} x1;
typedef int same_tag;
struct empty {
};
struct holds_empty {
	struct empty e;
	u32 a;
};

#define VAR(type, name) type name;
VAR(struct packed, v1)
VAR(struct sparse, v2)
VAR(struct fields, v3)
VAR(struct loose, v4)
VAR(union wide, v5)
VAR(union tight, v6)
VAR(struct later, v7)
VAR(struct holds_empty, v8)
node *v9;
same_tag v10;
