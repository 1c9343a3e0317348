package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"l3af/internal/testenv"
)

func load(t testing.TB, name string, of ebpf.ProgramType, attach ebpf.AttachType) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: of, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// Programs of cgroups are attached, shown and detached as bpftool does it.
func TestCgroup(t *testing.T) {
	testenv.Clean(t)
	root := testenv.Cgroup(t)
	child := filepath.Join(root, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(child)
	egress, connect := load(t, "out", ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress), load(t, "conn", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect)
	pin := filepath.Join(testenv.Bpffs(t), "conn")
	if err := connect.Pin(pin); err != nil {
		t.Fatal(err)
	}
	info, err := egress.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()

	var out, errs bytes.Buffer
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{fmt.Sprintf("cgroup attach %s egress id %d multi", root, id), exitDone, ""},
		{fmt.Sprintf("cgroup attach %s cgroup_inet4_connect pinned %s override", child, pin), exitDone, ""},
		{fmt.Sprintf("cgroup attach %s egress id %d", root, id), exitFailed, "give multi to all"},
		{fmt.Sprintf("cgroup attach %s xdp id %d", root, id), exitUsage, "unknown attach type"},
		{fmt.Sprintf("cgroup attach %s egress id %d always", root, id), exitUsage, "multi and override"},
		{fmt.Sprintf("cgroup attach %s egress id 4000000000", root), exitFailed, "there is none"},
		{"cgroup attach /proc egress id " + fmt.Sprint(id), exitFailed, "attach to cgroup /proc"},
		{"cgroup show /proc", exitFailed, "no cgroup of version 2"},
		{"cgroup show " + root + "/none", exitFailed, "no such file"},
		{"cgroup show", exitUsage, "no cgroup"},
	} {
		out.Reset()
		errs.Reset()
		if code := run(strings.Fields(c.line), nil, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%s: exit code %d, %s", c.line, code, errs.String())
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: ebpf.AttachCGroupInetEgress, Program: load(t, "linked", ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	for _, line := range []string{
		"cgroup show " + root, "cgroup list " + child, "cgroup show " + child + " effective",
		"cgroup tree " + root, "cgroup tree " + root + " effective",
	} {
		args := append(strings.Fields(line), "-j")
		if got, want := l3afJSON(t, args...), bpftoolJSON(t, args...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, bpftool has %v", line, got, want)
		}
		out.Reset()
		want, err := exec.Command("bpftool", strings.Fields(line)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if code := run(strings.Fields(line), nil, &out, &errs); code != exitDone || out.String() != string(want) {
			t.Errorf("%s: got\n%s, bpftool has\n%s", line, out.String(), want)
		}
	}
	// bpftool says nothing at all where there is nothing.
	for _, line := range []string{
		fmt.Sprintf("cgroup detach %s connect4 pinned %s", child, pin),
		fmt.Sprintf("cgroup detach %s egress id %d", root, id),
	} {
		if code := run(strings.Fields(line), nil, &out, &errs); code != exitDone {
			t.Errorf("%s: exit code %d, %s", line, code, errs.String())
		}
	}
	if got := l3afJSON(t, "cgroup", "show", child, "-j"); !reflect.DeepEqual(got, []any{}) {
		t.Errorf("an empty cgroup: %v", got)
	}
	errs.Reset()
	if code := run(strings.Fields(fmt.Sprintf("cgroup detach %s egress id %d", root, id)), nil, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "not attached there") {
		t.Errorf("detached twice: exit code %d, %s", code, errs.String())
	}
}

// What processes hold open is found as bpftool finds it.
func TestPerf(t *testing.T) {
	testenv.Clean(t)
	raw, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_enter", Program: load(t, "raw", ebpf.RawTracepoint, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []uint64{0x1000, 0x2000} {
		attach := exe.Uprobe
		if offset == 0x2000 {
			attach = exe.Uretprobe
		}
		u, err := attach("", load(t, "user", ebpf.Kprobe, 0), &link.UprobeOptions{Address: offset})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
	}
	pid := json.Number(fmt.Sprint(os.Getpid()))
	got := only(without(l3afJSON(t, "perf", "show", "-j"), "comm"), "pid", pid)
	want := only(bpftoolJSON(t, "perf", "show", "-j"), "pid", pid)
	if len(want) < 3 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, bpftool has %v", got, want)
	}
	lines := func(text []byte) string {
		own := slices.DeleteFunc(slices.Collect(strings.Lines(string(text))), func(l string) bool {
			return !strings.HasPrefix(l, fmt.Sprintf("pid %s ", pid))
		})
		return strings.Join(own, "")
	}
	theirs, err := exec.Command(testenv.Tool(t, "bpftool"), "perf", "show").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if run([]string{"perf"}, nil, &out, os.Stderr); lines(out.Bytes()) != lines(theirs) {
		t.Errorf("got\n%s\nbpftool has\n%s", lines(out.Bytes()), lines(theirs))
	}
}
