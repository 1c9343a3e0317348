package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

func TestEscape(t *testing.T) {
	for name, want := range map[string]string{
		"eth0":           "eth0",
		"blue:eth0.100":  "blue:eth0%2E100",
		"/run/netns/a b": "%2Frun%2Fnetns%2Fa%20b",
		".":              "%2E",
		"..":             "%2E%2E",
		"100%":           "100%25",
		"\x00\xff":       "%00%FF",
		"ä":              "%C3%A4",
		"A-Z_a-z@0:9":    "A-Z_a-z@0:9",
		".bss":           "%2Ebss",
	} {
		if got := escape(name); got != want {
			t.Errorf("escape(%q) = %q, want %q", name, got, want)
		}
	}
	for _, s := range []string{".", "a.b", "%", "%4", "%2", "%2e", "%41", "%GG", "%-1", "a/b", "%25%"} {
		if got, ok := unescape(s); ok {
			t.Errorf("unescape(%q) = %q, want a refusal", s, got)
		}
	}
}

// Names and their escapes are one to one, and an escape is one component that
// bpffs takes.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "eth0", "blue:eth0.1", "%2E", "\xff\x00/..", "%2e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := escape(s)
		if strings.ContainsAny(e, "./\x00") {
			t.Errorf("escape(%q) = %q", s, e)
		}
		if back, ok := unescape(e); !ok || back != s {
			t.Errorf("unescape(escape(%q)) = %q, %t", s, back, ok)
		}
		if name, ok := unescape(s); ok && escape(name) != s {
			t.Errorf("escape(unescape(%q)) = %q", s, escape(name))
		}
	})
}

// A pin's path tells what it is; what is elsewhere is not ours.
func TestPlaceOf(t *testing.T) {
	hook := host.Target{Hook: l3af.Hook{Interface: "eth0.1", Netns: "blue", Kind: l3af.TCIngress}}
	const at = "hooks/blue:eth0%2E1/tc-ingress/"
	for path, want := range map[string]Place{
		at + "link":                   {Target: hook},
		at + "link-new":               {Target: hook},
		at + "maps/acl/deny":          {Target: hook, Program: "acl", Map: "deny"},
		at + "maps/a%2Eb/%2Ebss":      {Target: hook, Program: "a.b", Map: ".bss"},
		at + "counters/3f2a9c41d0":    {Target: hook, Chain: "3f2a9c41d0", Map: "counters"},
		at + "segments/3f2a9c41d0":    {Target: hook, Chain: "3f2a9c41d0", Map: "segments"},
		at + "programs/3f2a/acl/jmp":  {Target: hook, Chain: "3f2a", Program: "acl", Map: "jmp"},
		"probes/exec/link":            {Target: host.Target{Probe: "exec"}},
		"probes/exec/maps/e/events":   {Target: host.Target{Probe: "exec"}, Program: "e", Map: "events"},
		"instances/edge/maps/deny":    {Instance: "edge", Map: "deny"},
		"":                            {},
		"link":                        {},
		"hooks/eth0/xdp":              {},
		"hooks/eth0/nonsense/link":    {},
		"hooks/eth0/xdp/other":        {},
		"hooks/eth0/xdp/maps/acl":     {},
		"hooks/eth0/xdp/maps/%61/x":   {}, // spelt another way
		"probes/exec":                 {},
		"instances/edge/users/a/b":    {},
		"hooks/eth0/xdp/link/x/y/z/a": {},
	} {
		got, ok := PlaceOf(path)
		if ok != (want != Place{}) || ok && got != want {
			t.Errorf("%s: %+v, %t, want %+v", path, got, ok, want)
		}
	}
}

// A target's directory tells the target, whatever is in its names.
func TestTargetsAreReadBack(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	want := []host.Target{
		hook(l3af.XDP, "", "eth0"),
		hook(l3af.TCIngress, "", "eth0"),
		hook(l3af.TCEgress, "blue", "eth0.100"),
		hook(l3af.XDP, "a:b", "v0"),
		hook(l3af.XDP, "/run/netns/b.l", "v%0"),
		{Probe: "exec"},
		{Probe: "x/../y z."},
	}
	for _, target := range want {
		if err := checkTarget(target); err != nil {
			t.Errorf("%s: %v", target, err)
		}
		if err := os.MkdirAll(k.path(target), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, garbage := range []string{"hooks/%2e/xdp", "hooks/eth0/xpd", "hooks/:eth0/xdp", "hooks/way-too-long-for-one/xdp", "probes/%zz", "other/thing"} {
		if err := os.MkdirAll(filepath.Join(k.root, garbage), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.prune(filepath.Join(k.root, garbage)) })
	}
	got, err := k.targets()
	if err != nil {
		t.Error(err)
	}
	key := func(a, b host.Target) int { return strings.Compare(a.String(), b.String()) }
	slices.SortFunc(got, key)
	slices.SortFunc(want, key)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	list, err := k.Attached()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a != (host.Attached{Target: a.Target}) {
			t.Errorf("%+v runs", a)
		}
	}
	if len(list) != len(want) {
		t.Errorf("%d targets read back, want %d", len(list), len(want))
	}
}

func TestCheckTarget(t *testing.T) {
	for _, target := range []host.Target{
		{},
		hook("xpd", "", "eth0"),
		hook(l3af.XDP, "", ""),
		hook(l3af.XDP, "", "a/b"),
		hook(l3af.XDP, "", "a:b"),
		hook(l3af.XDP, "", "a b"),
		hook(l3af.XDP, "", "sixteen-bytes-ab"),
		hook(l3af.XDP, "..", "eth0"),
		hook(l3af.XDP, "a/b", "eth0"),
		{Probe: "x", Hook: l3af.Hook{Interface: "eth0"}},
	} {
		if err := checkTarget(target); err == nil {
			t.Errorf("%+v is taken", target)
		}
	}
}
