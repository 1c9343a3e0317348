package entries

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af/internal/btftext"
	"l3af/internal/doc"
	"l3af/internal/rawbtf"
	"l3af/internal/value"
)

// types makes the formatters of keys and values; none where that fails.
func (m *Map) types() error {
	m.key, m.value = nil, nil
	i := &m.Info
	var spec *rawbtf.Spec
	var err error
	valueType := i.BTFValueTypeID
	switch {
	case i.BTFVmlinuxValueTypeID != 0:
		valueType = i.BTFVmlinuxValueTypeID
		spec, err = rawbtf.Vmlinux()
	case i.BTFID == 0 || valueType == 0:
		return nil
	default:
		spec, err = rawbtf.FromKernel(i.BTFID)
	}
	if err != nil {
		return err
	}
	if m.value, err = formatter(spec, valueType, i.ValueSize); m.value == nil || i.BTFKeyTypeID == 0 || i.BTFVmlinuxValueTypeID != 0 {
		return err
	}
	if m.key, err = formatter(spec, i.BTFKeyTypeID, i.KeySize); err != nil {
		m.value = nil
	}
	return err
}

// formatter is nil for types that are larger than the bytes there are.
func formatter(s *rawbtf.Spec, id, size uint32) (*btftext.Formatter, error) {
	f, err := btftext.Compile(s, rawbtf.ID(id))
	if err != nil || f.Size() > int(size) {
		return nil, err
	}
	return f, nil
}

// People reads and writes keys and values in words of people, as documents have
// them: by BTF where there is some, else as bytes, numbers and addresses.
type People struct {
	m          *Map
	key, value btf.Type // nil: not known
}

// People are the words for this map.
func (m *Map) People() (*People, error) {
	p := &People{m: m}
	if m.value == nil || m.Info.BTFVmlinuxValueTypeID != 0 {
		return p, nil
	}
	h, err := btf.NewHandleFromID(btf.ID(m.Info.BTFID))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	defer h.Close()
	spec, err := h.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("%s: types: %w", m, err)
	}
	if p.value, err = spec.TypeByID(btf.TypeID(m.Info.BTFValueTypeID)); err != nil {
		return nil, fmt.Errorf("%s: type of values: %w", m, err)
	}
	if m.key != nil {
		if p.key, err = spec.TypeByID(btf.TypeID(m.Info.BTFKeyTypeID)); err != nil {
			return nil, fmt.Errorf("%s: type of keys: %w", m, err)
		}
	}
	return p, nil
}

// Key reads a key from a YAML or JSON text.
func (p *People) Key(text string) ([]byte, error) {
	return encode(p.key, text, int(p.m.Info.KeySize), value.Options{LPM: p.m.Type() == ebpf.LPMTrie})
}

// Value reads a value, of one CPU, from a YAML or JSON text.
func (p *People) Value(text string) ([]byte, error) {
	return encode(p.value, text, int(p.m.Info.ValueSize), value.Options{})
}

func encode(t btf.Type, text string, size int, o value.Options) ([]byte, error) {
	v, err := doc.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	if t == nil {
		return value.EncodeBytes(size, v, o)
	}
	b, err := value.Encode(t, v, o)
	if err == nil && len(b) < size {
		b = append(b, make([]byte, size-len(b))...)
	}
	return b, err
}

// PeopleEntry is an entry in words of people. Of a per-CPU map it has Values.
type PeopleEntry struct {
	Key    any    `json:"key,omitempty"`
	Value  any    `json:"value,omitempty"`
	Values []any  `json:"values,omitempty"` // by CPU
	Error  string `json:"error,omitempty"`  // why there is no value
}

// Entry writes an entry.
func (p *People) Entry(e Entry) (PeopleEntry, error) {
	var out PeopleEntry
	var err error
	if out.Key, err = p.KeyOf(e); err != nil {
		return out, err
	}
	if e.Err != nil {
		out.Error = Text(e.Err)
		return out, nil
	}
	values := make([]any, 0, 1)
	for _, b := range p.m.Values(e.Value) {
		v, err := decode(p.value, b, value.Options{})
		if err != nil {
			return out, err
		}
		values = append(values, v)
	}
	if p.m.CPUs > 0 {
		out.Values = values
	} else {
		out.Value = values[0]
	}
	return out, nil
}

// KeyOf writes the key of an entry, nil where it has none.
func (p *People) KeyOf(e Entry) (any, error) {
	if len(e.Key) == 0 {
		return nil, nil
	}
	return decode(p.key, e.Key, value.Options{LPM: p.m.Type() == ebpf.LPMTrie})
}

func decode(t btf.Type, b []byte, o value.Options) (any, error) {
	if t == nil {
		return value.DecodeBytes(b, o), nil
	}
	return value.Decode(t, b, o)
}
