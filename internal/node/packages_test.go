package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/host"
)

// A package that is missing in the store stops its chain only; when it is
// there again, the chain is mended without an apply.
func TestMissingPackage(t *testing.T) {
	r := newRig(t)
	r.apply(state("namespace")) // only other.bpf.o
	r.apply(state("hooks"))     // a is tiny, at xdp and tc-ingress
	digest := r.n.Current().Packages[state("one").Chains[0].Programs[0].Package]
	r.n.Close()
	from, to := filepath.Join(r.dir, "packages", digest), filepath.Join(r.dir, "away")
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	before := r.k.Running()
	r.k.Reboot()
	r.restart()
	s := r.status()
	for _, at := range []string{"xdp/v0", "tc-ingress/v0"} {
		if c := chainAt(t, s, at); c.State != l3af.Failed || !strings.Contains(c.Error, "package") {
			t.Errorf("%+v", c)
		}
	}
	if c := chainAt(t, s, "tc-egress/v0"); c.State != l3af.Running {
		t.Errorf("%+v", c)
	}
	wantSteps(t, r.reconcile())
	if err := os.Rename(to, from); err != nil {
		t.Fatal(err)
	}
	wantSteps(t, r.reconcile(), "attach xdp/v0", "attach tc-ingress/v0")
	if after := r.k.Running(); !reflect.DeepEqual(after, before) {
		t.Errorf("running %v, was %v", after, before)
	}

	// While it runs, a missing package changes nothing; applying the same
	// state puts it back.
	if err := os.RemoveAll(from); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Failed || c.ID != before[hookOf("xdp/v0")] || c.ProgramID == 0 {
		t.Errorf("%+v", c)
	}
	if a := r.apply(state("hooks")); a.Changed || len(a.Steps) > 0 {
		t.Errorf("applied again: %+v", a)
	}
	if c := chainAt(t, r.status(), "xdp/v0"); c.State != l3af.Running {
		t.Errorf("%+v", c)
	}
}

// What is composed of a package that is there again may stand against what was
// fine without it. A status that is under way tells of one or of the other.
func TestStatusWhileMending(t *testing.T) {
	r := newRig(t)
	defer func() { r.n.Close() }()
	s := usersOf(t, `{}`, `{}`, ``)
	other, err := openCached(t.Context(), testObject(t, "bigger.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	tiny, err := openCached(t.Context(), s.Chains[1].Programs[0].Package)
	if err != nil {
		t.Fatal(err)
	}
	s.Chains[0].Programs[0].Package = other.Ref
	rev := &l3af.Revision{State: *s, Packages: map[string]string{other.Ref: other.Digest, tiny.Ref: tiny.Digest}}
	if err := r.n.store.Put(tiny); err != nil {
		t.Fatal(err)
	}
	if err := r.n.put(rev, build(s, r.n.stored(rev))); err != nil {
		t.Fatal(err)
	}
	r.reconcile()
	if err := r.n.store.Put(other); err != nil {
		t.Fatal(err)
	}
	const missing, against = "package", "instance i is of another package"
	told := func(xdp, tc string) {
		t.Helper()
		s := r.status()
		if a, b := chainAt(t, s, "xdp/v0").Error, chainAt(t, s, "tc-ingress/v0").Error; !strings.Contains(a, xdp) || !strings.Contains(b, tc) || (tc == "") != (b == "") {
			t.Errorf("xdp: %q, tc: %q", a, b)
		}
	}
	mended := false
	r.k.Before = func(method string, _ host.Target) error {
		if method == "Attached" && !mended {
			mended = true
			r.reconcile()
		}
		return nil
	}
	told(missing, "")
	told("another shape", against)
}

// A revision that cannot be read just now keeps its packages, and so does the
// current one whatever became of its file.
func TestPackagesAreKept(t *testing.T) {
	r := newRig(t)
	stored := func() int {
		list, err := os.ReadDir(filepath.Join(r.dir, "packages"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	path := func(n int) string { return filepath.Join(r.dir, "revisions", revisionName(n)) }
	r.apply(state("two")) // two packages
	r.apply(state("empty"))
	r.restart()
	if err := os.Rename(path(1), path(1)+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(revisionName(1), path(1)); err != nil { // to itself: ELOOP
		t.Fatal(err)
	}
	r.apply(state("removed")) // one of them
	if n := stored(); n != 2 {
		t.Errorf("%d packages", n)
	}
	if err := os.Rename(path(1)+".away", path(1)); err != nil {
		t.Fatal(err)
	}
	if a, err := r.n.Rollback(context.Background(), 1, "test", -1); err != nil || len(a.Failed) != 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	for n := 1; n <= 4; n++ {
		if err := os.WriteFile(path(n), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.n.prune()
	if n := stored(); n != 2 {
		t.Errorf("%d packages", n)
	}
}

// While a package is on its way the machine is looked after, and who asked for
// it may give up.
func TestPackagesComeSlowly(t *testing.T) {
	r := newRig(t)
	r.apply(state("one"))
	asked := make(chan bool, 10)
	r.n.opts.Open = func(ctx context.Context, ref string) (*artifact.Package, error) {
		asked <- true
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := r.n.Apply(ctx, state("two"), "test", -1)
		done <- err
	}()
	<-asked
	r.k.DeleteInterface("", "v0")
	r.k.AddInterface("", "v0")
	wantSteps(t, r.reconcile(), "attach xdp/v0")
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "chains[0].programs[0].package: context canceled") {
		t.Errorf("given up: %v", err)
	}
	if rev := r.n.Current(); rev.Number != 1 {
		t.Errorf("revision %d", rev.Number)
	}
	r.n.opts.Open = openCached
	r.apply(state("two"))
}

// An edit leaves the packages alone that it does not want anew, even when
// they are gone.
func TestEditKeepsPackages(t *testing.T) {
	r := newRig(t)
	r.n.opts.Open = new(artifact.Opener).Open
	path := filepath.Join(r.dir, "p.o")
	install := func(name string) {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	named := func(name string) *l3af.State {
		return &l3af.State{APIVersion: l3af.APIVersion, Chains: []l3af.Chain{{Interface: "v0", Hook: l3af.XDP, Programs: []l3af.Program{{Name: name, Package: path}}}}}
	}
	fresh := false
	edit := func(name string) *l3af.Applied {
		t.Helper()
		a, err := r.n.Edit(context.Background(), named(name), "test", -1, func(string) bool { return fresh })
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	entries := func() string {
		t.Helper()
		list, err := r.n.Entries(context.Background(), path, "p.o", fresh)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list)
	}
	install("tiny.bpf.o")
	edit("p")
	was := r.n.Current().Packages
	const tiny = "[{tiny } {tiny_probe raw_tracepoint/sched_process_exec} {tiny_tc }]"
	if got := entries(); got != tiny {
		t.Errorf("entries %s, want %s", got, tiny)
	}
	install("other.bpf.o")
	edit("q")
	if got := r.n.Current(); got.Number != 2 || !maps.Equal(got.Packages, was) || entries() != tiny {
		t.Errorf("the package changed: %+v", got)
	}
	fresh = true
	edit("q")
	if got := r.n.Current(); got.Number != 3 || maps.Equal(got.Packages, was) || entries() == tiny {
		t.Errorf("the package did not change: %+v", got)
	}
	fresh = false
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if a := edit("p"); !a.Changed {
		t.Errorf("without its package: %+v", a)
	}
	if _, err := r.n.Entries(context.Background(), path, "none.o", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such object: %v", err)
	}
}
