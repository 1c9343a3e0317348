// Package value turns values as people write them into bytes as BPF programs
// read them, and back, guided by BTF.
//
// A value is what encoding/json gives with UseNumber: nil, bool, string,
// json.Number, []any, map[string]any. It becomes, by the BTF type:
//
//   - integer (1 to 16 bytes): a number, or text in decimal, 0x, 0o or 0b. Text
//     that is an IPv4 address makes 4 bytes, an IPv6 address 16, always in
//     network byte order.
//   - boolean: true, false, 0 or 1. Float: a number, or "nan", "inf", "-inf".
//   - enum: a name, with or without the prefix that all its names share and in
//     any case (pass for XDP_PASS), or a number.
//   - array of char: text, padded with zeroes; a list of numbers too.
//   - array of 1-byte integers: a list of exactly that many, "0x…" of exactly
//     that many bytes, and where the size fits an IPv4 (4), MAC (6) or IPv6
//     (16) address. Wider integers that add up to such a size take addresses too.
//   - other arrays: a list. What a short list leaves out is zero, as in C.
//   - struct: a map. Members left out are zero. Those of an anonymous struct
//     or union are written as if they were the outer one's.
//   - union: a map with one member, or an address for the member of its size.
//   - key of an LPM trie, and a struct of prefixlen (4 bytes, in the machine's
//     byte order) and an address: a prefix or address, or a map of the members.
//
// Integers are in the machine's byte order except where the type or the caller
// says network byte order: a typedef named __be16, __be32 or __be64, the decl
// tag l3af:be on a member, variable or typedef, or [Options.Network]. The decl
// tag l3af:v4mapped on a 16-byte address, or on the struct that holds it, makes
// IPv4 addresses ::ffff:a.b.c.d and adds 96 to the length of IPv4 prefixes.
// Members that are not set are zero; the decl tag l3af:required on one makes
// that a mistake.
package value

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// The decl tags that this package knows.
const (
	TagNetwork  = "l3af:be"       // integers in network byte order
	TagV4Mapped = "l3af:v4mapped" // IPv4 addresses as ::ffff:a.b.c.d
	TagPrefix   = "l3af:prefix"   // a struct in the form of the key of an LPM trie
	TagRequired = "l3af:required" // a member that a map of members must set
)

// Options say what BTF does not.
type Options struct {
	Network bool // integers are in network byte order
	LPM     bool // the type is the key of an LPM trie (struct bpf_lpm_trie_key)
	// Tags are decl tags that hold for the whole value, such as those of the
	// map whose key it is.
	Tags []string
}

// Error is one thing wrong with a value.
type Error struct {
	Path    string // inside the value: .addr[3]; "" is the value itself
	Message string
	Hint    string
}

