package disasm

import (
	"encoding/binary"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"

	"l3af/internal/kallsyms"
)

// raw makes an instruction of this machine's byte order.
func raw(code byte, dst, src int, off int16, imm int32) []byte {
	b := make([]byte, Size)
	b[0], b[1] = code, byte(src<<4|dst)
	if d, _ := (Instruction{Raw: b}).registers(); d != dst {
		b[1] = byte(dst<<4 | src)
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(off))
	binary.NativeEndian.PutUint32(b[4:], uint32(imm))
	return b
}

// wide makes a load of 64 bits.
func wide(dst, src int, imm, next int32) []byte {
	return append(raw(loadImm64, dst, src, 0, imm), raw(0, 0, 0, 0, next)...)
}

// The notation is that of the kernel (kernel/bpf/disasm.c of Linux 6.18).
func TestText(t *testing.T) {
	symbols, err := kallsyms.Parse(strings.NewReader(strings.Join([]string{
		"ffffffff81000800 T array_map_lookup_elem",
		"ffffffff81000000 T __bpf_call_base",
		"ffffffffa0000100 t bpf_prog_71cc897a9c0c25ab_sub\t[bpf]",
		"",
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	known := Names{symbols, []uint64{0xffffffffa0000000, 0xffffffffa0000100, 0xffffffffa0000200}}
	for _, c := range []struct {
		raw   []byte
		names Names
		want  string
	}{
		{raw(0xbf, 7, 1, 0, 0), Names{}, "(bf) r7 = r1"},
		{raw(0xbc, 7, 1, 0, 0), Names{}, "(bc) w7 = w1"},
		{raw(0xbf, 7, 1, 8, 0), Names{}, "(bf) r7 = (s8)r1"},
		{raw(0xbc, 7, 1, 16, 0), Names{}, "(bc) w7 = (s16)w1"},
		{raw(0xbf, 7, 1, 32, 0), Names{}, "(bf) r7 = (s32)r1"},
		{raw(0xbf, 7, 1, 1, 0x10000), Names{}, "(bf) r7 = addr_space_cast(r1, 1, 0)"},
		{raw(0xbf, 0, 0, -1, 0), Names{}, "(bf) r0 = &(void __percpu *)(r0)"},
		{raw(0xb7, 0, 0, 0, -1), Names{}, "(b7) r0 = -1"},
		{raw(0x07, 2, 0, 0, -8), Names{}, "(07) r2 += -8"},
		{raw(0xc7, 2, 0, 0, 3), Names{}, "(c7) r2 s>>= 3"},
		{raw(0x3f, 2, 3, 0, 0), Names{}, "(3f) r2 /= r3"},
		{raw(0x3f, 2, 3, 1, 0), Names{}, "(3f) r2 s/= r3"},
		{raw(0x94, 2, 0, 1, 7), Names{}, "(94) w2 s%= 7"},
		{raw(0x87, 2, 0, 0, 0), Names{}, "(87) r2 = -r2"},
		{raw(0x84, 2, 0, 0, 0), Names{}, "(84) w2 = -w2"},
		{raw(0xdc, 2, 0, 0, 16), Names{}, "(dc) r2 = be16 r2"},
		{raw(0xd4, 2, 0, 0, 64), Names{}, "(d4) r2 = le64 r2"},
		{raw(0xd7, 2, 0, 0, 32), Names{}, "(d7) r2 = bswap32 r2"},
		{raw(0x61, 2, 1, 4, 0), Names{}, "(61) r2 = *(u32 *)(r1 +4)"},
		{raw(0x79, 1, 10, -8, 0), Names{}, "(79) r1 = *(u64 *)(r10 -8)"},
		{raw(0x91, 1, 2, 0, 0), Names{}, "(91) r1 = *(s8 *)(r2 +0)"},
		{raw(0x63, 10, 0, -4, 0), Names{}, "(63) *(u32 *)(r10 -4) = r0"},
		{raw(0x7a, 10, 0, -16, 5), Names{}, "(7a) *(u64 *)(r10 -16) = 5"},
		{raw(0xc2, 0, 0, 0, 0), Names{}, "(c2) nospec"},
		{raw(0xdb, 1, 2, 0, 0), Names{}, "(db) lock *(u64 *)(r1 +0) += r2"},
		{raw(0xc3, 1, 2, 4, 0xa0), Names{}, "(c3) lock *(u32 *)(r1 +4) ^= r2"},
		{raw(0xdb, 1, 2, 0, 0x01), Names{}, "(db) r2 = atomic64_fetch_add((u64 *)(r1 +0), r2)"},
		{raw(0xc3, 1, 2, 0, 0x41), Names{}, "(c3) r2 = atomic_fetch_or((u32 *)(r1 +0), r2)"},
		{raw(0xdb, 1, 2, 0, 0xe1), Names{}, "(db) r2 = atomic64_xchg((u64 *)(r1 +0), r2)"},
		{raw(0xc3, 1, 2, 0, 0xf1), Names{}, "(c3) r0 = atomic_cmpxchg((u32 *)(r1 +0), r0, r2)"},
		{raw(0xd3, 1, 2, 8, 0x100), Names{}, "(d3) r1 = load_acquire((u8 *)(r2 +8))"},
		{raw(0xcb, 1, 2, 8, 0x110), Names{}, "(cb) store_release((u16 *)(r1 +8), r2)"},
		{raw(0x28, 0, 0, 0, 12), Names{}, "(28) r0 = *(u16 *)skb[12]"},
		{raw(0x50, 0, 3, 0, 2), Names{}, "(50) r0 = *(u8 *)skb[r3 + 2]"},
		{wide(1, 0, 2, 1), Names{}, "(18) r1 = 0x100000002"},
		{wide(1, 1, 147, 0), Names{}, "(18) r1 = map[id:147]"},
		{wide(1, 2, 156, 8), Names{}, "(18) r1 = map[id:156][0]+8"},
		{wide(2, 4, 12, 0), Names{}, "(18) r2 = subprog[+12]"},
		{raw(0x05, 0, 0, -3, 0), Names{}, "(05) goto pc-3"},
		{raw(0x06, 0, 0, 0, 70000), Names{}, "(06) gotol pc+70000"},
		{raw(0x0d, 3, 0, 0, 0), Names{}, "(0d) gotox r3"},
		{raw(0xe5, 0, 0, 7, 0), Names{}, "(e5) may_goto pc+7"},
		{raw(0x15, 0, 0, 2, 0), Names{}, "(15) if r0 == 0x0 goto pc+2"},
		{raw(0x16, 0, 0, 2, -1), Names{}, "(16) if w0 == 0xffffffff goto pc+2"},
		{raw(0x6d, 1, 2, -2, 0), Names{}, "(6d) if r1 s> r2 goto pc-2"},
		{raw(0xbe, 1, 2, 9, 0), Names{}, "(be) if w1 <= w2 goto pc+9"},
		{raw(0x95, 0, 0, 0, 0), Names{}, "(95) exit"},
		{raw(0x85, 0, 0, 0, 1), Names{}, "(85) call bpf_map_lookup_elem#1"},
		{raw(0x85, 0, 0, 0, 0x800), known, "(85) call array_map_lookup_elem#2048"},
		{raw(0x85, 0, 0, 0, 0x900), known, "(85) call 0xffffffff81000900#2304"},
		{raw(0x85, 0, 1, 106, 1), known, "(85) call pc+106#bpf_prog_71cc897a9c0c25ab_sub"},
		{raw(0x85, 0, 1, 106, 2), known, "(85) call pc+106#0xffffffffa0000200"},
		{raw(0x85, 0, 1, -5, 0), Names{}, "(85) call pc-5"},
		{raw(0xff, 1, 2, 3, 4), Names{}, "(ff) unknown ff 21 03 00 04 00 00 00"},
	} {
		list := Split(c.raw)
		if len(list) != 1 {
			t.Fatalf("% x: %d instructions", c.raw, len(list))
		}
		if got := c.names.Text(list[0]); got != c.want {
			t.Errorf("% x\ngot  %s\nwant %s", c.raw, got, c.want)
		}
	}
}

// Helpers have the names of the header that programs are compiled with.
func TestHelper(t *testing.T) {
	header, err := os.ReadFile("/usr/include/linux/bpf.h")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	// Numbered in order, from linux 6.6 on also explicitly: FN(unspec, 0, ##ctx).
	found := regexp.MustCompile(`\bFN\((\w+)[,)]`).FindAllStringSubmatch(string(header), -1)
	if len(found) < 200 {
		t.Fatalf("%d helpers in the header", len(found))
	}
	for i, m := range found {
		if got := Helper(int32(i)); got != "bpf_"+m[1] && got != "" {
			t.Errorf("helper %d: got %s, want bpf_%s", i, got, m[1])
		}
	}
	for _, n := range []int32{-1, 100000, math.MinInt32} {
		if got := Helper(n); got != "" {
			t.Errorf("helper %d: %s", n, got)
		}
	}
}

// Whatever the bytes, every instruction has a text and a place, and the graph
// of what they do holds each once.
func FuzzDisassemble(f *testing.F) {
	var all []byte
	for code := range 256 {
		all = append(all, raw(byte(code), 1, 2, 3, 4)...)
	}
	f.Add(all)
	f.Add(raw(loadImm64, 1, 1, 0, 5))
	f.Add([]byte{0x95})
	f.Fuzz(func(t *testing.T, code []byte) {
		code = code[:min(len(code), 4096)] // more is only slower
		list := Split(code)
		next := 0
		for _, i := range list {
			if i.Offset != next {
				t.Fatalf("instruction at %d, want %d", i.Offset, next)
			}
			next += i.Width()
			if text := (Names{}).Text(i); len(text) < len("(95) exit") || strings.Contains(text, "%!") || strings.HasSuffix(text, " ") {
				t.Fatalf("% x: %q", i.Raw, text)
			}
		}
		if next != len(code)/Size {
			t.Fatalf("%d of %d instructions", next, len(code)/Size)
		}
		n := 0
		for _, b := range Graph(list) {
			n += len(b.Instructions)
		}
		if n != len(list) {
			t.Fatalf("the graph has %d of %d instructions", n, len(list))
		}
		for _, start := range Starts(list) {
			if start < 0 || start >= max(next, 1) {
				t.Fatalf("a function at %d of %d", start, next)
			}
		}
		X86(code, 0xffffffffa0000000, nil)
		ARM64(code, 0xffff800080000000, nil)
	})
}
