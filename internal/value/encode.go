package value

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"

	"l3af/internal/near"
)

type encoder struct {
	errs  Errors
	nodes int // how many more places may be visited
}

// maxErrors is how many mistakes of one value are worth reading.
const maxErrors = 50

func (e *encoder) fail(c context, hint, format string, args ...any) {
	if len(e.errs) < maxErrors {
		e.errs = append(e.errs, &Error{c.path, fmt.Sprintf(format, args...), hint})
	}
}

// value writes v as a t to out, which has the size that t is said to have.
func (e *encoder) value(c context, t btf.Type, v any, out []byte) {
	if e.nodes--; e.nodes < 0 || c.depth > maxDepth {
		e.fail(c, "", "the type is too deep or too large")
		return
	}
	t, c = c.resolve(t)
	switch t := t.(type) {
	case *btf.Int:
		if t.Size == 0 || t.Size > 16 {
			e.fail(c, "", "integers of %d bytes cannot be set", t.Size)
			return
		}
		also := ""
		if addressSize(c, t) != 0 {
			if s, ok := v.(string); ok && strings.ContainsAny(s, ".:/") {
				e.address(c, s, out)
				return
			}
			also = fmt.Sprintf(" or an %s address", family(len(out)))
		}
		if n, ok := e.scalar(c, t, v, 8*uint(t.Size), also); ok {
			putInt(out, n, c.network)
		}
	case *btf.Enum:
		if t.Size == 0 || t.Size > 8 {
			e.fail(c, "", "enums of %d bytes cannot be set", t.Size)
			return
		}
		if n, ok := e.scalar(c, t, v, 8*uint(t.Size), ""); ok {
			putInt(out, n, c.network)
		}
	case *btf.Float:
		e.float(c, t, v, out)
	case *btf.Array:
		e.array(c, t, v, out)
	case *btf.Struct:
		if c.prefix && !c.trie {
			e.lpm(c, t, v, out)
			return
		}
		if s, ok := v.(string); ok && addressSize(c, t) != 0 {
			e.address(c, s, out)
			return
		}
		if isPrefix(c, t) {
			c.trie = true
			if s, ok := v.(string); ok {
				if in, ok := trieData(c, t, len(out)-4); ok {
					e.prefix(in, s, out)
					return
				}
			}
		}
		if kernels[t.Name] {
			e.fail(c, "leave it out", "struct %s is the kernel's own", t.Name)
			return
		}
		if m, ok := e.mapOf(c, t, t.Members, v); ok {
			e.members(c, t.Members, false, m, out)
		}
	case *btf.Union:
		if s, ok := v.(string); ok {
			if i := memberFor(c, t, s); i >= 0 {
				e.member(c, &t.Members[i], v, out)
				return
			}
		}
		if m, ok := e.mapOf(c, t, t.Members, v); ok {
			e.members(c, t.Members, true, m, out)
		}
	case *btf.Pointer:
		e.fail(c, "leave it out", "it is a pointer, which cannot be set")
	default:
		e.fail(c, "", "%s cannot be set", describe(t))
	}
}

// kernels are the structs of map values that only the kernel writes
// (btf_field_type in linux/bpf.h).
var kernels = map[string]bool{
	"bpf_spin_lock": true, "bpf_res_spin_lock": true, "bpf_timer": true, "bpf_wq": true, "bpf_task_work": true,
	"bpf_list_head": true, "bpf_list_node": true, "bpf_rb_root": true, "bpf_rb_node": true, "bpf_refcount": true,
}

// memberFor finds the member of a union that takes the address s; -1 if none.
func memberFor(c context, u *btf.Union, s string) int {
	size := 0
	if a, err := netip.ParseAddr(s); err == nil {
		size = a.BitLen() / 8
	}
	best := -1
	for i := range u.Members {
		m := &u.Members[i]
		in := c.member(m)
		_, in = in.resolve(m.Type)
		n := addressSize(in, m.Type)
		if m.BitfieldSize != 0 || m.Offset != 0 || n == 0 || n == 6 {
			continue
		}
		if in.mapped && n == 16 {
			return i // takes both families
		}
		if best < 0 || n == size {
			best = i
		}
	}
	return best
}

