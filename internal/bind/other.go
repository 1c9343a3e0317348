package bind

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/near"
)

// Programs that were written for other ways of chaining.

// next is the array by which a program written for L3AF calls the one behind
// it, as the document says or else the manifest; "" for other programs.
func (b *binder) next(row *artifact.Program, said string) string {
	if said != "" {
		if m := b.spec.Maps[said]; m == nil {
			b.fail(".next", near.Hint(said, names(b.spec.Maps)), "package %s has no map %q", b.pkg.Manifest.Name, clip(said))
		} else if !oneProgram(m) {
			b.fail(".next", "", "map %q is no empty array of one program", clip(said))
		}
		return said
	}
	if row.Chain == "" {
		return ""
	}
	name := b.pkg.Manifest.Name
	if row.MapName != "" {
		m := b.spec.Maps[row.MapName]
		if m == nil {
			b.fail(".package", "", "package %s: object %s has no map %q, which its manifest names", name, row.Object, clip(row.MapName))
		} else if !oneProgram(m) {
			b.fail(".package", "", "package %s: map %s is no empty array of one program", name, clip(row.MapName))
		}
		return row.MapName
	}
	arrays := slices.DeleteFunc(names(b.spec.Maps), func(m string) bool { return !oneProgram(b.spec.Maps[m]) || !b.uses(m) })
	switch len(arrays) {
	case 1:
		return arrays[0]
	case 0:
		b.fail(".package", "", "package %s: %q is listed as written for L3AF, and uses no empty array of one program", name, row.Entry)
	default:
		b.fail(".package", "its manifest should name one as map_name", "package %s: %q uses several arrays of one program: %s", name, row.Entry, brief(arrays))
	}
	return ""
}

func oneProgram(m *ebpf.MapSpec) bool {
	return m.Type == ebpf.ProgramArray && m.MaxEntries == 1 && len(m.Contents) == 0
}

// runConfig is what an XDP program written for libxdp says about itself: the
// verdicts it proceeds on, pass first, and its priority, nil if it has none.
// ok is false where it says nothing about verdicts.
//
// The macro XDP_RUN_CONFIG of libxdp (xdp_helpers.h) makes a variable _ENTRY in
// the section .xdp_run_config, of a struct whose members are named priority and
// after the verdicts; the numbers are lengths of arrays they point to.
func (b *binder) runConfig() (proceed []l3af.Verdict, priority *int, ok bool) {
	var section *btf.Datasec
	if b.kind != l3af.XDP || b.spec.Types == nil || b.spec.Types.TypeByName(".xdp_run_config", &section) != nil {
		return nil, nil, false
	}
	proceeds := map[l3af.Verdict]bool{"pass": true}
	for _, info := range section.Vars {
		v, isVar := info.Type.(*btf.Var)
		if !isVar || v.Name != "_"+b.entry {
			continue
		}
		config, isStruct := btf.As[*btf.Struct](v.Type)
		if !isStruct {
			continue
		}
		for _, m := range config.Members {
			n, isNumber := number(m.Type)
			if !isNumber {
				continue
			}
			if m.Name == "priority" {
				priority = &n
				continue
			}
			for _, verdict := range b.kind.Verdicts() {
				if m.Name == xdpName[verdict] {
					proceeds[verdict], ok = n != 0, true
				}
			}
		}
	}
	for _, v := range append([]l3af.Verdict{"pass"}, b.kind.Verdicts()...) {
		if proceeds[v] && !slices.Contains(proceed, v) {
			proceed = append(proceed, v)
		}
	}
	return proceed, priority, ok
}

var xdpName = map[l3af.Verdict]string{
	"aborted": "XDP_ABORTED", "drop": "XDP_DROP", "pass": "XDP_PASS", "tx": "XDP_TX", "redirect": "XDP_REDIRECT",
}

// number reads what the macro __uint of libbpf writes.
func number(t btf.Type) (int, bool) {
	p, ok := btf.As[*btf.Pointer](t)
	if !ok {
		return 0, false
	}
	a, ok := btf.As[*btf.Array](p.Target)
	if !ok {
		return 0, false
	}
	return int(a.Nelems), true
}
