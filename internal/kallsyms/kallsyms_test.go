package kallsyms

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestSymbols(t *testing.T) {
	// Where addresses are hidden nothing is made up.
	s, err := Parse(strings.NewReader("0000000000000000 A irq\n0000000000000000 T __bpf_call_base\n"))
	if !errors.Is(err, ErrHidden) {
		t.Errorf("hidden: %v", err)
	}
	if symbol, ok := s.At(0); ok || s.Base() != 0 || s.Name(16) != "0x10" {
		t.Errorf("hidden: %v, base %x", symbol, s.Base())
	}
	s, err = Parse(strings.NewReader("0000000000000000 A irq\n00000000000000ff T b\t[m]\n0000000000000010 T a\n0000000000000010 T alias\n" +
		"broken\n0000000000000020 T __bpf_call_base\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Base() != 0x20 {
		t.Errorf("base %x", s.Base())
	}
	for address, want := range map[uint64]string{
		0x0f: "", 0x10: "a", 0x12: "a+2", 0x20: "__bpf_call_base", 0x21: "__bpf_call_base+1", 0xff: "b[m]", 0x1000: "b[m]+f01", 0x200000: "",
	} {
		symbol, offset := s.In(address)
		got := symbol.Name
		if symbol.Module != "" {
			got += "[" + symbol.Module + "]"
		}
		if offset > 0 {
			got += fmt.Sprintf("+%x", offset)
		}
		if got != want {
			t.Errorf("%#x is in %q, want %q", address, got, want)
		}
	}
	if _, err := Parse(strings.NewReader("zz T a\n")); err == nil {
		t.Error("an address that is no number was taken")
	}
	if symbol, ok := (*Symbols)(nil).At(1); ok {
		t.Errorf("nothing has %v", symbol)
	}
}
