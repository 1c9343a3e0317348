package kconfig

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

var (
	boolean  = &btf.Int{Name: "_Bool", Size: 1, Encoding: btf.Bool}
	char     = &btf.Int{Name: "char", Size: 1, Encoding: btf.Char}
	tristate = &btf.Enum{Name: "libbpf_tristate", Size: 4}
)

func integer(size uint32, signed bool) *btf.Int {
	if signed {
		return &btf.Int{Size: size, Encoding: btf.Signed}
	}
	return &btf.Int{Size: size}
}

func text(n uint32) *btf.Array { return &btf.Array{Type: char, Index: integer(4, false), Nelems: n} }

// Every option is written as the type that the program gives it says, or
// refused where it does not fit.
func TestPut(t *testing.T) {
	for _, c := range []struct {
		value string
		t     btf.Type
		want  string // little endian hex, or part of the error
	}{
		{"y", boolean, "01"},
		{"n", boolean, "00"},
		{"m", boolean, "does not fit the type"},
		{"y", tristate, "01000000"},
		{"m", tristate, "02000000"},
		{"n", tristate, "00000000"},
		{"m", char, "6d"},
		{"y", integer(4, false), "does not fit the type"},
		{"250", integer(4, false), "fa000000"},
		{"250", integer(1, false), "fa"},
		{"250", integer(1, true), "does not fit 8 bits"},
		{"256", integer(1, false), "does not fit 8 bits"},
		{"-3", integer(2, true), "fdff"},
		{"-3", integer(2, false), "does not fit 16 bits"},
		{"0xffffffff80000000", integer(8, false), "00000080ffffffff"},
		{"0xffffffff80000000", integer(8, true), "does not fit 64 bits"},
		{"0xffffffff80000000", integer(4, false), "does not fit 32 bits"},
		{"7", text(8), "does not fit the type"},
		{"seven", integer(4, false), "does not fit 32 bits"},
		{"", integer(4, false), "does not fit 32 bits"},
		{`"abc"`, text(8), "6162630000000000"},
		{`"a\"b"`, text(8), "6122620000000000"},
		{`"abcdefgh"`, text(4), "61626300"},
		{`"abc"`, integer(4, false), "does not fit the type"},
	} {
		size, err := btf.Sizeof(c.t)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, size)
		err = put(data, c.t, c.value)
		got := fmt.Sprintf("%x", data)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s as %v: got %s, want %s", c.value, c.t, got, c.want)
		}
	}
}

// section is a .kconfig section with one variable.
func section(name string, t btf.Type, size uint32) *btf.Datasec {
	return &btf.Datasec{Name: Section, Size: size, Vars: []btf.VarSecinfo{{Type: &btf.Var{Name: name, Type: t}, Size: size}}}
}

func TestResolve(t *testing.T) {
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Resolve(section("LINUX_KERNEL_VERSION", integer(4, true), 4))
	if err != nil || binary.NativeEndian.Uint32(got) != version {
		t.Errorf("got %x, %v, want %x", got, err, version)
	}
	if got, err = Resolve(section("LINUX_HAS_SYSCALL_WRAPPER", boolean, 1)); err != nil || runtime.GOARCH == "amd64" && got[0] != 1 {
		t.Errorf("got %x, %v", got, err)
	}
	if _, err := Options(); err != nil {
		t.Skip(err) // the kernel does not tell its configuration
	}
	if got, err = Resolve(section("CONFIG_BPF", tristate, 4)); err != nil || binary.NativeEndian.Uint32(got) != 1 {
		t.Errorf("got %x, %v", got, err)
	}
	if got, err = Resolve(section("CONFIG_NO_SUCH_OPTION", boolean, 1)); err != nil || got[0] != 0 {
		t.Errorf("got %x, %v", got, err)
	}
	for want, s := range map[string]*btf.Datasec{
		"this kernel has no option CONFIG_NO_SUCH_OPTION": section("CONFIG_NO_SUCH_OPTION", integer(4, false), 4),
		"nobody knows this variable":                      section("WINDOWS_VERSION", integer(4, false), 4),
		"damaged":                                         {Size: 2, Vars: []btf.VarSecinfo{{Type: &btf.Var{Name: "CONFIG_HZ", Type: integer(4, false)}, Size: 4}}},
		"CONFIG_HZ: the section .kconfig is damaged":      section("CONFIG_HZ", integer(4, false), 2),
	} {
		if _, err := Resolve(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
