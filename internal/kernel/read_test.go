package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// Entries that are to be there are made where they are missing, and stay as
// they are otherwise: what a program counted is not lost.
func TestPresent(t *testing.T) {
	testenv.Clean(t)
	for _, kind := range mapKinds() {
		if devValue(kind.spec.Type) {
			continue
		}
		t.Run(fmt.Sprintf("%s/%d/%d", kind.spec.Type, kind.spec.ValueSize, kind.spec.Flags), func(t *testing.T) {
			m, err := ebpf.NewMap(&kind.spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			r := rand.New(rand.NewPCG(9, 9))
			counted := kind.value(r)
			put := func(key int) {
				w, err := newWriter(m, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				v, err := w.value([][]byte{counted})
				if err != nil {
					t.Fatal(err)
				}
				if err := w.put(kind.key(key), v); err != nil {
					t.Fatal(err)
				}
			}
			put(2)
			put(5)
			want := &host.Contents{Full: true, Entries: []host.Entry{{Key: kind.key(4), Values: [][]byte{counted}}},
				Present: [][]byte{kind.key(2), kind.key(3)}}
			if _, err := writeContents(m, want); err != nil {
				t.Fatal(err)
			}
			if n, err := writeContents(m, want); err != nil || n != 0 {
				t.Errorf("a second time: %d, %v", n, err)
			}
			array := m.Type() == ebpf.Array || m.Type() == ebpf.PerCPUArray
			for key, like := range map[int]string{2: "counted", 3: "zero", 4: "counted", 5: "none"} {
				if array && key != 4 {
					like = "zero" // full contents are all of an array's
				}
				v, err := m.LookupBytes(kind.key(key))
				if err != nil {
					t.Fatal(err)
				}
				if m.Type() == ebpf.LPMTrie && like == "none" {
					continue // a shorter prefix is found
				}
				got := "none"
				if v != nil {
					got = "counted"
					for _, one := range perCPU(m, v) {
						if zero(one) {
							got = "zero"
						}
					}
				}
				if got != like {
					t.Errorf("entry %d is %s, want %s", key, got, like)
				}
			}
		})
	}
}

// Read finds what a chain's maps hold, and nothing where there is nothing.
func TestRead(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := hook(l3af.XDP, "", "lo")
	c := gate(t, l3af.XDP, xdpPass, xdpPass)
	key := func(member, name string, key []byte) host.MapKey {
		return host.MapKey{Member: member, Map: name, Key: key}
	}
	keys := []host.MapKey{key("g0", "deny", port(80)), key("g1", "deny", port(80)), key("g0", "deny", port(81)), key("g0", "deny", u32(1)),
		key("g0", "gone", port(80)), key("g0", ".rodata", u32(0)), key("g2", "deny", port(80)), key("", "counters", u32(0))}
	read := func(what, want string) {
		t.Helper()
		got, err := k.Read(target, c.Light(), keys)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v, want %s", what, got, err, want)
		}
	}
	read("before", "[[] [] [] [] [] [] [] []]")
	present := host.Contents{Member: "g1", Map: "deny", Present: [][]byte{port(80)}}
	attach(t, k, host.Load{Target: target, Chain: c, Contents: []host.Contents{deny("g0", 80), present}})
	read("attached", "[[[1 0 0 0]] [[0 0 0 0]] [] [] [] [] [] []]")
	if err := pinnedMap(t, k, target, "g1", "deny").Delete(port(80)); err != nil {
		t.Fatal(err)
	}
	if n, err := k.Write(target, c.Light(), []host.Contents{deny("g0", 80), present}); err != nil || n != 1 {
		t.Errorf("wrote %d, %v", n, err)
	}
	read("mended", "[[[1 0 0 0]] [[0 0 0 0]] [] [] [] [] [] []]")

	// A map that programs filled has no place for it: that holds up no change.
	full := pinnedMap(t, k, target, "g1", "deny")
	if err := full.Delete(port(80)); err != nil {
		t.Fatal(err)
	}
	for i := range uint16(full.MaxEntries()) {
		if err := full.Put(port(1000+i), uint32(1)); err != nil {
			t.Fatal(err)
		}
	}
	c = gate(t, l3af.XDP, xdpPass, xdpDrop)
	attach(t, k, host.Load{Target: target, Chain: c, Contents: []host.Contents{present}})
	if n, err := k.Write(target, c.Light(), []host.Contents{present}); err != nil || n != 0 {
		t.Errorf("wrote %d, %v", n, err)
	}
	if err := full.Delete(port(1000)); err != nil {
		t.Fatal(err)
	}
	if n, err := k.Write(target, c.Light(), []host.Contents{present}); err != nil || n != 1 {
		t.Errorf("there is room again: wrote %d, %v", n, err)
	}
}
