package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// With too few descriptors, whatever their number, what is read back is right
// or an error, and never less than there is.
func TestDescriptorsRunOut(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	testenv.Netns(t, "far")
	lo, far := hook(l3af.XDP, "", "lo"), hook(l3af.TCIngress, "far", "lo")
	attach(t, k, host.Load{Target: lo, Chain: gate(t, l3af.XDP, xdpPass)})
	attach(t, k, host.Load{Target: lo, Chain: gate(t, l3af.XDP, xdpPass, xdpPass)})
	attach(t, k, host.Load{Target: far, Chain: gate(t, l3af.TCIngress, tcUnspec)})
	want, err := k.Attached()
	if err != nil || len(want) != 2 {
		t.Fatalf("%+v, %v", want, err)
	}

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	failed, right := 0, 0
	for free := range 14 {
		var fill []*os.File
		func() {
			defer func() {
				for _, f := range fill {
					f.Close()
				}
				if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
					t.Fatal(err)
				}
			}()
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 128, Max: limit.Max}); err != nil {
				t.Fatal(err)
			}
			for {
				f, err := os.Open("/dev/null")
				if err != nil {
					break
				}
				fill = append(fill, f)
			}
			for range free {
				fill[0].Close()
				fill = fill[1:]
			}
			list, err := k.Attached()
			for i, a := range list {
				if a.Err != nil {
					err = a.Err
				} else if a != want[i] {
					t.Errorf("%d free: %+v, want %+v", free, a, want[i])
				}
			}
			if err == nil && len(list) != len(want) {
				t.Errorf("%d free: attached %+v, want %+v", free, list, want)
			}
			counts, errCounts := k.Counts(lo, true)
			if errCounts == nil && len(counts) != 2 {
				t.Errorf("%d free: counts %+v", free, counts)
			}
			if err != nil || errCounts != nil {
				failed++
			} else {
				right++
			}
		}()
	}
	if failed == 0 || right == 0 {
		t.Errorf("%d times an error, %d times right: nothing was shown", failed, right)
	}
}

// A namespace that cannot be entered any more is a matter of its targets.
func TestNamespaceBlocked(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "far")
	k := open(t)
	dir := filepath.Join(t.TempDir(), "ns")
	if err := os.Symlink("/run/netns", dir); err != nil {
		t.Fatal(err)
	}
	lo, far := hook(l3af.XDP, "", "lo"), hook(l3af.XDP, filepath.Join(dir, "far"), "lo")
	attach(t, k, host.Load{Target: lo, Chain: gate(t, l3af.XDP, xdpPass)})
	attach(t, k, host.Load{Target: far, Chain: gate(t, l3af.XDP, xdpPass)})
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := k.Attached()
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, a := range list {
		if blocked := a.Target == far; (a.Err != nil) != blocked || (a.ID == "") != blocked {
			t.Errorf("%+v", a)
		}
	}
	if err := k.Tidy(far, nil); err != nil {
		t.Error(err)
	}
}
