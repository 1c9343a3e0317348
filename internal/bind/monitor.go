package bind

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/near"
)

// Monitor is one entry whose value is a metric.
type Monitor struct {
	host.MapKey
	Text       string // the key as people write it
	Aggregator l3af.Aggregator
	Signed     bool // the value is two's complement
	Network    bool // the value is in network byte order
}

// Number is the value as an integer. A per-CPU map's values are added up.
func (m *Monitor) Number(values [][]byte) float64 {
	sum := new(big.Int)
	for _, v := range values {
		v = slices.Clone(v)
		if !m.Network && !bigEndian {
			slices.Reverse(v)
		}
		n := new(big.Int).SetBytes(v)
		if m.Signed && len(v) > 0 && v[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(v))*8))
		}
		sum.Add(sum, n)
	}
	f, _ := new(big.Float).SetInt(sum).Float64()
	return f
}

// maxMonitored bounds the entries that one program's ranges name.
const maxMonitored = 1024

// monitors encodes the keys of the entries that the document watches, and says
// in contents that these are to be there.
func (b *binder) monitors(member string, s l3af.Settings, contents []host.Contents) ([]Monitor, []host.Contents) {
	var list []Monitor
	there := wanted{}
	for i, e := range s.Monitor {
		path, spec := fmt.Sprintf(".monitor[%d]", i), b.spec.Maps[e.Map]
		switch {
		case spec == nil || isSection(e.Map):
			b.fail(path+".map", near.Hint(e.Map, b.settable()), "package %s has no map %q", b.pkg.Manifest.Name, clip(e.Map))
			continue
		case unwatched(spec) != "":
			b.fail(path+".map", "", "%q %s", clip(e.Map), unwatched(spec))
			continue
		case !b.uses(e.Map):
			b.fail(path+".map", near.Hint("", b.settable()), "program %q does not use the map %q", b.entry, clip(e.Map))
			continue
		}
		row := Monitor{MapKey: host.MapKey{Member: member, Instance: s.Instance, Map: e.Map}, Aggregator: e.Aggregator}
		if row.Aggregator == "" {
			row.Aggregator = l3af.Scalar
		}
		c := b.entries(e.Map)
		row.Signed, row.Network = signed(spec.Value), c.listed.ValueNetwork || network(spec.Value)
		keys, ok := c.several(path+".key", e.Key, maxMonitored-len(list))
		if !ok {
			continue
		}
		for _, key := range keys {
			row.Text, row.Key = text(key), c.encodeKey(path+".key", key)
			twice := slices.ContainsFunc(list, func(o Monitor) bool {
				return o.Map == row.Map && o.Aggregator == row.Aggregator && bytes.Equal(o.Key, row.Key)
			})
			switch {
			case row.Key == nil: // told
			case twice:
				b.fail(path+".key", "", "%s of %s is there already", clip(row.Text), row.Aggregator)
			default:
				list = append(list, row)
				if c.indexed() {
					continue // every index has an entry
				}
				if contents = there.add(contents, row.MapKey); len(there[e.Map]) == int(spec.MaxEntries)+1 {
					b.fail(path+".key", "", "the entry does not fit: the map %q holds %d (max_entries)", e.Map, spec.MaxEntries)
				}
			}
		}
	}
	return list, contents
}

// wanted are the keys that are to be in maps, by map.
type wanted map[string]map[string]bool

// add adds to what is wanted of a map that a key has an entry.
func (w wanted) add(contents []host.Contents, key host.MapKey) []host.Contents {
	i := slices.IndexFunc(contents, func(c host.Contents) bool { return c.Map == key.Map })
	if i < 0 {
		i, contents = len(contents), append(contents, host.Contents{Member: key.Member, Map: key.Map})
	}
	if w[key.Map] == nil {
		w[key.Map] = map[string]bool{}
		for _, e := range contents[i].Entries {
			w[key.Map][string(e.Key)] = true
		}
	}
	w[key.Map][string(key.Key)] = true
	if !slices.ContainsFunc(contents[i].Present, func(k []byte) bool { return bytes.Equal(k, key.Key) }) {
		contents[i].Present = append(contents[i].Present, key.Key)
	}
	return contents
}

