package inspect

import (
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
	"l3af/internal/rawbtf"
)

// Metadata is what a program says of itself: its read-only variables with names
// that begin with bpf_metadata_.
type Metadata []Variable

// Variable is a variable and its value.
type Variable struct {
	Name string // without bpf_metadata_
	JSON string // the value
	Text string // the value as bpftool prints it to people
}

const metadataPrefix = "bpf_metadata_"

// MarshalJSON gives one object with the variables as members.
func (m Metadata) MarshalJSON() ([]byte, error) {
	var w btftext.Writer
	w.BeginObject()
	for _, v := range m {
		w.Name(v.Name)
		w.JSON([]byte(v.JSON))
	}
	w.EndObject()
	return w.Buf, nil
}

// metadataReader looks for metadata in the maps of programs, once in each.
type metadataReader struct {
	of map[uint32]Metadata
	hold
}

func newMetadataReader() *metadataReader { return &metadataReader{of: map[uint32]Metadata{}} }

// among gives the metadata of a program with these maps.
func (r *metadataReader) among(maps []uint32) Metadata {
	for _, id := range maps {
		m, ok := r.of[id]
		if !ok {
			m = r.read(id)
			r.of[id] = m
		}
		if m != nil {
			return m
		}
	}
	return nil
}

// read gives none for maps that are something else, have gone, or cannot be read.
func (r *metadataReader) read(id uint32) Metadata {
	o, err := bpfsys.ByID(bpfsys.Map, id, unix.BPF_F_RDONLY)
	if err != nil {
		return nil
	}
	defer o.Close()
	var info bpfsys.MapInfo
	if bpfsys.Info(o, &info) != nil {
		return nil
	}
	r.keep(o, &info)
	if ebpf.MapType(info.Type) != ebpf.Array || info.KeySize != 4 || info.MaxEntries != 1 || info.BTFValueTypeID == 0 ||
		!strings.Contains(bpfsys.Text(info.Name[:]), ".rodata") {
		return nil
	}
	spec, err := rawbtf.FromKernel(info.BTFID)
	if err != nil {
		return nil
	}
	section := spec.Type(rawbtf.ID(info.BTFValueTypeID))
	if section == nil || section.Kind != rawbtf.Datasec {
		return nil
	}
	value := make([]byte, info.ValueSize)
	if bpfsys.Lookup(o, make([]byte, 4), value) != nil {
		return nil
	}
	var list Metadata
	for _, v := range section.Variables() {
		variable := spec.Type(v.Type)
		name, ok := strings.CutPrefix(variable.Name, metadataPrefix)
		if !ok || uint64(v.Offset)+uint64(v.Size) > uint64(len(value)) {
			continue
		}
		f, err := btftext.Compile(spec, variable.Type)
		if err != nil || uint64(f.Size()) > uint64(v.Size) {
			continue
		}
		var json, text btftext.Writer
		f.Value(&json, value[v.Offset:], false)
		f.Value(&text, value[v.Offset:], true)
		list = append(list, Variable{name, string(json.Buf), string(text.Buf)})
	}
	return list
}
