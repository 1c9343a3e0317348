package demo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l3af/internal/daemon"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "l3afd":
		os.Exit(daemon.Main(os.Args[1:]))
	case "broken":
		fmt.Fprintln(os.Stderr, "l3afd: out of order")
		os.Exit(1)
	}
	os.Exit(testenv.Wrap(m).Run())
}

// gone checks that nothing of a demo is left.
func gone(t *testing.T, tmp string) {
	t.Helper()
	for _, pattern := range []string{filepath.Join(tmp, "*"), "/run/netns/*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "l3af-demo") {
		t.Errorf("left: mounts\n%s", mounts)
	}
}

// output is what the demo prints; watchers see it as it comes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	said chan struct{}
	when string
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	had := strings.Contains(o.text.String(), o.when)
	n, err := o.text.Write(p)
	if !had && strings.Contains(o.text.String(), o.when) {
		close(o.said)
	}
	return n, err
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Whatever goes wrong, the demo says what, and takes everything away: a
// daemon that does not start, an interrupt at any time, and lost packets,
// which it must notice.
func TestFailures(t *testing.T) {
	testenv.Root(t)
	for _, c := range []struct {
		name   string
		daemon string // l3afd if ""
		when   string // is printed, do something
		do     func(t *testing.T, cancel func())
		want   string // in the error
	}{
		{name: "daemon", daemon: "broken", want: "out of order"},
		{name: "interrupted at the start", when: "making", do: func(_ *testing.T, cancel func()) { cancel() }, want: "context canceled"},
		{name: "interrupted in the middle", when: "TRAFFIC", do: func(_ *testing.T, cancel func()) { cancel() }, want: "context canceled"},
		{name: "interrupted at the end", when: "changes,", do: func(_ *testing.T, cancel func()) { cancel() }, want: "context canceled"},
		{name: "loss", when: "changes,", do: func(t *testing.T, _ func()) { flap(t) }, want: "were lost by the change"},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Clean(t)
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			out := &output{said: make(chan struct{}), when: c.when}
			var doing sync.WaitGroup
			if c.do != nil {
				doing.Go(func() {
					select {
					case <-out.said:
						c.do(t, cancel)
					case <-time.After(time.Minute):
						cancel()
					}
				})
			}
			err := Run(ctx, Options{Out: out, Time: 3 * time.Second, Daemon: func(_ context.Context, dir string) (string, error) {
				exe, err := os.Executable()
				if err != nil {
					return "", err
				}
				path := filepath.Join(dir, cmp.Or(c.daemon, "l3afd"))
				return path, os.Symlink(exe, path)
			}})
			doing.Wait()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q\n%s", err, c.want, out)
			}
			gone(t, tmp)
		})
	}
}

// flap takes the receiver's address away for a moment.
func flap(t *testing.T) {
	found, err := filepath.Glob("/run/netns/*-rx")
	if err != nil || len(found) != 1 {
		t.Errorf("namespaces %q, %v", found, err)
		return
	}
	if err := in(filepath.Base(found[0]), func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: receiverEnd.addrs[0].AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrDel(l, addr); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		return netlink.AddrAdd(l, addr)
	}); err != nil {
		t.Error(err)
	}
}

// A flow counts each number once, however late and often it comes.
func TestFlowCounts(t *testing.T) {
	var f flow
	f.sent.Store(1 << 17)
	for _, n := range []uint64{0, 1, 1, 63, 64, 5, 1<<17 - 1, 64, 0} {
		f.came(n)
	}
	if sent, arrived, twice := f.counts(); sent != 1<<17 || arrived != 6 || twice != 3 {
		t.Errorf("sent %d, arrived %d, twice %d", sent, arrived, twice)
	}
}

func TestColumns(t *testing.T) {
	got := columns([][]string{{"NAME", "SENT"}, {"a", count(1_234_567)}, {"bcdef", count(89)}})
	want := "  NAME        SENT\n  a      1,234,567\n  bcdef         89\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
