package chain

import (
	"fmt"
	"strings"
)

// maxIdentifier bounds the names given to BTF: KSYM_NAME_LEN with its
// terminator was 128 before Linux 6.1.
const maxIdentifier = 127

// identifier writes any name as a C identifier, so that [unidentifier] gives
// the name back. Bytes that an identifier may not hold become _xHH; so do a
// leading digit, and an underscore that would read as such an escape.
func identifier(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9' && i > 0:
			b.WriteByte(c)
		case c == '_' && (i+1 == len(name) || name[i+1] != 'x'):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_x%02x", c)
		}
	}
	return b.String()
}

// unidentifier is the inverse of identifier.
func unidentifier(id string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		if !strings.HasPrefix(id[i:], "_x") {
			b.WriteByte(id[i])
			continue
		}
		if len(id) < i+4 {
			return "", fmt.Errorf("name %q: escape cut short", id)
		}
		hi, lo := unhex(id[i+2]), unhex(id[i+3])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("name %q: bad escape %q", id, id[i:i+4])
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 3
	}
	return b.String(), nil
}

func unhex(c byte) int { return strings.IndexByte("0123456789abcdef", c) }

// functionNames makes names for the functions of a program that are unique in
// taken, which it adds them to.
func functionNames(prefix string, fns []function, taken map[string]bool) []string {
	names := make([]string, len(fns))
	for i, f := range fns {
		base := identifier(f.name)
		if prefix != "" {
			base = identifier(prefix) + "__" + base
		}
		base = base[:min(len(base), maxIdentifier-4)]
		name := base
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s_%d", base, n)
		}
		taken[name] = true
		names[i] = name
	}
	return names
}

// title is the BTF name of a chain's entry function: the kernel's name, then
// the members as far as there is room.
func title(id string, members []string) string {
	s := NamePrefix + id
	for i, m := range members {
		next := "__" + identifier(m)
		more := fmt.Sprintf("__and_%d_more", len(members)-i)
		if len(s)+len(next)+len(more) > maxIdentifier && (i < len(members)-1 || len(s)+len(next) > maxIdentifier) {
			return s + more
		}
		s += next
	}
	return s
}
