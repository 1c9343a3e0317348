package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l3af"
	"l3af/client"
	"l3af/internal/api"
	"l3af/internal/api/apitest"
)

// serve gives a client of a node's API, and what stops the API.
func serve(t *testing.T, node *apitest.Node) (*client.Client, func()) {
	t.Helper()
	return serveAt(t, node, filepath.Join(t.TempDir(), "l3afd.sock"))
}

func serveAt(t *testing.T, node *apitest.Node, socket string) (*client.Client, func()) {
	t.Helper()
	g, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Skip(err) // not root, and in no group that could write
	}
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	l, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.New(node, api.Options{Group: g.Name}).Serve(ctx, l) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		stop()
		for range 100 {
			runtime.GC()
			if runtime.NumGoroutine() <= goroutines && descriptors(t) <= fds {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("left: %d goroutines, %d descriptors", runtime.NumGoroutine()-goroutines, descriptors(t)-fds)
	})
	return &client.Client{Socket: socket}, stop
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func state(names ...string) *l3af.State {
	s := &l3af.State{APIVersion: l3af.APIVersion}
	for _, n := range names {
		s.Chains = append(s.Chains, l3af.Chain{Interface: n, Hook: l3af.XDP, Programs: []l3af.Program{{Name: "acl", Package: "builtin:acl"}}})
	}
	return s
}

func TestRoundTrips(t *testing.T) {
	ctx := context.Background()
	running := l3af.ChainStatus{Interface: "eth0", Netns: "/a/b c", Hook: l3af.XDP, State: l3af.Running,
		Programs: []l3af.ProgramStatus{{Name: "acl", Packets: 1<<64 - 1, Verdicts: map[l3af.Verdict]uint64{l3af.Drop: 1<<64 - 1}}}}
	node := &apitest.Node{Report: l3af.Status{Chains: []l3af.ChainStatus{running}}}
	c, _ := serve(t, node)

	if _, err := c.State(ctx); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("state before the first: %v", err)
	}
	plan, err := c.Plan(ctx, state("eth0"))
	if err != nil || plan.Revision != 0 || len(plan.Steps) != 1 {
		t.Errorf("plan: %+v, %v", plan, err)
	}
	a, err := c.Apply(ctx, state("eth0"), 0)
	if err != nil || a.Revision != 1 || !a.Changed || a.Steps[0].Target != "xdp/eth0" {
		t.Fatalf("apply: %+v, %v", a, err)
	}
	a, err = c.ApplyDocument(ctx, []byte("apiVersion: l3af/v1\n"), 1)
	if err != nil || a.Revision != 2 {
		t.Fatalf("apply: %+v, %v", a, err)
	}
	var conflict *l3af.ConflictError
	if _, err = c.Apply(ctx, state("eth1"), 1); !errors.As(err, &conflict) || conflict.Current != 2 || conflict.Busy {
		t.Errorf("conflict: %v", err)
	}
	a, err = c.Rollback(ctx, 0, 2)
	if err != nil || a.Revision != 3 {
		t.Errorf("rollback: %+v, %v", a, err)
	}
	if _, err = c.Rollback(ctx, 0, 2); !errors.As(err, &conflict) || conflict.Current != 3 {
		t.Errorf("conflict: %v", err)
	}
	if _, err = c.Rollback(ctx, 7, -1); !errors.Is(err, l3af.ErrNotFound) || !strings.Contains(err.Error(), "revision 7") {
		t.Errorf("rollback: %v", err)
	}
	r, err := c.State(ctx)
	if err != nil || r.Number != 3 || !reflect.DeepEqual(&r.State, state("eth0")) || r.By == "" || r.Time.IsZero() {
		t.Errorf("state: %+v, %v", r, err)
	}
	if r, err = c.Revision(ctx, 2); err != nil || r.Number != 2 || len(r.State.Chains) != 0 {
		t.Errorf("revision: %+v, %v", r, err)
	}
	if _, err = c.Revision(ctx, 9); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("revision: %v", err)
	}
	revs, err := c.Revisions(ctx)
	if err != nil || len(revs) != 3 || revs[0].Number != 3 {
		t.Errorf("revisions: %+v, %v", revs, err)
	}
	st, err := c.Status(ctx)
	if err != nil || st.Revision != 3 || !reflect.DeepEqual(st.Chains, []l3af.ChainStatus{running}) {
		t.Errorf("status: %+v, %v", st, err)
	}
	ch, err := c.Chain(ctx, l3af.Hook{Netns: "/a/b c", Interface: "eth0", Kind: l3af.XDP})
	if err != nil || !reflect.DeepEqual(*ch, running) {
		t.Errorf("chain: %+v, %v", ch, err)
	}
	if _, err = c.Chain(ctx, l3af.Hook{Interface: "eth0", Kind: l3af.XDP}); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("chain: %v", err)
	}
	if err := c.Health(ctx); err != nil {
		t.Errorf("health: %v", err)
	}
	h := l3af.Hook{Netns: "/a/b c", Interface: "eth0", Kind: l3af.XDP}
	ran, err := c.RunChain(ctx, h, &l3af.RunRequest{Packets: [][]byte{{1, 2}}, State: state("eth0"), LiveMaps: true})
	if err != nil || len(ran.Packets) != 1 || string(ran.Packets[0].Data) != "\x01\x02" || ran.Packets[0].Program != "acl" || len(ran.Notes) != 2 {
		t.Errorf("run: %+v, %v", ran, err)
	}
	x, err := c.ExplainChain(ctx, h, nil)
	if err != nil || len(x.Programs) != 1 || x.Netns != h.Netns {
		t.Errorf("explain: %+v, %v", x, err)
	}
	if x, err = c.ExplainChain(ctx, h, state("eth0")); err != nil || x.ID != "proposed" {
		t.Errorf("explain a document: %+v, %v", x, err)
	}
	d, err := c.DumpChain(ctx, h, true)
	if err != nil || len(d.Functions) != 1 || len(d.Jited) != 1 {
		t.Errorf("dump: %+v, %v", d, err)
	}
	if d, err = c.DumpChain(ctx, h, false); err != nil || len(d.Jited) != 0 {
		t.Errorf("dump: %+v, %v", d, err)
	}
	if _, err = c.ExplainChain(ctx, l3af.Hook{Interface: "eth0", Kind: l3af.XDP}, nil); !errors.Is(err, l3af.ErrNotFound) {
		t.Errorf("explain: %v", err)
	}
}

