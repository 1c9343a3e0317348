package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// named is a chain of one gate program whose map deny asks to be pinned by its
// name.
func named(t *testing.T, kind l3af.HookKind, member string, entries uint32) *chain.Chain {
	t.Helper()
	spec := object(t)
	spec.Maps["deny"].Pinning = ebpf.PinByName
	spec.Maps["deny"].MaxEntries = entries
	entry := "gate_tc"
	if kind == l3af.XDP {
		entry = "gate"
	}
	c, err := chain.Compose(kind, []chain.Member{{Name: member, Spec: spec, Entry: entry}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// outside gives the directories of the pins of one member.
func outside(member, dir string) host.Pins { return host.Pins{member: dir} }

func pinID(t *testing.T, path string) ebpf.MapID {
	t.Helper()
	id, err := mapID(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func wantTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	// bpffs has two files of its own where the kernel is built so.
	got := slices.DeleteFunc(tree(t, dir), func(name string) bool { return strings.HasSuffix(name, ".debug") })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

// gateMaps are what a gate program has outside.
func gateMaps(dir string) []string {
	return []string{dir, dir + "/deny", dir + "/_data", dir + "/_rodata"}
}

// The maps of a program are found outside before the program runs, follow it
// through changes, and leave nothing behind, not even a directory.
func TestOutside(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	bpffs := filepath.Dir(k.root)
	out := filepath.Join(bpffs, "v0/acl")
	target := hook(l3af.XDP, "", "lo")
	if err := os.Mkdir(filepath.Join(bpffs, "v0"), 0o700); err != nil {
		t.Fatal(err)
	}
	same := func(path string) {
		t.Helper()
		if own, also := pinID(t, k.mapPath(target, "", &chain.Map{Member: "g0", Name: "deny"})), pinID(t, path); own != also {
			t.Errorf("%s is map %d, not %d", path, also, own)
		}
	}
	pin := func(c *chain.Chain, pins host.Pins, want int) {
		t.Helper()
		for _, want := range []int{want, 0} {
			if n, err := k.Pin(target, c.Light(), pins); err != nil || n != want {
				t.Errorf("pinned %d, %v, want %d", n, err, want)
			}
		}
	}

	one := gate(t, l3af.XDP, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: one, Pins: outside("g0", out+"/1_0")})
	wantTree(t, filepath.Join(bpffs, "v0"), append(gateMaps("acl/1_0"), "acl")...)
	same(out + "/1_0/deny")
	first, constants := pinID(t, out+"/1_0/deny"), pinID(t, out+"/1_0/_rodata")
	pin(one, outside("g0", out+"/1_0"), 0)

	// A new version, at another place: the same map, other constants.
	two := gate(t, l3af.XDP, xdpPass, xdpPass)
	attach(t, k, host.Load{Target: target, Chain: two, Pins: outside("g0", out+"/1_1")})
	wantTree(t, out, append(gateMaps("1_0"), gateMaps("1_1")...)...)
	if id := pinID(t, out+"/1_1/deny"); id != first {
		t.Errorf("the new version has map %d, not %d", id, first)
	}
	pin(two, outside("g0", out+"/1_1"), 3)
	wantTree(t, out, gateMaps("1_1")...)

	// What somebody removes comes again.
	if err := os.RemoveAll(out); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Pin(target, two.Light(), outside("g0", out+"/1_1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read-only data that is gone: %v", err)
	}
	attach(t, k, host.Load{Target: target, Chain: two, Pins: outside("g0", out+"/1_1")})
	wantTree(t, out, gateMaps("1_1")...)
	pin(two, outside("g0", out+"/1_1"), 0)

	// The pins follow a map that starts anew, and a chain with other constants.
	three := named(t, l3af.XDP, "g0", 32)
	attach(t, k, host.Load{Target: target, Chain: three, Pins: outside("g0", out+"/1_1"), Reset: []string{"g0"}})
	same(out + "/1_1/deny")
	if id := pinID(t, out+"/1_1/deny"); id == first {
		t.Error("the old map is still there")
	}
	if id := pinID(t, out+"/1_1/_rodata"); id == constants {
		t.Error("the old constants are still there")
	}

	// An attach that fails changes nothing outside, old or new.
	before := pinID(t, out+"/1_1/deny")
	for _, dir := range []string{"/1_1", "/1_2/x"} {
		_, err := k.Attach(t.Context(), host.Load{Target: target, Chain: named(t, l3af.XDP, "g0", 64), Mode: l3af.Offload,
			Pins: outside("g0", out+dir), Reset: []string{"g0"}})
		if err == nil {
			t.Fatal("lo runs programs by itself")
		}
		_, err = k.Attach(t.Context(), host.Load{Target: target, Chain: named(t, l3af.XDP, "g0", 64), Mode: l3af.Native,
			Pins: outside("g0", out+dir), Reset: []string{"g0"}})
		if err == nil {
			t.Fatal("lo has native XDP")
		}
		wantTree(t, out, gateMaps("1_1")...)
		if id := pinID(t, out+"/1_1/deny"); id != before {
			t.Errorf("%s: map %d is there, not %d", dir, id, before)
		}
	}

	// What is of others stays: a directory that was there, a pin beside ours.
	if err := alsoPin(pinnedMap(t, k, target, "g0", "deny"), out+"/mine"); err != nil {
		t.Fatal(err)
	}
	if err := k.Tidy(target, nil); err != nil {
		t.Fatal(err)
	}
	wantTree(t, bpffs, "l3af", "v0", "v0/acl", "v0/acl/mine")
}

// Programs of several targets share the maps that their objects pin by name,
// and directories; other maps of one name are in each other's way.
func TestOutsideShared(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	bpffs := filepath.Dir(k.root)
	out := filepath.Join(bpffs, "tc/globals/lo/pack")
	in, eg := hook(l3af.TCIngress, "", "lo"), hook(l3af.TCEgress, "", "lo")
	attach(t, k, host.Load{Target: in, Chain: named(t, l3af.TCIngress, "p", 16), Pins: outside("p", out), Contents: []host.Contents{deny("p", 80)}})
	second := named(t, l3af.TCEgress, "q", 16)
	attach(t, k, host.Load{Target: eg, Chain: second, Pins: outside("q", out)})
	wantTree(t, out, "deny", "_data", "_rodata")
	v, err := pinnedMap(t, k, eg, "q", "deny").LookupBytes(port(80))
	if err != nil || v == nil {
		t.Errorf("the second program has a map of its own: %v, %v", v, err)
	}
	for range 2 {
		if n, err := k.Pin(eg, second.Light(), outside("q", out)); err != nil || n != 0 {
			t.Errorf("pinned %d, %v", n, err)
		}
	}
	// Sections are the first one's, then the one's that is left.
	if err := k.Tidy(in, nil); err != nil {
		t.Fatal(err)
	}
	wantTree(t, out, "deny")
	attach(t, k, host.Load{Target: eg, Chain: second, Pins: outside("q", out)})
	wantTree(t, out, "deny", "_data", "_rodata")

	fail := func(load host.Load, want string) {
		t.Helper()
		before := tree(t, bpffs)
		if _, err := k.Attach(t.Context(), load); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if after := tree(t, bpffs); !slices.Equal(before, after) {
			t.Errorf("%s: had %q, has %q", want, before, after)
		}
	}
	other := hook(l3af.XDP, "", "lo")
	// Not pinned by name, of another shape, of nobody.
	fail(host.Load{Target: other, Chain: gate(t, l3af.XDP, xdpPass), Pins: outside("g0", out)}, "map g0/deny: pin "+out+"/deny: there is another map, of tc-egress/lo")
	fail(host.Load{Target: other, Chain: named(t, l3af.XDP, "r", 32), Pins: outside("r", out)}, "map r/deny: pin "+out+"/deny: there is another map, of tc-egress/lo")
	// One that was not pinned by name is nobody else's.
	plain := filepath.Join(bpffs, "plain")
	xdp := hook(l3af.XDP, "", "lo")
	attach(t, k, host.Load{Target: xdp, Chain: gate(t, l3af.XDP, xdpPass), Pins: outside("g0", plain)})
	fail(host.Load{Target: in, Chain: named(t, l3af.TCIngress, "p", 16), Pins: outside("p", plain)}, "map p/deny: pin "+plain+"/deny: there is another map, of xdp/lo")
	if err := k.Tidy(xdp, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(bpffs, "theirs"), 0o700); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(bpffs, "theirs/deny")
	if err := alsoPin(pinnedMap(t, k, eg, "q", ".data"), theirs); err != nil {
		t.Fatal(err)
	}
	fail(host.Load{Target: other, Chain: gate(t, l3af.XDP, xdpPass), Pins: outside("g0", filepath.Dir(theirs))},
		fmt.Sprintf("map g0/deny: pin %s: map %d is there, which is not of l3afd (remove it if nobody needs it)", theirs, pinID(t, theirs)))
	if err := os.Rename(k.linkPath(eg), filepath.Join(bpffs, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(bpffs, "link"), theirs); err != nil {
		t.Fatal(err)
	}
	fail(host.Load{Target: other, Chain: gate(t, l3af.XDP, xdpPass), Pins: outside("g0", filepath.Dir(theirs))}, "there is something else than a map")
	fail(host.Load{Target: other, Chain: gate(t, l3af.XDP, xdpPass, xdpPass), Pins: host.Pins{"g0": out + "/x", "g1": out + "/x"}},
		"map g1/deny: pin "+out+"/x/deny: map g0/deny is to be there as well")
	if err := os.Rename(theirs, k.linkPath(eg)); err != nil {
		t.Fatal(err)
	}

	// Who has a map, and moves to where others have theirs, shares that if its own may start anew.
	third := host.Load{Target: in, Chain: named(t, l3af.TCIngress, "p", 16), Pins: outside("p", out+"2")}
	attach(t, k, third)
	third.Pins = outside("p", out)
	fail(third, "map p/deny: pin "+out+"/deny: there is another map, of tc-egress/lo")
	third.Reset = []string{"p"}
	attach(t, k, third)
	if a, b, c := pinID(t, filepath.Join(out, "deny")), pinID(t, k.mapPath(in, "", &third.Chain.Maps[slices.IndexFunc(third.Chain.Maps, func(m chain.Map) bool { return m.Name == "deny" })])),
		pinID(t, k.mapPath(eg, "", &second.Maps[slices.IndexFunc(second.Maps, func(m chain.Map) bool { return m.Name == "deny" })])); a != b || a != c {
		t.Errorf("the map outside is %d, those of the targets %d and %d", a, b, c)
	}
	if err := k.Tidy(in, nil); err != nil {
		t.Fatal(err)
	}
	wantTree(t, filepath.Dir(out), "pack", "pack/deny", "pack/_data", "pack/_rodata")

	// A map of the right shape that somebody else left is taken up, as libbpf does.
	left := filepath.Join(bpffs, "theirs/deny")
	if err := alsoPin(pinnedMap(t, k, eg, "q", "deny"), left); err != nil {
		t.Fatal(err)
	}
	if err := k.Tidy(eg, nil); err != nil {
		t.Fatal(err)
	}
	id := pinID(t, left)
	attach(t, k, host.Load{Target: other, Chain: named(t, l3af.XDP, "r", 16), Pins: outside("r", filepath.Dir(left))})
	if now := pinID(t, left); now != id {
		t.Errorf("map %d is there, not %d", now, id)
	}
	if err := k.Tidy(other, nil); err != nil {
		t.Fatal(err)
	}
	wantTree(t, bpffs, "l3af", "theirs")
}

// Another bpffs, where no pin can be moved to, does as well.
func TestOutsideOtherBpffs(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	out := filepath.Join(testenv.Bpffs(t), "a")
	target := hook(l3af.XDP, "", "lo")
	attach(t, k, host.Load{Target: target, Chain: named(t, l3af.XDP, "g", 16), Pins: outside("g", out)})
	first := pinID(t, out+"/deny")
	attach(t, k, host.Load{Target: target, Chain: named(t, l3af.XDP, "g", 32), Pins: outside("g", out), Reset: []string{"g"}})
	if pinID(t, out+"/deny") == first {
		t.Error("the old map is still there")
	}
	if err := k.Tidy(target, nil); err != nil {
		t.Fatal(err)
	}
	wantTree(t, filepath.Dir(out))
}

func TestCheckPinPath(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	bpffs := filepath.Dir(k.root)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(bpffs, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		bpffs + "/v0/acl/1_0":                  "",
		bpffs:                                  "",
		link + "/v0":                           "",
		bpffs + "/v0/acl/1.0":                  "bpffs takes no name with a dot: 1.0",
		bpffs + "/" + strings.Repeat("x", 256): "a name has 255 bytes at most",
		k.root:                                 "is inside the directory of l3afd",
		k.root + "/hooks/x":                    "is inside the directory of l3afd",
		link + "/l3af/hooks":                   "is inside the directory of l3afd",
		k.root + "-2":                          "",
		"/tmp":                                 "/tmp is not on bpffs",
		"/nowhere/at/all":                      "/nowhere/at/all is not on bpffs",
		"/proc/version/x":                      "not a directory",
	} {
		err := k.CheckPinPath(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// Whatever a crash leaves outside is put in order: by the next look at what is
// wanted, or when the target goes.
func TestOutsideCrash(t *testing.T) {
	target := hook(l3af.XDP, "", "lo")
	type state struct {
		k   *Kernel
		c   *chain.Chain
		out string
	}
	for name, crash := range map[string]func(t *testing.T, s state) error{
		"a directory is marked, not made": func(t *testing.T, s state) error {
			return s.k.mark(target, dirMarks, s.out+"/more")
		},
		"a directory is made, nothing in it": func(t *testing.T, s state) error {
			return errors.Join(s.k.mark(target, dirMarks, s.out+"/more"), os.Mkdir(s.out+"/more", 0o700))
		},
		"a pin is marked, not made": func(t *testing.T, s state) error {
			return s.k.mark(target, pinMarks, s.out+"/more")
		},
		"a pin that is no longer wanted is made": func(t *testing.T, s state) error {
			return errors.Join(s.k.mark(target, pinMarks, s.out+"/more"), alsoPin(pinnedMap(t, s.k, target, "g0", "deny"), s.out+"/more"))
		},
		"a pin is removed, still marked": func(t *testing.T, s state) error { return os.Remove(s.out + "/deny") },
		"the mark of a pin is not there": func(t *testing.T, s state) error {
			return os.Remove(s.k.markPath(target, pinMarks, s.out+"/deny"))
		},
		"a pin waits to take another's place": func(t *testing.T, s state) error {
			return alsoPin(pinnedMap(t, s.k, target, "g0", "deny"), filepath.Join(s.k.outsideDir(target), freshPin))
		},
		"the next chain's maps are there, the old one runs": func(t *testing.T, s state) error {
			spec := *object(t).Maps["deny"]
			spec.MaxEntries = 64
			m, err := ebpf.NewMap(&spec)
			if err != nil {
				return err
			}
			defer m.Close()
			return s.k.replacePin(target, m, s.out+"/deny")
		},
		"nothing but marks is left of the target": func(t *testing.T, s state) error {
			dir := s.k.path(target)
			return errors.Join(s.k.Detach(target), os.RemoveAll(dir+"/maps"), os.RemoveAll(dir+"/counters"))
		},
	} {
		for _, goes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, goes %t", name, goes), func(t *testing.T) {
				testenv.Clean(t)
				s := state{k: open(t), c: gate(t, l3af.XDP, xdpPass)}
				bpffs := filepath.Dir(s.k.root)
				s.out = filepath.Join(bpffs, "lo/acl")
				load := host.Load{Target: target, Chain: s.c, Pins: outside("g0", s.out)}
				attach(t, s.k, load)
				if err := crash(t, s); err != nil {
					t.Fatal(err)
				}
				s.k = restart(t, s.k)
				if !goes {
					_, err := s.k.Pin(target, s.c.Light(), load.Pins)
					if errors.Is(err, fs.ErrNotExist) {
						attach(t, s.k, load)
						_, err = s.k.Pin(target, s.c.Light(), load.Pins)
					}
					if err != nil {
						t.Fatal(err)
					}
					wantTree(t, filepath.Join(bpffs, "lo"), gateMaps("acl")...)
					if own, also := pinID(t, s.k.mapPath(target, "", &chain.Map{Member: "g0", Name: "deny"})), pinID(t, s.out+"/deny"); own != also {
						t.Errorf("outside is map %d, not %d", also, own)
					}
					if _, err := os.Lstat(filepath.Join(s.k.outsideDir(target), freshPin)); err == nil {
						t.Error("a pin still waits")
					}
				}
				if err := s.k.Tidy(target, nil); err != nil {
					t.Fatal(err)
				}
				if name == "the mark of a pin is not there" && goes {
					// Nobody knows that it was ours.
					if err := os.RemoveAll(filepath.Join(bpffs, "lo")); err != nil {
						t.Fatal(err)
					}
				}
				wantTree(t, bpffs, "l3af")
			})
		}
	}
}
