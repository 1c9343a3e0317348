package chain

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"

	"l3af/internal/testenv"
)

// A probe runs as it is, under our name, with its own maps.
func TestSingle(t *testing.T) {
	testenv.Clean(t)
	for _, bare := range []bool{false, true} {
		spec := object(t, "other")
		set(t, spec, "limit", uint32(5))
		if bare {
			withoutBTF(spec)
		}
		c, err := Single("raw_tracepoint/sys_enter", Member{Name: "calls", Spec: spec, Entry: "enter"})
		if err != nil {
			t.Fatal(err)
		}
		if c.Kind != "" || c.Attach != "raw_tracepoint/sys_enter" || len(c.Maps) != 2 || len(c.Programs) != 1 {
			t.Fatalf("got %+v", c)
		}
		l := load(t, c)
		info, err := l.Info()
		if err != nil || info.Name != "l3af_"+c.ID+"__calls" {
			t.Fatalf("name %v, %v", info, err)
		}
		at, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_enter", Program: l.Program})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := l.Info(); err != nil {
				t.Fatal(err)
			}
		}
		at.Close()
		var n uint64
		if err := l.maps["calls/runs"].Lookup(uint32(0), &n); err != nil || n < 5 {
			t.Errorf("ran %d times, %v", n, err)
		}
		c, err = Single("tracepoint/sched/sched_process_exec", Member{Name: "execs", Spec: spec, Entry: "exec"})
		if err != nil {
			t.Fatal(err)
		}
		load(t, c)
	}
}

func TestSingleRefused(t *testing.T) {
	m := Member{Name: "calls", Spec: object(t, "other"), Entry: "enter"}
	for attach, want := range map[string]string{
		"":                         "unknown attach point",
		"xdp":                      "unknown attach point",
		"tracepoint/sched":         "unknown attach point",
		"tracepoint/sched/":        "unknown attach point",
		"tracepoint/a/b/c":         "unknown attach point",
		"raw_tracepoint/a/b":       "unknown attach point",
		"raw_tracepoint/":          "unknown attach point",
		"tracepoint/syscalls/open": "enter is a RawTracepoint program, tracepoint/syscalls/open runs TracePoint",
	} {
		if _, err := Single(attach, m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", attach, err, want)
		}
	}
	m.Entry = "gone"
	if _, err := Single("raw_tracepoint/sys_enter", m); err == nil || !strings.Contains(err.Error(), `no program "gone"`) {
		t.Errorf("got %v", err)
	}
}
