package bind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/artifact"
)

func object(t testing.TB, b []byte) *artifact.Package {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.o")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := artifact.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func readObject(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDamagedObjects(t *testing.T) {
	good := readObject(t, "all.bpf.o")
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	f, err := elf.NewFile(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	// header gives the offset of a section's header (Elf64_Shdr).
	headers := int(binary.NativeEndian.Uint64(good[0x28:]))
	header := func(name string) int {
		for i, s := range f.Sections {
			if s.Name == name {
				return headers + 64*i
			}
		}
		t.Fatalf("no section %s", name)
		return 0
	}
	for _, r := range []struct {
		name string
		b    []byte
		want string // what the message begins with
	}{
		{"empty", nil, "not an ELF file"},
		{"text", []byte("#!/bin/sh\n"), "not an ELF file"},
		{"magic only", good[:4], "the ELF file is cut short or damaged: "},
		{"half", good[:len(good)/2], "the ELF file is cut short"},
		{"last byte gone", good[:len(good)-1], "the ELF file is cut short"},
		{"a program of this machine", change(18, byte(elf.EM_X86_64)), "made for EM_X86_64, not for BPF"},
		{"32 bits", change(4, byte(elf.ELFCLASS32)), "made for ELFCLASS32: BPF is 64 bits"},
		{"other byte order", change(5, 3-good[5]), "the ELF file is cut short or damaged: "},
		{"compressed", change(header(".BTF")+8, byte(elf.SHF_COMPRESSED&0xff), byte(elf.SHF_COMPRESSED>>8)), "section .BTF is compressed"},
		{"huge .bss", change(header(".bss")+32, 0, 0, 0, 0, 1), "section .bss is too large: at most 32 MiB"},
		{"section behind the end", change(header("xdp")+24, 0, 0, 0, 0, 0, 1), "the ELF file is cut short: section xdp ends behind its end"},
		{"BTF gone wrong", change(int(f.Section(".BTF").Offset), 0, 0), "cannot be read: "},
		{"no code", change(header("xdp")+32, 0), "cannot be read: "},
	} {
		b, mistakes := Program(object(t, r.b), l3af.XDP, l3af.Program{Name: "x", Entry: "all"}, at)
		if b != nil || len(mistakes) != 1 || mistakes[0].Path != at+".package" ||
			!strings.HasPrefix(mistakes[0].Message, "object x.o: "+r.want) {
			t.Errorf("%s: %v, %s", r.name, b, lines(mistakes))
		}
	}
}

// settings name every global and map of testdata/all.bpf.o.
const settings = `{
	"config": {"verdict": "drop", "port": 1, "net_port": 80, "gateway": "::1", "budget": 1, "label": "x", "counter": 3, "verbose": true},
	"maps": {
		"hash": [{"key": {"addr": "::1"}, "value": {"rate": 1}}], "lru": [{"key": 1, "value": 1}], "array": [{"key": 1, "value": {"burst": 2}}],
		"by_verdict": [{"key": "drop", "value": 1}], "percpu": [{"key": 0, "value": {"burst": 1}}], "percpu_list": [{"key": 0, "value": "0x010203"}],
		"percpu_hash": [{"key": 0, "value": 1}], "deny4": [{"key": "10.0.0.0/8", "value": 1}], "deny": [{"key": "10.0.0.0/8", "value": 1}],
		"ports": [{"key": 0, "value": 1}], "ports_hash": [{"key": 0, "value": {"ifindex": 1}}], "cpus": [{"key": 0, "value": {"qsize": 1}}],
		"blind": [{"key": 0, "value": 1}], "blind_deny": [{"key": "10.0.0.0/8", "value": 1}]}}`

// bindAll binds an object in every way; a result keeps what it promises.
func bindAll(t *testing.T, p *artifact.Package) (bound int) {
	for _, kind := range []l3af.HookKind{l3af.XDP, l3af.TCEgress} {
		for _, entry := range []string{"", "all", "tc_in"} {
			prog := l3af.Program{Name: "x", Entry: entry}
			decode(t, settings, &prog.Settings)
			b, mistakes := Program(p, kind, prog, at)
			if (b == nil) == (len(mistakes) == 0) {
				t.Fatalf("bound %v with %d mistakes", b, len(mistakes))
			}
			if b == nil {
				for _, m := range mistakes {
					if !strings.HasPrefix(m.Path, at) || m.Message == "" {
						t.Fatalf("mistake %+v", m)
					}
				}
				continue
			}
			bound++
			if b.Member.Spec.Programs[b.Member.Entry] == nil {
				t.Fatalf("no program %s", b.Member.Entry)
			}
			for _, c := range b.Contents {
				spec := b.Member.Spec.Maps[c.Map]
				if spec == nil {
					t.Fatalf("no map %s", c.Map)
				}
				for _, e := range c.Entries {
					if len(e.Key) != int(spec.KeySize) || len(e.Values) == 0 {
						t.Fatalf("map %s: entry %+v", c.Map, e)
					}
					for _, v := range e.Values {
						if len(v) != int(spec.ValueSize) {
							t.Fatalf("map %s: value %x", c.Map, v)
						}
					}
				}
				for _, patch := range c.Patches {
					if patch.Offset < 0 || uint64(patch.Offset)+uint64(len(patch.Data)) > uint64(spec.ValueSize) {
						t.Fatalf("map %s: patch %+v", c.Map, patch)
					}
				}
			}
		}
		if b, mistakes := Probe(p, l3af.Probe{Name: "x"}, at); (b == nil) == (len(mistakes) == 0) {
			t.Fatalf("bound %v with %d mistakes", b, len(mistakes))
		}
	}
	return bound
}

// Bytes changed anywhere in an object: mistakes, or what a good object gives.
func TestRandomDamage(t *testing.T) {
	good := readObject(t, "all.bpf.o")
	if bindAll(t, object(t, good)) == 0 {
		t.Fatal("the good object does not bind")
	}
	r := rand.New(rand.NewPCG(7, 7))
	bound := 0
	for range 400 {
		bad := bytes.Clone(good)
		for range 1 + r.IntN(4) {
			bad[r.IntN(len(bad))] = byte(r.Uint32())
		}
		bound += bindAll(t, object(t, bad))
	}
	if bound == 0 {
		t.Error("no damaged object binds: the damage is too coarse to test what follows")
	}
}

// FuzzObject changes bytes of a good object: data is a list of (offset, byte)
// as 4 bytes each; size cuts the object short.
func FuzzObject(f *testing.F) {
	good := readObject(f, "all.bpf.o")
	f.Add([]byte{}, uint32(len(good)))
	f.Add([]byte{0x28, 0, 0, 1}, uint32(len(good)))
	f.Add([]byte{4, 0, 0, 1, 0x3c, 0, 0, 0xff}, uint32(len(good)-1))
	for _, s := range []string{".BTF", ".maps", ".bss", ".rodata", "xdp", ".symtab"} {
		e, err := elf.NewFile(bytes.NewReader(good))
		if err != nil {
			f.Fatal(err)
		}
		o := e.Section(s).Offset + 24
		f.Add([]byte{byte(o), byte(o >> 8), byte(o >> 16), 0xff}, uint32(len(good)))
	}
	f.Fuzz(func(t *testing.T, changes []byte, size uint32) {
		b := bytes.Clone(good)
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int(changes[0]) | int(changes[1])<<8 | int(changes[2])<<16
			b[at%len(b)] = changes[3]
		}
		bindAll(t, object(t, b[:min(int(size), len(b))]))
	})
}