// unwatched says why the entries of a map are no metrics; "" if they are.
func unwatched(m *ebpf.MapSpec) string {
	switch m.Type {
	case ebpf.Array, ebpf.PerCPUArray:
	case ebpf.Hash, ebpf.PerCPUHash, ebpf.LRUHash, ebpf.LRUCPUHash, ebpf.LPMTrie:
		if m.Flags&unix.BPF_F_RDONLY != 0 {
			return "is a map that only programs write (BPF_F_RDONLY): a missing entry could not be made"
		}
	default:
		return fmt.Sprintf("is a map of type %s, whose entries are no numbers", m.Type)
	}
	switch {
	case m.Flags&unix.BPF_F_WRONLY != 0:
		return "is a map that only programs read (BPF_F_WRONLY)"
	case m.ValueSize == 0 || m.ValueSize > 8:
		return fmt.Sprintf("has values of %d bytes: only those of 1 to 8 are numbers", m.ValueSize)
	}
	return ""
}

// signed reports whether BTF says that an integer is.
func signed(t btf.Type) bool {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Int:
		return t.Encoding == btf.Signed
	case *btf.Enum:
		return t.Signed
	}
	return false
}

// network reports whether the name of an integer type says network byte order.
func network(t btf.Type) bool {
	for {
		switch of := t.(type) {
		case *btf.Typedef:
			if slices.Contains([]string{"__be16", "__be32", "__be64"}, of.Name) {
				return true
			}
			t = of.Type
		case *btf.Const:
			t = of.Type
		case *btf.Volatile:
			t = of.Type
		default:
			return false
		}
	}
}

// several takes a range or a list of integer keys apart, and leaves any other
// key as it is.
func (c *contents) several(path string, key any, limit int) (keys []any, ok bool) {
	list, isList := key.([]any)
	if integers, typed := c.integers(); !integers || isList && !typed { // such a list is bytes
		return []any{key}, true
	}
	if !isList {
		list = []any{key}
	}
	for i, k := range list {
		at := path
		if isList {
			at = fmt.Sprintf("%s[%d]", path, i)
		}
		from, to, isRange := rangeOf(k)
		switch {
		case !isRange:
			keys = append(keys, k)
		case from.Cmp(to) > 0:
			c.b.fail(at, fmt.Sprintf("write %s-%s", to, from), "the range %q ends before it begins", clip(text(k)))
			return nil, false
		case new(big.Int).Sub(to, from).Cmp(big.NewInt(int64(limit-len(keys)))) >= 0:
			c.b.fail(at, "", "the range %q is too large: a program can have %d monitored entries", clip(text(k)), maxMonitored)
			return nil, false
		default:
			for n := from; n.Cmp(to) <= 0; n = new(big.Int).Add(n, big.NewInt(1)) {
				keys = append(keys, json.Number(n.String()))
			}
		}
	}
	if len(keys) > limit {
		c.b.fail(path, "", "%d keys are too many: a program can have %d monitored entries", len(keys), maxMonitored)
		return nil, false
	}
	return keys, true
}

// integers reports whether the keys of the map are, and whether their type
// says so or only their size.
func (c *contents) integers() (ok, typed bool) {
	if c.indexed() {
		return true, true
	}
	if n, err := sizeof(c.spec.Key); err != nil || n != int(c.spec.KeySize) {
		return slices.Contains([]uint32{1, 2, 4, 8}, c.spec.KeySize), false
	}
	switch t := btf.UnderlyingType(c.spec.Key).(type) {
	case *btf.Int:
		return t.Encoding != btf.Bool && t.Size <= 8, true
	case *btf.Enum:
		return true, true
	}
	return false, true
}

// rangeOf reads "0-15".
func rangeOf(v any) (from, to *big.Int, ok bool) {
	s, isText := v.(string)
	if !isText || len(s) > 64 {
		return nil, nil, false
	}
	a, b, _ := strings.Cut(s, "-")
	from, ok1 := number10(a)
	to, ok2 := number10(b)
	return from, to, ok1 && ok2
}

// number10 reads an unsigned decimal number.
func number10(s string) (*big.Int, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return nil, false
	}
	return new(big.Int).SetString(s, 10)
}

// text is a key of the document as people read it.
func text(key any) string {
	switch k := key.(type) {
	case string:
		return k
	case json.Number:
		return k.String()
	}
	b, err := json.Marshal(key)
	if err != nil {
		return fmt.Sprint(key)
	}
	return string(b)
}
