package l3af_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers are the packages of the module from the lowest to the highest.
// Imports point down only.
var layers = [][]string{
	{"l3af"},
	{"l3af/client", "l3af/programs", "l3af/internal/near", "l3af/internal/version", "l3af/internal/kconfig", "l3af/internal/doc", "l3af/internal/ini", "l3af/internal/gate", "l3af/internal/packet", "l3af/internal/pcap", "l3af/internal/bpfsys", "l3af/internal/trace", "l3af/internal/kallsyms"},
	{"l3af/internal/value", "l3af/internal/chain", "l3af/internal/artifact", "l3af/internal/feature", "l3af/internal/disasm", "l3af/internal/rawbtf", "l3af/internal/events"},
	{"l3af/internal/host", "l3af/internal/btftext"},
	{"l3af/internal/bind", "l3af/internal/entries", "l3af/internal/agent"},
	{"l3af/internal/node", "l3af/internal/kernel", "l3af/internal/inspect", "l3af/internal/top", "l3af/internal/loader", "l3af/internal/configs"},
	{"l3af/internal/api", "l3af/internal/doctor"},
	{"l3af/internal/daemon"},
	{"l3af/internal/bench", "l3af/internal/demo"},
	{"l3af/cmd"},
}

// onlyTests are packages that nothing but tests may import.
var onlyTests = []string{"l3af/internal/testenv", "l3af/internal/testenv/zoo", "l3af/internal/testenv/stamp", "l3af/internal/gate/gatetest", "l3af/internal/node/fake"}

func layer(pkg string) int {
	for i, l := range layers {
		for _, p := range l {
			if pkg == p || p != "l3af" && strings.HasPrefix(pkg, p+"/") {
				return i
			}
		}
	}
	return -1
}

// Arrows point down only, the words need nothing but the standard library,
// and the node and the kernel do not know each other.
func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		pkg := path.Join("l3af", filepath.ToSlash(filepath.Dir(file)))
		seen[pkg] = true
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			checkArrow(t, file, pkg, to)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range seen {
		if layer(pkg) < 0 && !slices.Contains(onlyTests, pkg) {
			t.Errorf("%s has no place among the layers", pkg)
		}
	}
	if !seen["l3af"] || !seen["l3af/internal/node"] {
		t.Errorf("packages were not found: %v", seen)
	}
}

func checkArrow(t *testing.T, file, from, to string) {
	ours := to == "l3af" || strings.HasPrefix(to, "l3af/")
	standard := !strings.Contains(strings.Split(to, "/")[0], ".") && !ours
	switch {
	case to == "C":
		t.Errorf("%s: imports C", file)
	case (from == "l3af" || from == "l3af/client") && !standard && to != "l3af":
		t.Errorf("%s: %s imports %s; it may import the standard library only", file, from, to)
	case slices.Contains(onlyTests, to) && !slices.Contains(onlyTests, from):
		t.Errorf("%s: imports %s, which is for tests", file, to)
	case !ours || slices.Contains(onlyTests, from):
	case from == to, layer(to) > layer(from):
		t.Errorf("%s: %s imports %s, which is above it", file, from, to)
	case from == "l3af/internal/node" && to == "l3af/internal/kernel", from == "l3af/internal/kernel" && to == "l3af/internal/node":
		t.Errorf("%s: %s imports %s: they do not know each other", file, from, to)
	case (from == "l3af/internal/kernel" || from == "l3af/internal/chain") && (to == "l3af/internal/artifact" || to == "l3af/internal/bind"):
		t.Errorf("%s: %s imports %s: it knows no packages", file, from, to)
	}
}
