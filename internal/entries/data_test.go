package entries

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// DATA as bpftool has it, and what is left to be a value in words of people.
func TestBytes(t *testing.T) {
	for _, c := range []struct {
		words string
		size  int
		want  string // bytes and how many words they took, "no", or an error
	}{
		{"1 2 3 4", 4, "01020304 4"},
		{"0x0a 010 10 0 value 5", 4, "0a080a00 4"},
		{"hex 0a 1 ff 0x7 value", 4, "0a01ff07 5"},
		{"h 0a000001 value", 4, "0a000001 2"},
		{"hex 0a00 0001", 4, "0a000001 3"},
		{"he a any", 1, "0a 2"},
		{"5 value 6", 4, "no"},
		{"5", 1, "05 1"},
		{"256", 1, "no"},
		{"10.0.0.0/8 value 1", 8, "no"},
		{"1_0", 1, "no"},
		{"", 4, "no"},
		{"1 2 3 value 1", 4, `want 4 bytes, have 3 before "value"`},
		{"1 2 3", 4, "want 4 bytes, have 3"},
		{"1 2 256 4", 4, `want 4 bytes, have 2 before "256"`},
		{"hex 1 2", 4, "want 4 bytes, have 2"},
		{"hex 0a000001 02 value", 3, "want 3 bytes, have 4"},
		{"hex 0a value 1", 4, `want 4 bytes, have 1 before "value", which is no byte in hex`},
		{"hex 0a 0x", 4, `want 4 bytes, have 1 before "0x", which is no byte in hex`},
	} {
		b, took, ok, err := Bytes(strings.Fields(c.words), c.size)
		got := fmt.Sprintf("%x %d", b, took)
		if !ok {
			got = "no"
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q of %d bytes: got %s, want %s", c.words, c.size, got, c.want)
		}
	}
}

// Whatever the words are: as many bytes as are wanted, or none and a reason.
func FuzzBytes(f *testing.F) {
	for _, s := range []string{"1 2 3 4", "hex 0a 0b", "hex 0a0b0c", "hex", "0x1 08", "he 0X1", "1 2 x"} {
		f.Add(s, uint8(4))
	}
	f.Fuzz(func(t *testing.T, line string, size uint8) {
		words := strings.Split(line, " ")
		b, took, ok, err := Bytes(words, int(size))
		switch {
		case err != nil:
			if !ok || b != nil {
				t.Fatalf("%q: %x, %v, %v", line, b, ok, err)
			}
		case !ok && took != 0, ok && len(b) != int(size), took > len(words):
			t.Fatalf("%q: %x, %d, %v", line, b, took, ok)
		case ok && !strings.HasPrefix("hex", words[0]):
			var again []string
			for _, c := range b {
				again = append(again, fmt.Sprint(c))
			}
			if back, _, _, err := Bytes(again, int(size)); err != nil || !bytes.Equal(back, b) {
				t.Fatalf("%q: %x, back %x, %v", line, b, back, err)
			}
		}
	})
}
