package artifact

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"l3af"
)

const good = `apiVersion: l3af/v1
name: acl
version: 1.0
license: GPL-2.0-only OR BSD-2-Clause
description: Allow and deny.
programs:
- {entry: acl, object: acl.bpf.o, hook: xdp, proceed: [pass], description: main}
- {entry: acl_in, object: sub/acl.bpf.o, hook: tc-ingress}
- {entry: execs, object: acl.bpf.o, attach: tp/sched/sched_process_exec}
globals:
- {name: default_verdict, default: pass, description: d, order: network}
- {name: plain}
maps:
- {name: deny, default: [{key: 10.0.0.0/8, value: 1}], description: m, key: words, value: words, key_order: network, value_order: host}
`

func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func goodFiles() map[string]string {
	return map[string]string{"package.yaml": good, "acl.bpf.o": "one", "sub/acl.bpf.o": "two", "README": "not part of it"}
}

func TestOpenDirectory(t *testing.T) {
	dir := tree(t, goodFiles())
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := &Manifest{
		Name: "acl", Version: "1.0", License: "GPL-2.0-only OR BSD-2-Clause", Description: "Allow and deny.",
		Programs: []Program{
			{Entry: "acl", Object: "acl.bpf.o", Hook: l3af.XDP, Proceed: []l3af.Verdict{l3af.Pass}, Description: "main"},
			{Entry: "acl_in", Object: "sub/acl.bpf.o", Hook: l3af.TCIngress},
			{Entry: "execs", Object: "acl.bpf.o", Attach: "tracepoint/sched/sched_process_exec"},
		},
		Globals: []Global{{Name: "default_verdict", Default: "pass", Description: "d", Network: true}, {Name: "plain"}},
		Maps:    []Map{{Name: "deny", Default: []l3af.MapEntry{{Key: "10.0.0.0/8", Value: json.Number("1")}}, Description: "m", Key: "words", Value: "words", KeyNetwork: true}},
	}
	if !reflect.DeepEqual(p.Manifest, want) || p.Ref != dir {
		t.Errorf("manifest = %+v, want %+v", p.Manifest, want)
	}
	if got := p.Objects(); !reflect.DeepEqual(got, []string{"acl.bpf.o", "sub/acl.bpf.o"}) {
		t.Errorf("Objects = %v", got)
	}
	if b, err := p.Object("sub/acl.bpf.o"); err != nil || string(b) != "two" {
		t.Errorf("Object = %q, %v", b, err)
	}
	for _, name := range []string{"package.yaml", "README", "nope"} {
		if _, err := p.Object(name); err == nil {
			t.Errorf("Object(%s): no error", name)
		}
	}

	again, err := Open("file://" + tree(t, goodFiles()))
	if err != nil || again.Digest != p.Digest {
		t.Errorf("the same package elsewhere: %v, %v, want %s", again, err, p.Digest)
	}
	for _, change := range []func(map[string]string){
		func(f map[string]string) { f["acl.bpf.o"] = "One" },
		func(f map[string]string) { f["acl.bpf.o"], f["sub/acl.bpf.o"] = "two", "one" },
		func(f map[string]string) { f["package.yaml"] += "# more\n" },
	} {
		f := goodFiles()
		change(f)
		if q, err := Open(tree(t, f)); err != nil || q.Digest == p.Digest {
			t.Errorf("a changed package: %v, same digest", err)
		}
	}
	f := goodFiles()
	f["README"] = "changed"
	if q, err := Open(tree(t, f)); err != nil || q.Digest != p.Digest {
		t.Errorf("a file that is no part of the package changes the digest: %v", err)
	}
}

