package kernel

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/host"
	"l3af/internal/testenv"
)

// libc is the library that every program here calls.
func libc(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/lib/*-linux-gnu/libc.so.6")
	if err != nil || len(found) == 0 {
		t.Skip("no libc")
	}
	return found[0]
}

// A probe sees every event, before, while and after it is replaced.
func TestProbes(t *testing.T) {
	for _, c := range []struct{ attach, entry string }{
		{"tracepoint/sched/sched_process_exec", "execs"},
		{"raw_tracepoint/sched_process_exec", "raw_execs"},
		{"uprobe/" + libc(t) + ":exit", "calls"},
		{"uretprobe/" + libc(t) + ":__cxa_finalize", "calls"},
	} {
		t.Run(c.attach, func(t *testing.T) {
			testenv.Clean(t)
			k := open(t)
			target := host.Target{Probe: "exec"}
			load := host.Load{Target: target, Chain: probe(t, c.attach, c.entry)}
			if res := attach(t, k, load); res != (host.Result{}) {
				t.Errorf("attached as %+v", res)
			}
			first := attached(t, k, target)
			if first.ID != load.Chain.ID || first.ProgramID == 0 || first.LinkID == 0 {
				t.Errorf("read back %+v", first)
			}
			run := func(n int) {
				for range n {
					if err := exec.Command("true").Run(); err != nil {
						t.Fatal(err)
					}
				}
			}
			run(3)
			if n := seen(t, k, target, "e"); n < 3 {
				t.Errorf("%d events seen of at least 3", n)
			}

			// Replaced again and again while events go on.
			before := seen(t, k, target, "e")
			const events = 100
			done := make(chan struct{})
			go func() { defer close(done); run(events) }()
			replaced := 0
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
					attach(t, k, load)
					replaced++
				}
			}
			if n := seen(t, k, target, "e") - before; n < events {
				t.Errorf("%d events seen of at least %d, replaced %d times", n, events, replaced)
			}
			last := attached(t, k, target)
			if last.ID != load.Chain.ID || last.LinkID == first.LinkID {
				t.Errorf("first %+v, last %+v", first, last)
			}
			k = restart(t, k)
			if again := attached(t, k, target); again != last {
				t.Errorf("after a restart %+v, before %+v", again, last)
			}
			if counts, err := k.Counts(target, true); len(counts) > 0 || err != nil {
				t.Errorf("counts %v, %v", counts, err)
			}
			if err := k.Detach(target); err != nil {
				t.Fatal(err)
			}
			if a := attached(t, k, target); a != (host.Attached{Target: target}) {
				t.Errorf("after Detach: %+v", a)
			}
		})
	}
}

// A new link that a crash kept from its place goes, for the old one runs.
func TestProbeCrash(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	target := host.Target{Probe: "exec"}
	load := host.Load{Target: target, Chain: probe(t, "raw_tracepoint/sched_process_exec", "raw_execs")}
	attach(t, k, load)
	first := attached(t, k, target)
	p := filepath.Join(k.path(target), newLinkPin)
	l, err := link.LoadPinnedLink(k.linkPath(target), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(k.linkPath(target), p); err != nil {
		t.Fatal(err)
	}
	l.Close()
	attach(t, k, host.Load{Target: host.Target{Probe: "other"}, Chain: load.Chain})
	if err := os.Rename(k.linkPath(host.Target{Probe: "other"}), k.linkPath(target)); err != nil {
		t.Fatal(err)
	}
	now := attached(t, k, target)
	k = restart(t, k)
	if a := attached(t, k, target); a != now || a.LinkID == first.LinkID {
		t.Errorf("after the start %+v, before %+v", a, now)
	}
	if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", p, err)
	}
}

func TestProbeMistakes(t *testing.T) {
	testenv.Clean(t)
	k := open(t)
	good := probe(t, "tracepoint/sched/sched_process_exec", "execs")
	raw := probe(t, "raw_tracepoint/sched_process_exec", "raw_execs")
	for attach, say := range map[string]string{
		"tracepoint/sched":                           "want tracepoint/GROUP/NAME",
		"tracepoint/sched/no_such":                   "which tracepoints this kernel has",
		"tracepoint/../../etc/passwd":                "invalid",
		"kprobe/":                                    "symbol name cannot be empty",
		"uprobe//no/such:exit":                       "no such file",
		"uprobe//etc/passwd:exit":                    "ELF",
		"uretprobe/" + libc(t) + ":no_such_function": "no_such_function",
		"raw_tracepoint/no_such":                     "without its group",
	} {
		c := *good
		switch kind, _, _ := strings.Cut(attach, "/"); kind {
		case "raw_tracepoint":
			c = *raw
		case "kprobe", "uprobe", "uretprobe":
			c = *probe(t, "uprobe//x:y", "calls")
		}
		c.Attach = attach
		_, err := k.Attach(t.Context(), host.Load{Target: host.Target{Probe: "p"}, Chain: &c})
		if err == nil || !strings.HasPrefix(err.Error(), "attach "+attach+": ") || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v, want %q", attach, err, say)
		}
		if left := tree(t, k.root); len(left) > 0 {
			t.Errorf("%s: left %v", attach, left)
		}
	}
	for _, load := range []host.Load{
		{Target: host.Target{Probe: "p"}},
		{Target: host.Target{Probe: "p"}, Chain: gate(t, l3af.XDP, xdpPass)},
		{Target: hook(l3af.XDP, "", "lo"), Chain: good},
		{Target: hook(l3af.TCEgress, "", "lo"), Chain: gate(t, l3af.TCIngress, tcOK)},
	} {
		if _, err := k.Attach(t.Context(), load); err == nil {
			t.Errorf("%+v is taken", load)
		}
	}
}

// tracefs is mounted when it is not, and the log says so.
func TestMountTracefs(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		for unix.Unmount(p, unix.MNT_DETACH) == nil {
		}
	}
	var log strings.Builder
	k := &Kernel{log: textLog(&log)}
	for range 2 {
		if err := mountTracefs(k.log); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(log.String(), `level=INFO msg="mounted tracefs" path=/sys/kernel/tracing`); got != 1 {
		t.Errorf("the log says so %d times: %s", got, log.String())
	}
	if _, err := os.Stat("/sys/kernel/tracing/events/sched/sched_process_exec/id"); err != nil {
		t.Error(err)
	}
}
