package chain

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af"
)

// The programs that a program tail-calls are part of what it does: another one
// is another chain, as is another slot. What cannot be held is refused.
func TestHolds(t *testing.T) {
	tails := func(change func(*ebpf.CollectionSpec)) (*Chain, error) {
		spec := object(t, "corpus/tailcalls")
		change(spec)
		return Compose(l3af.XDP, []Member{{Name: "m", Spec: spec, Entry: "tailcalls"}})
	}
	c, err := tails(func(*ebpf.CollectionSpec) {})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(c.Maps, func(m Map) bool { return m.Name == "programs" })
	if i < 0 || !c.Maps[i].Tied() || len(c.Maps[i].Holds) != 2 {
		t.Fatalf("got %+v", c.Maps)
	}
	for _, h := range c.Light().Maps[i].Holds {
		if h.Program != nil {
			t.Error("what is light has code")
		}
	}
	for what, change := range map[string]func(*ebpf.CollectionSpec){
		"code":    func(s *ebpf.CollectionSpec) { s.Programs["second"].Instructions[0] = asm.Mov.Imm(asm.R9, 1) },
		"slot":    func(s *ebpf.CollectionSpec) { s.Maps["programs"].Contents[0].Key = uint32(1) },
		"swapped": func(s *ebpf.CollectionSpec) { s.Maps["programs"].Contents[0].Value = "second" },
		"license": func(s *ebpf.CollectionSpec) { s.Programs["first"].License = "GPL" },
	} {
		if other, err := tails(change); err != nil || other.ID == c.ID {
			t.Errorf("%s: %v, the same ID", what, err)
		}
	}
	again, err := tails(func(s *ebpf.CollectionSpec) { s.Programs["tailcalls"].License = s.Programs["first"].License })
	if err != nil || again.ID != c.ID {
		t.Errorf("the same is not the same: %v", err)
	}
	for want, change := range map[string]func(*ebpf.CollectionSpec){
		"holds the program gone, which":       func(s *ebpf.CollectionSpec) { s.Maps["programs"].Contents[0].Value = "gone" },
		"holds first, a SchedCLS program":     func(s *ebpf.CollectionSpec) { s.Programs["first"].Type = ebpf.SchedCLS },
		"map programs (ProgramArray) holds a": func(s *ebpf.CollectionSpec) { s.Maps["programs"].Contents[0].Value = uint32(7) },
	} {
		if _, err := tails(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	// The programs that are held share the maps of the one that holds them,
	// and what they need alone is there too.
	if n := len(c.Maps); n != 3 {
		t.Errorf("%d maps: %+v", n, c.Maps)
	}

	spec := object(t, "corpus/mapinmap")
	spec.Maps["outer"].Contents[0].Value = "gone"
	if _, err := Compose(l3af.XDP, []Member{{Name: "m", Spec: spec, Entry: "mapinmap"}}); err == nil || !strings.Contains(err.Error(), "holds the map gone, which") {
		t.Errorf("got %v", err)
	}

	// Maps that are only held do not count: the kernel's limit is for code.
	spec = object(t, "corpus/mapinmap")
	outer := spec.Maps["outer"]
	outer.MaxEntries = 100
	for i := range uint32(90) {
		name := fmt.Sprint("inner", i)
		inner := spec.Maps["one"].Copy()
		inner.Name = name
		spec.Maps[name] = inner
		outer.Contents = append(outer.Contents, ebpf.MapKV{Key: i + 5, Value: name})
	}
	c, err = Compose(l3af.XDP, []Member{{Name: "m", Spec: spec, Entry: "mapinmap"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Rest != nil || len(c.Maps) != 96 {
		t.Errorf("%d segments, %d maps", 1+len(c.Rest), len(c.Maps))
	}
}