func TestOpenBare(t *testing.T) {
	dir := tree(t, map[string]string{"fw.bpf.o": "elf"})
	p, err := Open(filepath.Join(dir, "fw.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Object("fw.bpf.o")
	if p.Manifest.Name != "fw" || len(p.Manifest.Programs) != 0 || err != nil || string(b) != "elf" {
		t.Errorf("package = %+v, object %q, %v", p.Manifest, b, err)
	}
}

// Who may open a package once gets one package, from several goroutines too.
func TestOpenOnce(t *testing.T) {
	ref := filepath.Join(t.TempDir(), "acl.o")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(ref, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := new(Opener)
	ctx := Once(t.Context())
	if _, err := o.Open(ctx, ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	write("one")
	if _, err := o.Open(ctx, ref); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there by now: %v", err)
	}
	ctx = Once(t.Context())
	var wg sync.WaitGroup
	var got [8]*Package
	for i := range got {
		wg.Go(func() { got[i], _ = o.Open(ctx, ref) })
	}
	wg.Wait()
	write("two")
	again, err := o.Open(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		if p != again {
			t.Errorf("got %p and %p", p, again)
		}
	}
	if other, err := o.Open(Once(t.Context()), ref); err != nil || other.Digest == again.Digest {
		t.Errorf("another call: %v, %v", other, err)
	}
}

func TestBuiltins(t *testing.T) {
	names := builtins()
	if len(names) < 3 {
		t.Fatalf("builtins = %v", names)
	}
	for _, name := range names {
		p, err := Open("builtin:" + name)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.Manifest.Name != name || len(p.Objects()) == 0 {
			t.Errorf("builtin:%s is %s with %v", name, p.Manifest.Name, p.Objects())
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := tree(t, map[string]string{
		"empty/x":                    "",
		"bad/package.yaml":           "apiVersion: l3af/v1\nname: x\nprograms:\n- {entry: a, object: a.o, hook: xdp}\n- {entry: b, object: gone.o, hook: xdp}\n",
		"bad/a.o":                    "",
		"escape/package.yaml":        "apiVersion: l3af/v1\nname: x\nprograms: [{entry: a, object: a.o, hook: xdp}]\n",
		"pipe/package.yaml":          "apiVersion: l3af/v1\nname: x\nprograms: [{entry: a, object: a.o, hook: xdp}]\n",
		"folder/package.yaml":        "apiVersion: l3af/v1\nname: x\nprograms: [{entry: a, object: a.o, hook: xdp}]\n",
		"folder/a.o/x":               "",
		"large/package.yaml":         "apiVersion: l3af/v1\nname: x\nprograms: [{entry: a, object: a.o, hook: xdp}]\n",
		"sum/package.yaml":           "apiVersion: l3af/v1\nname: x\nprograms: [{entry: a, object: a.o, hook: xdp}, {entry: a, object: b.o, hook: tc-egress}, {entry: a, object: c.o, hook: tc-ingress}]\n",
		"largemanifest/package.yaml": strings.Repeat("#", maxManifest+1),
		"secret.o":                   "secret",
		"file.txt":                   "",
	})
	for _, link := range [][2]string{{"../secret.o", "escape/a.o"}, {"nowhere", "dangling.o"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, pipe := range []string{"pipe/a.o", "pipe.o"} {
		if err := syscall.Mkfifo(filepath.Join(dir, pipe), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int64{"large/a.o": maxObject + 1, "sum/a.o": maxObject, "sum/b.o": maxObject - 1000, "sum/c.o": 1001, "large.o": maxObject + 1} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []struct{ ref, want string }{
		{"", `a package is builtin:NAME, a directory, an archive (.tar.gz, .tgz, .zip) or an object file (.o)`},
		{"builtin:acll", `there is no builtin package "acll", did you mean "acl" (the builtin packages are `},
		{"builtin:firewall", `there is no builtin package "firewall" (the builtin packages are acl, `},
		{"builtin:../acl", `there is no builtin package "../acl"`},
		{"builtin:", `there is no builtin package ""`},
		{"./acl", `the path is relative, and the daemon does not know to what: write the absolute path, or builtin:acl`},
		{"x.o", `the path is relative, and the daemon does not know to what: write the absolute path`},
		{"file:x.o", `the path is relative`},
		{"file://host/x.o", `not the file:// URL of a path on this machine`},
		{"https://example.com/x", `neither an archive nor an object file: its name ends in none of .tar.gz, .tgz, .zip and .o`},
		{"https://me:secret@example.com/x.zip", `a reference must hold no password`},
		{"https:///x.zip", `want the URL of a file on a server`},
		{"oci://example.com/x", `packages do not come from oci:// (but from builtin:NAME, paths, file://, http:// and https://)`},
		{"x.tar.gz", `the path is relative`},
		{dir + "/none.ZIP", `no such file or directory`},
		{"/x\x00.o", `a path has no zero bytes`},
		{dir + "/none", `no such file or directory`},
		{dir + "/dangling.o", `no such file or directory`},
		{dir + "/file.txt", `neither an archive nor an object file: its name ends in none of .tar.gz, .tgz, .zip and .o`},
		{dir + "/bad/package.yaml", `a package is named by its directory: write ` + dir + `/bad`},
		{dir + "/pipe.o", `neither a directory nor a regular file`},
		{dir + "/large.o", `too large: more than 33554432 bytes`},
		{dir + "/empty", `package.yaml: no such file or directory (a package directory has a manifest; a bare object is named by its file)`},
		{dir + "/bad", `programs[1].object: gone.o: no such file or directory`},
		{dir + "/escape", `programs[0].object: a.o: path escapes from parent`},
		{dir + "/pipe", `programs[0].object: a.o: not a regular file`},
		{dir + "/folder", `programs[0].object: a.o: not a regular file`},
		{dir + "/large", `programs[0].object: a.o: too large: more than 33554432 bytes`},
		{dir + "/sum", `the package is too large: more than 64 MiB`},
		{dir + "/largemanifest", `package.yaml: too large: more than 1048576 bytes`},
	} {
		p, err := Open(r.ref)
		if err == nil {
			t.Errorf("Open(%q) = %+v, want an error", r.ref, p)
			continue
		}
		want := fmt.Sprintf("open package %s: %s", clip(r.ref), r.want)
		if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Open(%q):\n got %v\nwant %s", r.ref, err, want)
		}
	}
	for _, ref := range []string{"builtin:nope", dir + "/none", dir + "/bad"} {
		if _, err := Open(ref); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%s) = %v, want fs.ErrNotExist", ref, err)
		}
	}
}

func TestManifestMistakes(t *testing.T) {
	const head = "apiVersion: l3af/v1\nname: x\n"
	const progs = head + "programs: [{entry: a, object: a.o, hook: xdp}]\n"
	for _, r := range []struct{ text, want string }{
		{"[]", `want a map with apiVersion, name, version, license, description, programs, globals, maps, files, have a list`},
		{"{}", "apiVersion: is required\nname: is required\nprograms: a package has at least one program"},
		{"apiVersion: l3af/v2\nname: a b\nprograms: x", "apiVersion: unknown version \"l3af/v2\" (write l3af/v1)\n" +
			"name: \"a b\" is no name: at most 128 letters, no spaces, no slashes\nprograms: want a list, have \"x\""},
		{head + "programs: []\nprogams: 1\nlicence: x", "licence: unknown key \"licence\" (did you mean \"license\"?)\n" +
			"progams: unknown key \"progams\" (did you mean \"programs\"?)\nprograms: a package has at least one program"},
		{head + "programs: [5, {}]", "programs[0]: want a map with entry, object, hook, attach, proceed, chain, map_name, description, have 5\n" +
			"programs[1].entry: is required\nprograms[1].object: is required\n" +
			"programs[1]: says neither its hook nor what to attach to (hook: xdp, or attach: tracepoint/GROUP/NAME)"},
		{head + "programs: [{entry: a, object: ../a.o, hook: xpd}]", "programs[0].object: \"../a.o\" is no plain path inside the package\n" +
			"programs[0].hook: unknown hook \"xpd\" (did you mean \"xdp\"?)"},
		{head + "programs: [{entry: a, object: /etc/a.o, hook: xdp, attach: tp/a/b}]", "programs[0].object: \"/etc/a.o\" is not inside the package: want a path relative to it\n" +
			"programs[0]: hook and attach exclude each other"},
		{head + "programs: [{entry: a, object: a/../b.o, hook: xdp, proceed: [pas, pass, pass, 3]}]", "programs[0].object: \"a/../b.o\" is no plain path inside the package\n" +
			"programs[0].proceed[0]: unknown verdict \"pas\" of xdp (did you mean \"pass\"?)\nprograms[0].proceed[2]: \"pass\" is there already\nprograms[0].proceed[3]: want a verdict, have 3"},
		{head + "programs: [{entry: a, object: package.yaml, attach: kprobe/, proceed: [pass]}]", "programs[0].object: \"package.yaml\" is the manifest\n" +
			"programs[0].attach: cannot attach to \"kprobe/\": want " + l3af.AttachForms + "\nprograms[0].proceed: a probe has no verdict to proceed on"},
		{head + "programs: [{entry: a, object: a.o, hook: xdp}, {entry: a, object: b.o, hook: xdp}]", "programs[1]: is programs[0] again"},
		{progs + "globals: [{}, {name: a, order: big}, {name: a}, 7]", "globals[0].name: is required\nglobals[1].order: unknown byte order \"big\" (there are host, network)\n" +
			"globals[2].name: \"a\" is the name of globals[1] already\nglobals[3]: want a map with name, default, description, order, have 7"},
		{progs + "maps: [{name: m, key_ordr: network}, {name: [1]}, {name: null}]", "maps[0].key_ordr: unknown key \"key_ordr\" (did you mean \"key_order\"?)\nmaps[1].name: want text, have a list\nmaps[2].name: want text, have null"},
		{progs + "files: [agent, 5, ../up, package.yaml, agent]", "files[1]: want a path inside the package, have 5\nfiles[2]: \"../up\" is no plain path inside the package\n" +
			"files[3]: \"package.yaml\" is the manifest\nfiles[4]: \"agent\" is there already"},
		{progs + "description: {}", "description: want text, have a map"},
		{"name: [", "line 1: did not find expected node content"},
	} {
		_, err := ParseManifest([]byte(r.text))
		if err == nil {
			t.Errorf("%s: no error", r.text)
			continue
		}
		if got := err.Error(); got != r.want {
			t.Errorf("%s:\n got %s\nwant %s", r.text, got, r.want)
		}
	}
}

// Any manifest: mistakes, or a manifest that holds to what is promised.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"apiVersion": "l3af/v1", "name": "x", "programs": [{"entry": "a", "object": "a.o", "hook": "tc-egress", "proceed": ["ok"]}]}`))
	f.Add([]byte("apiVersion: l3af/v1\nname: x\nprograms: [{entry: a, object: ../a.o, attach: raw_tp/x}]\nglobals: [{name: a, default: [1, {b: ~}]}]"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			if m != nil || err.Error() == "" {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		if m.Name == "" || len(m.Programs) == 0 {
			t.Fatalf("%+v", m)
		}
		for _, p := range m.Programs {
			if p.Entry == "" || !filepath.IsLocal(p.Object) || (p.Hook == "") == (p.Attach == "") {
				t.Fatalf("%+v", p)
			}
			for _, v := range p.Proceed {
				if _, ok := p.Hook.Code(v); !ok {
					t.Fatalf("%+v", p)
				}
			}
		}
	})
}
