package loader

import (
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"l3af/internal/testenv"
)

// The kernel's names of maps are those that libbpf gives.
func TestNames(t *testing.T) {
	for _, c := range []struct{ object, section, name string }{
		{"acl", ".rodata", "acl.rodata"},
		{"acl", ".bss", "acl.bss"},
		{"a-very-long-name", ".rodata", "a_very_l.rodata"},
		{"a-very-long-name", ".data", "a_very_l.data"},
		{"acl", ".data.counters", ".data.counters"},
		{"acl", ".rodata.str1.16", ".rodata.str1.16"},
	} {
		if got := sectionMap(c.object, c.section); got != c.name {
			t.Errorf("%s of %s: %s, want %s", c.section, c.object, got, c.name)
		}
	}
}

// Types go by all the names that bpftool takes, but for those that need more than a name.
func TestTypes(t *testing.T) {
	help, err := exec.Command(testenv.Tool(t, "bpftool"), "prog", "help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)[^_]TYPE := \{(.*?)\}`).FindSubmatch(help)
	if m == nil {
		t.Fatalf("no types in %s", help)
	}
	names := regexp.MustCompile(`[a-z0-9_/]+`).FindAllString(string(m[1]), -1)
	if len(names) < 40 {
		t.Errorf("%d types: %v", len(names), names)
	}
	for _, name := range names {
		if _, ok := ParseType(name); !ok && !slices.Contains([]string{"fentry", "fexit", "freplace"}, name) {
			t.Errorf("type %s is not known", name)
		}
	}
	if _, ok := ParseType("xpd"); ok {
		t.Error("a type that there is not")
	}
}
