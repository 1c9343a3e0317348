package bind

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/host"
	"l3af/internal/near"
	"l3af/internal/value"
)

// maxContents bounds the bytes of the entries of one map: sizes come from the
// object.
const maxContents = 256 << 20

// maps encodes the wanted contents of maps: the document's, and where it is
// silent the defaults of the manifest.
func (b *binder) maps(member string, wanted map[string][]l3af.MapEntry) []host.Contents {
	var out []host.Contents
	for _, name := range names(wanted) {
		path, spec := ".maps."+name, b.spec.Maps[name]
		switch {
		case spec == nil || isSection(name):
			b.fail(path, near.Hint(name, b.settable()), "package %s has no map %q", b.pkg.Manifest.Name, clip(name))
		case unsuited(spec) != "":
			b.fail(path, "", "%q %s", clip(name), unsuited(spec))
		case !b.uses(name):
			b.fail(path, near.Hint("", b.settable()), "program %q does not use the map %q", b.entry, clip(name))
		default:
			out = append(out, b.contents(member, name, wanted[name], false)...)
		}
	}
	for _, m := range b.pkg.Manifest.Maps {
		_, set := wanted[m.Name]
		// A package may list the maps of several programs and objects.
		if spec := b.spec.Maps[m.Name]; set || m.Default == nil || spec == nil || !b.uses(m.Name) {
			continue
		} else if unsuited(spec) != "" {
			b.fail(".package", "", "package %s: %q %s", b.pkg.Manifest.Name, clip(m.Name), unsuited(spec))
			continue
		}
		out = append(out, b.contents(member, m.Name, m.Default, true)...)
	}
	return out
}

// contents encodes the wanted contents of one map.
func (b *binder) contents(member, name string, entries []l3af.MapEntry, byDefault bool) []host.Contents {
	path, spec := ".maps."+name, b.spec.Maps[name]
	if uint64(len(entries)) > uint64(spec.MaxEntries) {
		b.fail(path, "", "%d entries do not fit: the map holds %d (max_entries)", len(entries), spec.MaxEntries)
		return nil
	}
	if uint64(len(entries))*(uint64(spec.KeySize)+uint64(spec.ValueSize)) > maxContents {
		b.fail(path, "", "%d entries of %d bytes are too much: at most %d MiB", len(entries), uint64(spec.KeySize)+uint64(spec.ValueSize), maxContents>>20)
		return nil
	}
	c := b.entries(name)
	list := make([]host.Entry, 0, len(entries))
	for i := range entries {
		at := fmt.Sprintf("%s[%d]", path, i)
		key := c.key(at+".key", name, i, entries[i].Key)
		values := c.values(at+".value", entries[i].Value)
		list = append(list, host.Entry{Key: key, Values: values})
	}
	return []host.Contents{{Member: member, Map: name, Full: true, Entries: list, Default: byDefault}}
}

// entries is what encodes the entries of a map.
func (b *binder) entries(name string) *contents {
	c := &contents{b: b, spec: b.spec.Maps[name], seen: map[string]int{}}
	for i := range b.pkg.Manifest.Maps {
		if m := &b.pkg.Manifest.Maps[i]; m.Name == name {
			c.listed = *m
		}
	}
	return c
}

// settable lists the maps that people may set.
func (b *binder) settable() []string {
	var list []string
	for _, name := range names(b.spec.Maps) {
		if !isSection(name) && unsuited(b.spec.Maps[name]) == "" && b.uses(name) {
			list = append(list, name)
		}
	}
	return list
}

// unsuited says why a map cannot be given contents; "" if it can.
func unsuited(m *ebpf.MapSpec) string {
	switch m.Type {
	case ebpf.Hash, ebpf.Array, ebpf.PerCPUHash, ebpf.PerCPUArray, ebpf.LRUHash, ebpf.LRUCPUHash, ebpf.LPMTrie,
		ebpf.DevMap, ebpf.DevMapHash, ebpf.CPUMap:
	default:
		return fmt.Sprintf("is a map of type %s, which cannot be given contents", m.Type)
	}
	if m.Flags&unix.BPF_F_RDONLY != 0 {
		return "is a map that only programs write (BPF_F_RDONLY)"
	}
	return ""
}

// contents encodes the entries of one map.
type contents struct {
	b      *binder
	spec   *ebpf.MapSpec
	listed artifact.Map
	seen   map[string]int // keys
	cpus   int
}

// indexed reports whether keys are indexes below max_entries.
func (c *contents) indexed() bool {
	switch c.spec.Type {
	case ebpf.Array, ebpf.PerCPUArray, ebpf.DevMap, ebpf.CPUMap:
		return true
	}
	return false
}