func (e *Error) Error() string {
	s := e.Message
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Errors is everything wrong with a value.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

const (
	// maxSize bounds what one value takes: the kernel's own bound of a map
	// value is KMALLOC_MAX_SIZE (4 MiB), data sections may be larger.
	maxSize = 32 << 20
	// maxDepth bounds how deep types nest, as libbpf's MAX_RESOLVE_DEPTH.
	maxDepth = 32
	// maxNodes bounds the work on damaged BTF, whose types may contain
	// themselves.
	maxNodes = 4 << 20
)

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// Encode gives the bytes of v as a t. The error is [Errors].
func Encode(t btf.Type, v any, o Options) ([]byte, error) {
	size, err := sizeof(t)
	if err != nil {
		return nil, Errors{{Message: err.Error()}}
	}
	out := make([]byte, size)
	e := encoder{nodes: maxNodes}
	c := context{network: o.Network}.tagged(o.Tags)
	if o.LPM {
		e.lpm(c, t, v, out)
	} else {
		e.value(c, t, v, out)
	}
	if len(e.errs) > 0 {
		return nil, e.errs
	}
	return out, nil
}

// EncodeBytes gives the size bytes of v where no type is known: integers (1, 2,
// 4 or 8 bytes), addresses of that size, "0x…" (for any other size), a list
// of bytes, or a prefix for the key of an LPM trie. The error is [Errors].
func EncodeBytes(size int, v any, o Options) ([]byte, error) {
	if size < 0 || size > maxSize {
		return nil, Errors{{Message: fmt.Sprintf("%d bytes are too many", size)}}
	}
	out := make([]byte, size)
	e := encoder{nodes: maxNodes}
	c := context{network: o.Network}.tagged(o.Tags)
	if o.LPM {
		e.lpm(c, nil, v, out)
	} else {
		e.bytes(c, v, out)
	}
	if len(e.errs) > 0 {
		return nil, e.errs
	}
	return out, nil
}

// context is what is known about a place in a value.
type context struct {
	path    string
	network bool // integers in network byte order
	mapped  bool // IPv4 as ::ffff:a.b.c.d
	trie    bool // top of the key of an LPM trie
	prefix  bool // a struct in the form of such a key
	depth   int
}

func (c context) tagged(tags []string) context {
	for _, t := range tags {
		switch t {
		case TagNetwork:
			c.network = true
		case TagV4Mapped:
			c.mapped = true
		case TagPrefix:
			c.prefix = true
		}
	}
	return c
}

func (c context) member(m *btf.Member) context {
	c.prefix = false
	in := c.tagged(m.Tags)
	in.depth++
	in.trie = c.trie && m.Offset == 0
	if m.Name != "" {
		in.path += "." + m.Name
		if in.trie {
			in.network = false // the kernel reads the prefix length
		}
		in.trie = false
	}
	return in
}

func (c context) element(i int) context {
	c.path += "[" + strconv.Itoa(i) + "]"
	c.trie = false
	c.depth++
	return c
}

// resolve strips typedefs and qualifiers, and learns from them.
func (c context) resolve(t btf.Type) (btf.Type, context) {
	for range maxDepth {
		switch q := t.(type) {
		case *btf.Typedef:
			c = c.tagged(q.Tags)
			switch q.Name {
			case "__be16", "__be32", "__be64":
				c.network = true
			}
			t = q.Type
		case *btf.Const:
			t = q.Type
		case *btf.Volatile:
			t = q.Type
		case *btf.Restrict:
			t = q.Type
		case *btf.TypeTag:
			t = q.Type
		case *btf.Var:
			c = c.tagged(q.Tags)
			t = q.Type
		case *btf.Struct:
			return t, c.tagged(q.Tags)
		case *btf.Union:
			return t, c.tagged(q.Tags)
		default:
			return t, c
		}
	}
	return (*btf.Void)(nil), c
}

func sizeof(t btf.Type) (int, error) {
	if v, ok := t.(*btf.Var); ok {
		t = v.Type
	}
	if t == nil {
		return 0, errors.New("the object does not say what type this is")
	}
	n, err := btf.Sizeof(t)
	if err != nil {
		return 0, fmt.Errorf("%s has no size", describe(t))
	}
	if n > maxSize {
		return 0, fmt.Errorf("%d bytes are too many", n)
	}
	return n, nil
}

// describe names a type as C does.
func describe(t btf.Type) string {
	prefix := ""
	switch u := t.(type) {
	case *btf.Const:
		return describe(u.Type)
	case *btf.Volatile:
		return describe(u.Type)
	case *btf.Struct:
		prefix = "struct "
	case *btf.Union:
		prefix = "union "
	case *btf.Enum:
		prefix = "enum "
	case *btf.Pointer:
		return "a pointer"
	case *btf.Array:
		return fmt.Sprintf("%s[%d]", describe(u.Type), u.Nelems)
	case *btf.Void, nil:
		return "void"
	}
	if n := t.TypeName(); n != "" {
		return prefix + n
	}
	return prefix + "without a name"
}

// kind says what somebody wrote.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case string:
		return quote(v)
	case json.Number:
		return clip(v.String())
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return fmt.Sprintf("a Go %T", v)
}

func quote(s string) string { return strconv.Quote(clip(s)) }

// clip keeps messages short whatever somebody wrote.
func clip(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}
