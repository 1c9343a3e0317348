package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const codename = "test"

// repo is a repository of packages as L3AF lays it out.
type repo struct {
	testing.TB
	root string
}

func newRepo(t testing.TB) *repo { return &repo{t, t.TempDir()} }

func (r *repo) dir() string { return r.root }
func (r *repo) url() string { return "file://" + r.root }

// pack makes the package NAME/VERSION of an archive file: objects of testdata,
// and files with their text, which may be run if they begin with #!.
func (r *repo) pack(name, version, file string, objects []string, files map[string]string) {
	r.Helper()
	top, _, _ := strings.Cut(file, ".")
	all := map[string]string{}
	for _, o := range objects {
		text, err := os.ReadFile(filepath.Join("testdata", "repo", o))
		if err != nil {
			r.Fatal(err)
		}
		all[o] = string(text)
	}
	for name, text := range files {
		all[name] = text
	}
	dir := filepath.Join(r.root, name, version, codename)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), archive(r, top, all), 0o644); err != nil {
		r.Fatal(err)
	}
}

// archive packs files into one directory. What begins with #! may be run.
func archive(t testing.TB, top string, files map[string]string) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text, mode := files[name], int64(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: "./" + top + "/" + name, Mode: mode, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// upstream is a node that L3AF's control plane talks to: it runs in the
// namespace rx.
type upstream struct {
	*node
	*repo
	http   *http.Client
	origin string
}

func newUpstream(t testing.TB, more ...string) *upstream {
	t.Helper()
	u := &upstream{node: newNode(t), repo: newRepo(t), origin: "http://l3afd"}
	u.node.netns = "rx"
	u.more = append([]string{"-host-name", "host", "-package-repo", u.url(), "-package-codename", codename, "-pin-base", u.base()}, more...)
	u.http = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", u.Socket)
	}}}
	return u
}

// dir is the repository's.
func (u *upstream) dir() string { return u.repo.dir() }

// daemon runs l3afd for what it prints.
func (u *upstream) daemon(args ...string) (string, error) {
	out, err := exec.Command(executable(u.node.TB, "l3afd"), args...).Output()
	return string(out), err
}

// base is the bpffs below which agents look for maps.
func (u *upstream) base() string { return filepath.Dir(u.bpffs) }

func (u *upstream) Helper() { u.node.Helper() }

// call sends a request of L3AF's API.
func (u *upstream) call(method, path, body string) (status int, answer string) {
	u.Helper()
	req, err := http.NewRequest(method, u.origin+path, strings.NewReader(body))
	if err != nil {
		u.node.Fatal(err)
	}
	resp, err := u.http.Do(req)
	if err != nil {
		u.node.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		u.node.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// does wants a POST to succeed, and to say nothing.
func (u *upstream) does(verb, body string) {
	u.Helper()
	if status, answer := u.call("POST", "/l3af/configs/v1/"+verb, body); status != 200 || answer != "" {
		u.node.Fatalf("%s %s: %d %s", verb, body, status, answer)
	}
}

// get reads a GET.
func (u *upstream) get(path string, into any) {
	u.Helper()
	status, answer := u.call("GET", path, "")
	if status != 200 {
		u.node.Fatalf("GET %s: %d %s", path, status, answer)
	}
	if err := json.Unmarshal([]byte(answer), into); err != nil {
		u.node.Fatalf("GET %s: %v", path, err)
	}
}

// fields are the 31 of a program, with what is most usual.
type fields map[string]any

// counting is the program count, which takes the named package.
func counting(name string, seq int, more fields) fields {
	f := fields{"name": name, "seq_id": seq, "artifact": "l3af_count.tar.gz", "version": "1.0", "object_file": "count.bpf.o",
		"entry_function_name": "_xdp_count", "map_name": "count_next", "admin_status": "enabled", "prog_type": "xdp"}
	for k, v := range more {
		f[k] = v
	}
	return f
}

// request is a payload for v0: lists of programs by direction.
func request(lists map[string][]fields) string {
	text, err := json.Marshal([]any{map[string]any{"host_name": "host", "iface": "v0", "ipv4_address": "192.0.2.1", "bpf_programs": lists}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// xdpList is a payload of one list.
func xdpList(programs ...fields) string {
	return request(map[string][]fields{"xdp_ingress": append([]fields{}, programs...)})
}

// names is a payload of delete.
func names(iface, direction string, list ...string) string {
	text, err := json.Marshal([]any{map[string]any{"host_name": "host", "iface": iface, "bpf_programs": map[string][]string{direction: list}}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// packCounting makes the package count of several names and versions.
func (u *upstream) packCounting(version string, names ...string) {
	for _, n := range names {
		u.pack(n, version, "l3af_count.tar.gz", []string{"count.bpf.o"}, map[string]string{"README": fmt.Sprint(n, " ", version)})
	}
}
