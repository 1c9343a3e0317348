package entries

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Bytes reads so many bytes from the beginning of words in bpftool's way: one
// number per byte, in decimal, with 0x or in octal with 0; behind the word hex
// all are hex digits, where a word may hold several bytes as well. It says how
// many words it took. ok is false where the words are not written in that way:
// a single word that is no byte, or too few for so many bytes, may be a value
// in words of people.
func Bytes(words []string, size int) (b []byte, took int, ok bool, err error) {
	if len(words) > 0 && words[0] != "" && strings.HasPrefix("hex", words[0]) {
		b, took, err = hexBytes(words[1:], size)
		return b, took + 1, true, err
	}
	for _, w := range words {
		if len(b) == size {
			break
		}
		n, err := strconv.ParseUint(w, 0, 8)
		if err != nil || strings.Contains(w, "_") {
			break
		}
		b = append(b, byte(n))
	}
	switch {
	case len(b) == size:
		return b, size, true, nil
	case len(b) < 2: // a number is a value, too
		return nil, 0, false, nil
	}
	if len(words) > len(b) {
		return nil, 0, true, fmt.Errorf("want %d bytes, have %d before %q", size, len(b), words[len(b)])
	}
	return nil, 0, true, fmt.Errorf("want %d bytes, have %d", size, len(b))
}

func hexBytes(words []string, size int) (b []byte, took int, err error) {
	for _, w := range words {
		if len(b) >= size {
			break
		}
		digits := strings.TrimPrefix(strings.TrimPrefix(w, "0x"), "0X")
		if len(digits) == 1 {
			digits = "0" + digits
		}
		more, err := hex.DecodeString(digits)
		if err != nil || len(more) == 0 {
			return nil, 0, fmt.Errorf("want %d bytes, have %d before %q, which is no byte in hex", size, len(b), w)
		}
		b = append(b, more...)
		took++
	}
	if len(b) != size {
		return nil, 0, fmt.Errorf("want %d bytes, have %d", size, len(b))
	}
	return b, took, nil
}