func (c *contents) key(path, name string, i int, v any) []byte {
	key := c.encodeKey(path, v)
	if key == nil {
		return nil
	}
	if first, twice := c.seen[string(key)]; twice {
		c.b.fail(path, "", "is the key of maps.%s[%d] already", name, first)
		return nil
	}
	c.seen[string(key)] = i
	return key
}

// encodeKey gives the bytes of a key; nil when it has a mistake.
func (c *contents) encodeKey(path string, v any) []byte {
	o := value.Options{
		Network: c.listed.KeyNetwork && !c.indexed(),
		LPM:     c.spec.Type == ebpf.LPMTrie,
		Tags:    c.spec.Tags,
	}
	key, err := encode(c.spec.Key, c.spec.KeySize, v, o)
	if err != nil {
		c.b.failValue(path, "", err)
		return nil
	}
	if c.indexed() && len(key) == 4 {
		if n := binary.NativeEndian.Uint32(key); n >= c.spec.MaxEntries {
			c.b.fail(path, "", "index %d is out of range: 0 to %d", n, int64(c.spec.MaxEntries)-1)
			return nil
		}
	}
	return key
}

// encode writes a key or value by its type, or by its size where the object
// says no more.
func encode(t btf.Type, size uint32, v any, o value.Options) ([]byte, error) {
	if n, err := sizeof(t); err != nil || n != int(size) || n == 0 {
		return value.EncodeBytes(int(size), v, o)
	}
	return value.Encode(t, v, o)
}

func sizeof(t btf.Type) (int, error) {
	if t == nil {
		return 0, nil
	}
	return btf.Sizeof(t)
}

func (c *contents) values(path string, v any) [][]byte {
	switch c.spec.Type {
	case ebpf.DevMap, ebpf.DevMapHash:
		return c.index(path, v, "ifindex", "an interface")
	case ebpf.CPUMap:
		return c.index(path, v, "qsize", "a queue")
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		if list, ok := v.([]any); ok && !c.listValue() {
			return c.perCPU(path, list)
		}
	}
	return [][]byte{c.value(path, v)}
}

func (c *contents) value(path string, v any) []byte {
	b, err := encode(c.spec.Value, c.spec.ValueSize, v, value.Options{Network: c.listed.ValueNetwork})
	if err != nil {
		c.b.failValue(path, "", err)
	}
	return b
}

// listValue reports whether a list is one value: of an array, or of bytes of
// which no more is known.
func (c *contents) listValue() bool {
	if n, err := sizeof(c.spec.Value); err != nil || n == 0 || n != int(c.spec.ValueSize) {
		return true
	}
	_, ok := btf.As[*btf.Array](c.spec.Value)
	return ok
}

func (c *contents) perCPU(path string, list []any) [][]byte {
	if c.cpus == 0 {
		n, err := ebpf.PossibleCPU()
		if err != nil {
			c.b.fail(path, "", "how many CPUs there may be is not known: %v", err)
			return nil
		}
		c.cpus = n
	}
	if len(list) != c.cpus {
		c.b.fail(path, "write one value for all", "want a value for each of %d possible CPUs, have %d", c.cpus, len(list))
		return nil
	}
	out := make([][]byte, len(list))
	for i, v := range list {
		out[i] = c.value(fmt.Sprintf("%s[%d]", path, i), v)
	}
	return out
}

// index writes values that begin with an index or size and may end with a
// program (struct bpf_devmap_val, struct bpf_cpumap_val), which is not set.
func (c *contents) index(path string, v any, member, what string) [][]byte {
	if m, ok := v.(map[string]any); ok {
		for _, name := range names(m) {
			if name != member {
				c.b.fail(path+"."+name, "", "only %s can be set", member)
				return nil
			}
		}
		path, v = path+"."+member, m[member]
	}
	if s, ok := v.(string); ok && member == "ifindex" && s != "" && (s[0] < '0' || s[0] > '9') {
		c.b.fail(path, "ip link shows it", "want the index of an interface, have %q", clip(s))
		return nil
	}
	b, err := value.Encode(&btf.Int{Size: 4}, v, value.Options{})
	switch {
	case err != nil:
		c.b.failValue(path, "", err)
	case binary.NativeEndian.Uint32(b) == 0:
		c.b.fail(path, "leave the entry out", "0 is not %s", what)
	case c.spec.ValueSize != 4 && c.spec.ValueSize != 8:
		c.b.fail(path, "", "the map has values of %d bytes: want 4 or 8", c.spec.ValueSize)
	default:
		return [][]byte{append(b, make([]byte, c.spec.ValueSize-4)...)}
	}
	return nil
}
