package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Only vX.Y.Z is a version, and only what is needed of its archive is installed,
// in the place of what is there.
func TestRestartVersions(t *testing.T) {
	for version, ok := range map[string]bool{"v2.1.0": true, "v0.0.100": true, "v0.0.101": false, "2.1.0": false, "v2.1": false, "v2.1.0-rc1": false,
		"": false, "v1.2.3/../..": false, "v01.2.3": true, "v9999999999.0.0": false, "v1.2.3\n": false} {
		if err := checkVersion(version, 100); (err == nil) != ok {
			t.Errorf("%q: %v", version, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "v1.0.0")
	for _, binary := range []string{"one", "two"} {
		names, _, err := install(dir, map[string][]byte{"x/l3afd": []byte(binary), "x/l3afd.cfg": []byte("[l3afd]\n"), "x/other": nil})
		if err != nil || !slices.Equal(names, []string{"l3afd", "l3afd.cfg"}) {
			t.Errorf("installed %q, %v", names, err)
		}
		entries, err := os.ReadDir(dir)
		text, _ := os.ReadFile(filepath.Join(dir, "l3afd"))
		info, _ := os.Stat(filepath.Join(dir, "l3afd"))
		if err != nil || len(entries) != 2 || string(text) != binary || info.Mode().Perm() != 0o755 {
			t.Errorf("%v: %q, %v, %v", entries, text, info.Mode(), err)
		}
	}
	for _, files := range []map[string][]byte{{}, {"l3afd.cfg": nil}, {"l3afd": nil, "a/l3afd": nil}} {
		if names, _, err := install(dir, files); err == nil {
			t.Errorf("installed %q of %v", names, files)
		}
	}
	link := filepath.Join(dir, "latest", "l3afd")
	for _, to := range []string{"/a", "/b"} {
		if err := lead(link, to); err != nil {
			t.Error(err)
		}
		if got, err := os.Readlink(link); err != nil || got != to {
			t.Errorf("leads to %s, %v", got, err)
		}
	}
}

// A version that brings a configuration file is started with it instead of with
// the one that this daemon has, wherever that is; all else stays.
func TestRestartConfig(t *testing.T) {
	const next = "/usr/local/l3afd/v2.0.0/l3afd.cfg"
	for _, c := range []struct{ args, want []string }{
		{[]string{"-config", "/usr/local/l3afd/latest/l3afd.cfg", "-socket", "/s"}, []string{"-config", next, "-socket", "/s"}},
		{[]string{"-swagger", "--config=/etc/l3afd.yaml"}, []string{"-config", next, "-swagger"}},
		{[]string{"--config", "a", "--socket=/s", "-config", "b"}, []string{"-config", next, "--socket=/s"}},
		{[]string{"-log-file", "-config", "-listen", ":1"}, []string{"-config", next, "-log-file", "-config", "-listen", ":1"}},
		{[]string{"-swagger=false", "-config", "a"}, []string{"-config", next, "-swagger=false"}},
		{[]string{"-socket", "/s", "--"}, []string{"-config", next, "-socket", "/s", "--"}},
		{nil, []string{"-config", next}},
	} {
		before := slices.Clone(c.args)
		got := withConfig(c.args, next)
		if !slices.Equal(got, c.want) || !slices.Equal(c.args, before) {
			t.Errorf("%q: got %q, want %q", before, got, c.want)
		}
	}
}