func TestRefused(t *testing.T) {
	ctx := context.Background()
	node := &apitest.Node{}
	c, _ := serve(t, node)
	bad := state("eth0", "eth0")
	bad.Chains[1].Hook = "xpd"
	_, err := c.Apply(ctx, bad, -1)
	var invalid *l3af.InvalidError
	if !errors.As(err, &invalid) || !reflect.DeepEqual(invalid, bad.Validate()) || err.Error() != invalid.Error() {
		t.Errorf("invalid: %#v", err)
	}
	_, err = c.ApplyDocument(ctx, []byte("a: 1\na: 2"), -1)
	if !errors.As(err, &invalid) || err.Error() != `line 2: the key "a" is on line 1 already` {
		t.Errorf("unreadable: %v", err)
	}
	_, err = c.PlanDocument(ctx, make([]byte, 17<<20))
	var e *client.Error
	if !errors.As(err, &e) || e.Status != http.StatusRequestEntityTooLarge || e.Code != "too_large" || e.Hint == "" {
		t.Errorf("too large: %v", err)
	}
	node.Busy = true
	var conflict *l3af.ConflictError
	if _, err = c.Apply(ctx, state(), -1); !errors.As(err, &conflict) || !conflict.Busy {
		t.Errorf("busy: %v", err)
	}
	node.Busy, node.Err = false, errors.New("load: "+strings.Repeat("a long verifier log\n", 100_000))
	if _, err = c.Status(ctx); !errors.As(err, &e) || e.Code != "internal" || err.Error() != node.Err.Error() {
		t.Errorf("internal: %.80v", err)
	}
	if err = c.Health(ctx); !errors.As(err, &e) || e.Code != "unhealthy" {
		t.Errorf("health: %.80v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err = c.Status(done); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestEvents(t *testing.T) {
	node := &apitest.Node{}
	c, stop := serve(t, node)
	if _, err := c.Apply(context.Background(), state("eth0"), -1); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	var got []string
	err := c.Events(context.Background(), func(e l3af.Event) error {
		got = append(got, e.Kind+" "+e.Message)
		if e.Kind == "last" {
			return enough
		}
		node.Event(l3af.Event{Kind: "last", Message: strings.Repeat("long", 100_000)})
		return nil
	})
	if err != enough || len(got) != 2 || !strings.HasPrefix(got[0], "applied applied by ") || len(got[1]) != 400_005 {
		t.Errorf("got %.200q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := c.Events(ctx, func(l3af.Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	err = c.Events(context.Background(), func(l3af.Event) error { go stop(); return nil })
	var e *client.Error
	if !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &e) || e.Hint == "" {
		t.Errorf("stopped: %v", err)
	}
}

// Follow goes on with the next daemon: it is told what came before and what comes
// behind the last event that f took, whatever ended a stream.
func TestFollow(t *testing.T) {
	node := &apitest.Node{}
	c, stop := serve(t, node)
	if err := (&client.Client{Socket: c.Socket + ".none"}).Follow(t.Context(), time.Hour, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody there: %v", err)
	}
	enough := errors.New("enough")
	var got []string
	node.Event(l3af.Event{Message: "one"})
	next := &apitest.Node{}
	var daemons sync.WaitGroup
	again := make(chan func(), 1) // ends the second daemon
	err := c.Follow(t.Context(), time.Minute, func(e l3af.Event) error {
		got = append(got, e.Message)
		switch e.Message {
		case "one":
			node.Event(l3af.Event{Message: "two"})
		case "two":
			daemons.Go(func() {
				stop()
				node.Event(l3af.Event{Message: "three"}) // that nobody is there to hear
				time.Sleep(2 * client.Again)
				_, stop := serveAt(t, node, c.Socket)
				again <- stop
			})
		case "three":
			daemons.Go(func() {
				(<-again)()
				next.Event(l3af.Event{Message: "four"})
				serveAt(t, next, c.Socket)
			})
		case "four":
			return enough
		}
		return nil
	})
	daemons.Wait()
	if want := []string{"one", "two", "three", "four"}; err != enough || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// It ends where no daemon comes.
func TestFollowEnds(t *testing.T) {
	node := &apitest.Node{}
	c, stop := serve(t, node)
	node.Event(l3af.Event{})
	err := c.Follow(t.Context(), 3*client.Again, func(l3af.Event) error { go stop(); return nil })
	if !client.Gone(err) {
		t.Errorf("nobody comes: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at("stale"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{
		at("none"):                     "no such file or directory; is l3afd running?",
		at("stale"):                    "connection refused; is l3afd running?",
		at("file"):                     "connection refused; is l3afd running?",
		"/" + strings.Repeat("x", 200): "invalid argument; ",
	} {
		_, err := (&client.Client{Socket: socket}).Status(context.Background())
		var e *client.Error
		if !errors.As(err, &e) || !strings.HasPrefix(e.Detail+"; "+e.Hint, "cannot reach l3afd at "+socket+": "+want) {
			t.Errorf("%s: %v", socket, err)
		}
	}
	if _, err := (&client.Client{Socket: at("none")}).Status(context.Background()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cause is lost: %v", err)
	}
	var zero client.Client
	if _, err := zero.Status(context.Background()); err != nil && !strings.Contains(err.Error(), client.DefaultSocket) {
		t.Errorf("zero value: %v", err)
	}
}

// Whoever answers on the socket, the client fails with sense.
func TestStrangers(t *testing.T) {
	for _, tt := range []struct{ answer, want string }{
		{"", "cannot reach l3afd at "},
		{"SSH-2.0-OpenSSH\r\n", "cannot reach l3afd at "},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n<>", "read answer of "},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "read answer of "},
		{"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n<\xff\n> ", "the daemon answered 502 Bad Gateway: <?\n>"},
		{"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n", "the daemon answered 302 Found: "},
	} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, tt.answer)
		}()
		_, err = (&client.Client{Socket: l.Addr().String()}).Status(context.Background())
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %s", tt.answer, err, tt.want)
		}
		l.Close()
	}
}

// Permissions of the socket's directory are told as such.
func TestLockedOut(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root opens everything: the text of the hint is checked on the error itself.
		err := client.Unreachable("/run/x.sock", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", fs.ErrPermission)})
		var e *client.Error
		if !errors.As(err, &e) || !strings.Contains(e.Hint, "run as root") || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("got %v", err)
		}
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	_, err := (&client.Client{Socket: filepath.Join(dir, "s")}).Status(context.Background())
	var e *client.Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "run as root") {
		t.Errorf("got %v", err)
	}
}
