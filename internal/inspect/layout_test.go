package inspect

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/testenv"
)

// The walk finds what cilium/ebpf finds when it reads all types.
func TestFindLayout(t *testing.T) {
	testenv.Root(t)
	raw, release, err := vmlinux()
	if err != nil {
		t.Skip(err)
	}
	defer release()
	var members [][2]string
	for _, m := range holdersIterator.members {
		members = append(members, m)
	}
	for _, m := range netfilterIterator.members {
		members = append(members, m)
	}
	const function = "bpf_iter_task_file"
	l, err := findLayout(raw, members, []string{function})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		var s *btf.Struct
		if err := spec.TypeByName(m[0], &s); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, f := range s.Members {
			if f.Name == m[1] {
				found = true
				if got := l.offsets[m[0]+"."+m[1]]; got != f.Offset.Bytes() {
					t.Errorf("%s.%s at %d, want %d", m[0], m[1], got, f.Offset.Bytes())
				}
			}
		}
		if !found {
			t.Errorf("there is no %s.%s", m[0], m[1])
		}
	}
	var f *btf.Func
	if err := spec.TypeByName(function, &f); err != nil {
		t.Fatal(err)
	}
	if id, err := spec.TypeID(f); err != nil || l.funcs[function] != uint32(id) {
		t.Errorf("%s is %d, want %d, %v", function, l.funcs[function], id, err)
	}
	for _, missing := range [][2]string{{"task_struct", "no_such_member"}, {"no_such_struct", "id"}} {
		if _, err := findLayout(raw, [][2]string{missing}, nil); err == nil {
			t.Errorf("found %s", missing)
		}
	}
	if _, err := findLayout(raw, nil, []string{"no_such_function"}); err == nil {
		t.Error("found a function that is not there")
	}
}

// Damaged BTF is an error.
func FuzzFindLayout(f *testing.F) {
	// STRUCT file { f_op at bit 64 }, in BTF of this machine's byte order.
	strings := []byte("\x00file\x00f_op\x00")
	var b []byte
	for _, n := range []uint32{0x0001eb9f, 24, 0, 24, 24, uint32(len(strings)), 1, 4<<24 | 1, 16, 6, 0, 64} {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	f.Add(append(b, strings...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := findLayout(raw, [][2]string{{"file", "f_op"}}, nil)
		if err == nil && len(l.offsets) != 1 {
			t.Error(fmt.Sprint(l))
		}
	})
}