func (e *encoder) mapOf(c context, t btf.Type, members []btf.Member, v any) (map[string]any, bool) {
	if m, ok := v.(map[string]any); ok {
		return m, true
	}
	e.fail(c, "", "want a map with members of %s (%s), have %s", describe(t), brief(listed(members)), kind(v))
	return nil, false
}

func brief(names []string) string {
	if len(names) > 8 {
		names = append(slices.Clip(names[:8]), "…")
	}
	return strings.Join(names, ", ")
}

// nested gives the members of an anonymous struct or union member.
func nested(m *btf.Member) (members []btf.Member, union, ok bool) {
	if m.Name != "" {
		return nil, false, false
	}
	switch t := underlying(m.Type).(type) {
	case *btf.Struct:
		return t.Members, false, true
	case *btf.Union:
		return t.Members, true, true
	}
	return nil, false, false
}

// maxAnonymous bounds how deep anonymous members nest. C's own limit is
// higher, but nobody writes more.
const maxAnonymous = 8

// names lists the names one may write, those of anonymous members included.
// It looks at no more than *nodes members.
func names(members []btf.Member, depth int, nodes *int) []string {
	var all []string
	for i := range members {
		if *nodes--; *nodes < 0 {
			break
		}
		if in, _, ok := nested(&members[i]); ok && depth < maxAnonymous {
			all = append(all, names(in, depth+1, nodes)...)
		} else if members[i].Name != "" {
			all = append(all, members[i].Name)
		}
	}
	return all
}

// listed are the names for a message.
func listed(members []btf.Member) []string {
	nodes := 1000
	return names(members, 0, &nodes)
}

// members writes the named members of a struct or union.
func (e *encoder) members(c context, members []btf.Member, union bool, m map[string]any, out []byte) {
	// Which member each name belongs to.
	owner := map[string]int{}
	for i := range members {
		if in, _, ok := nested(&members[i]); ok {
			for _, n := range names(in, 1, &e.nodes) {
				owner[n] = i
			}
		} else if members[i].Name != "" {
			owner[members[i].Name] = i
		}
	}
	inner := map[int]map[string]any{}
	var given []string // the first name of each member that is set
	for _, name := range slices.Sorted(maps.Keys(m)) {
		i, ok := owner[name]
		if !ok {
			e.fail(c, near.Hint(name, listed(members)), "there is no member %s", quote(name))
			continue
		}
		if inner[i] == nil {
			inner[i] = map[string]any{}
			given = append(given, name)
		}
		inner[i][name] = m[name]
	}
	if union && len(given) > 1 {
		e.fail(c, "set one of them", "%s share their bytes in a union", strings.Join(given, ", "))
		return
	}
	for i := range members {
		switch set := inner[i]; {
		case set == nil && slices.Contains(members[i].Tags, TagRequired):
			e.fail(c, "", "%s is required", members[i].Name)
		case set == nil:
		case members[i].Name == "":
			e.member(c, &members[i], set, out)
		default:
			e.member(c, &members[i], set[members[i].Name], out)
		}
	}
}

const damaged = "the type information is damaged: the member is outside of its struct"

// member writes v to a member of the struct whose bytes are out.
func (e *encoder) member(c context, m *btf.Member, v any, out []byte) {
	c = c.member(m)
	if m.BitfieldSize != 0 {
		offset, size := uint64(m.Offset), uint64(m.BitfieldSize)
		if size > 64 || offset+size > 8*uint64(len(out)) {
			e.fail(c, "", damaged)
			return
		}
		t, c := c.resolve(m.Type)
		if n, ok := e.scalar(c, t, v, uint(size), ""); ok {
			putBits(out, n, uint(offset), uint(size))
		}
		return
	}
	size, err := sizeof(m.Type)
	if err != nil {
		e.fail(c, "", "%v", err)
		return
	}
	at := uint64(m.Offset) / 8
	if m.Offset%8 != 0 || at+uint64(size) > uint64(len(out)) {
		e.fail(c, "", damaged)
		return
	}
	e.value(c, m.Type, v, out[at:at+uint64(size)])
}

func (e *encoder) array(c context, t *btf.Array, v any, out []byte) {
	el, _ := c.resolve(t.Type)
	i, isInt := el.(*btf.Int)
	if s, ok := v.(string); ok && isInt {
		e.text(c, t, i, s, out)
		return
	}
	list, ok := v.([]any)
	if !ok {
		e.fail(c, "", "want %s, have %s", wantArray(c, t, i), kind(v))
		return
	}
	if len(list) > int(t.Nelems) {
		e.fail(c, "", "%d elements do not fit: %s holds %d", len(list), describe(t), t.Nelems)
		return
	}
	if isInt && i.Size == 1 && !isChar(i) && i.Encoding != btf.Bool && len(list) != int(t.Nelems) {
		e.fail(c, "", "%d bytes are too few: %s wants exactly %d", len(list), describe(t), t.Nelems)
		return
	}
	if t.Nelems == 0 {
		return
	}
	size := len(out) / int(t.Nelems)
	for i, v := range list {
		e.value(c.element(i), t.Type, v, out[i*size:(i+1)*size])
	}
}

func wantArray(c context, t *btf.Array, el *btf.Int) string {
	also := ""
	switch {
	case el == nil:
	case isChar(el):
		return fmt.Sprintf("text of up to %d bytes", t.Nelems)
	default:
		switch addressSize(c, t) {
		case 4:
			also = " or an IPv4 address"
		case 6:
			also = " or a MAC address"
		case 16:
			also = " or an IPv6 address"
		}
	}
	return fmt.Sprintf("a list of %d%s", t.Nelems, also)
}

// text writes what somebody wrote as text to an array of integers.
func (e *encoder) text(c context, t *btf.Array, el *btf.Int, s string, out []byte) {
	if isChar(el) {
		if len(s) > len(out) {
			e.fail(c, "", "text of %d bytes does not fit: %s holds %d", len(s), describe(t), len(out))
		} else if strings.IndexByte(s, 0) >= 0 {
			e.fail(c, "", "text cannot hold a zero byte")
		} else {
			copy(out, s)
		}
		return
	}
	if el.Size == 1 && el.Encoding != btf.Bool && strings.HasPrefix(s, "0x") {
		e.hex(c, s, out)
		return
	}
	if addressSize(c, t) == 0 {
		e.fail(c, "", "want %s, have %s", wantArray(c, t, el), kind(s))
		return
	}
	e.address(c, s, out)
}

// hex writes "0x…" of exactly as many bytes as there are.
func (e *encoder) hex(c context, s string, out []byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(s[2:], "_", ""))
	if err != nil {
		e.fail(c, "", "%s is not hex digits in pairs", quote(s))
	} else if len(b) != len(out) {
		e.fail(c, "", "%s has %d bytes, want %d", quote(s), len(b), len(out))
	} else {
		copy(out, b)
	}
}

// bytes writes a value of which only the size is known.
func (e *encoder) bytes(c context, v any, out []byte) {
	size := len(out)
	scalar := size == 1 || size == 2 || size == 4 || size == 8
	switch v := v.(type) {
	case []any:
		if len(v) != size {
			e.fail(c, "", "%d bytes are given, want exactly %d", len(v), size)
			return
		}
		for i, b := range v {
			if n, ok := e.integer(c.element(i), b, 8, false, ""); ok {
				out[i] = byte(n.Uint64())
			}
		}
		return
	case string:
		if strings.HasPrefix(v, "0x") && !scalar {
			e.hex(c, v, out)
			return
		}
		if (size == 4 || size == 6 || size == 16) && strings.ContainsAny(v, ".:/") {
			e.address(c, v, out)
			return
		}
	}
	n, ok := number(v)
	if !ok || !scalar {
		e.fail(c, "the object has no type information for it", "want %s, have %s", wantBytes(size, scalar), kind(v))
		return
	}
	// Signed or unsigned, nobody knows.
	bits := uint(8 * size)
	lo, _ := limits(bits, true)
	_, hi := limits(bits, false)
	if n.Cmp(lo) < 0 || n.Cmp(hi) > 0 {
		e.fail(c, "", "%s is out of range: %s to %s", kind(v), lo, hi)
		return
	}
	putInt(out, complement(new(big.Int).Set(n), bits), c.network)
}

func wantBytes(size int, scalar bool) string {
	if scalar {
		return fmt.Sprintf("an integer of %d bytes", size)
	}
	return fmt.Sprintf("0x and %d hex digits or a list of %d bytes", 2*size, size)
}
