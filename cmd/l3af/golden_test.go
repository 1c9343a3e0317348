package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"l3af/internal/inspect"
	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

var updateGolden = flag.Bool("l3af.update", false, "write testdata/golden as the tests find it")

// golden compares a text with testdata/golden/NAME.txt.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name+".txt")
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// varies is what differs from run to run and from kernel to kernel, and what
// stands for it.
var varies = []struct {
	this *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`(?m)^\d+: `), "ID: "},
	{regexp.MustCompile(`\b((?:prog|map|link|btf|inner_map|target_obj|target_btf|cgroup)_id|prog|map|id|netns_ino|pid|fd) \d+`), "$1 ID"},
	{regexp.MustCompile(`\b(prog_ids|map_ids) [0-9,]+`), "$1 IDS"},
	{regexp.MustCompile(`tag [0-9a-f]{16}`), "tag TAG"},
	{regexp.MustCompile(`loaded_at \S+`), "loaded_at TIME"},
	{regexp.MustCompile(`(xlated|jited|memlock|size) \d+B`), "$1 SIZE"},
	{regexp.MustCompile(`\b(zoo[01])\(\d+\)`), "$1(INDEX)"},
	{regexp.MustCompile(`/\S*/true\b`), "/DIR/true"},
	{regexp.MustCompile(`/\S*/(zoo_\w+)\b`), "/DIR/$1"},
	{regexp.MustCompile(`(?m)^\d+ +(cgroup_)`), "ID $1"},
	{regexp.MustCompile(`(?m)^( +)\d+ +(cgroup_)`), "${1}ID $2"},
	{regexp.MustCompile(`(?m)^/\S+$`), "/CGROUP"},
}

// steady is a text without what varies.
func steady(text string) string {
	for _, v := range varies {
		text = v.this.ReplaceAllString(text, v.by)
	}
	return text
}

// The text of what is in the zoo. Programs, maps and links that bpftool 7.1 knows
// are compared with its text besides.
func TestGoldenZoo(t *testing.T) {
	testenv.Clean(t)
	t.Setenv("TZ", "UTC")
	z := netZoo(t)
	// one prints a verb's text of each object.
	one := func(verb string, objects map[string]uint32) string {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			fmt.Fprintf(&b, "# %s\n%s", name, l3afSays(t, append(strings.Fields(verb), "id", fmt.Sprint(objects[name]))...))
		}
		return steady(b.String())
	}
	progs, links, all := map[string]uint32{}, map[string]uint32{}, map[string]uint32{}
	for name, p := range z.Programs {
		progs[name] = uint32(programID(t, p))
	}
	for name, l := range z.Links {
		info, err := l.Info()
		if err != nil {
			t.Fatal(err)
		}
		links[name] = uint32(info.ID)
	}
	for name, m := range z.Maps {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		all[name] = uint32(id)
	}
	golden(t, "prog_show", one("prog show", progs))
	golden(t, "map_show", one("map show", all))
	golden(t, "link_show", one("link show", links))
	golden(t, "net_show", steady(string(l3afSays(t, "net", "show", "dev", zoo.Interface, "--netns", "."))))

	info, err := z.Programs["zoo_tc"].Info()
	if err != nil {
		t.Fatal(err)
	}
	types, _ := info.BTFID()
	golden(t, "btf_show", steady(string(l3afSays(t, "btf", "show", "id", fmt.Sprint(types)))))

	var own []string
	for line := range strings.Lines(string(l3afSays(t, "perf", "show"))) {
		if strings.HasPrefix(line, fmt.Sprintf("pid %d ", os.Getpid())) && strings.Contains(line, "/true") {
			own = append(own, steady(line))
		}
	}
	golden(t, "perf_show", strings.Join(own, ""))

	root := testenv.Cgroup(t)
	child := filepath.Join(root, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(child)
	l3afSays(t, "cgroup", "attach", root, "egress", "id", fmt.Sprint(progs["zoo_cgroup"]), "multi")
	l3afSays(t, "cgroup", "attach", child, "connect4", "id", fmt.Sprint(progs["zoo_connect"]))
	var b strings.Builder
	for _, line := range []string{"show " + root, "show " + child + " effective", "tree " + root} {
		verb, _, _ := strings.Cut(line, " ")
		fmt.Fprintf(&b, "# cgroup %s\n%s", verb, l3afSays(t, append([]string{"cgroup"}, strings.Fields(line)...)...))
	}
	golden(t, "cgroup", steady(b.String()))
}

// The text of what this machine may not have.
func TestGoldenRest(t *testing.T) {
	t.Setenv("TZ", "UTC")
	pointer := func(n uint64) *uint64 { return &n }
	at, uid, owner, jited, module := int64(1795409380), uint32(0), inspect.TypeName("xdp"), false, "nf_tables"
	mapID, cgroup := uint32(7), uint64(25)
	holders := []inspect.Holder{{PID: 1, Comm: "init"}, {PID: 412, Comm: "l3afd"}}
	chain := &inspect.Chain{
		ID: "3f2a9c41d0", At: []string{"xdp/eth0"}, Revision: 3,
		Programs: []inspect.Member{{Name: "acl", Package: "builtin:acl"}, {Name: "stats"}},
	}
	var b strings.Builder
	for _, p := range []inspect.Program{{
		ID: 429, Type: "xdp", Name: "l3af_3f2a9c41d0__acl__stats", Tag: "8e9a5e445d2e8c27", GPLCompatible: true,
		RunTimeNS: 7442, RunCount: 6, RecursionMisses: 1, Dev: &inspect.Device{Ifindex: 2, NSDev: 4, NSInode: 4026531840, Ifname: "eth0"},
		LoadedAt: &at, UID: &uid, BytesXlated: 1216, JITed: true, BytesJITed: 774, BytesMemlock: 4096, MapIDs: []uint32{147, 156}, BTFID: 409,
		Pinned: []string{"/sys/fs/bpf/a", "/sys/fs/bpf/b"}, Pids: holders, Chain: chain,
		Metadata: inspect.Metadata{{Name: "version", Text: `"1.2.3"`}, {Name: "rev", Text: "42"}},
	}, {
		ID: 430, Type: "99", Tag: "0000000000000000", Orphaned: true, BytesXlated: 16,
		Dev: &inspect.Device{Ifindex: 2, NSDev: 4, NSInode: 4026531840},
	}} {
		printProgram(&b, &p)
	}
	golden(t, "prog_show_rest", b.String())

	b.Reset()
	for _, m := range []inspect.Map{{
		ID: 149, Type: "prog_array", Name: "jmp", Flags: 0x80, BytesKey: 4, BytesValue: 4, MaxEntries: 4, BytesMemlock: pointer(344),
		OwnerProgType: &owner, OwnerJITed: &jited, Frozen: 1, BTFID: 409, Pinned: []string{"/sys/fs/bpf/jmp"}, Pids: holders,
		Chain: &inspect.Chain{ID: "3f2a9c41d0", At: []string{"xdp/eth0"}, Program: "acl", Map: "jmp"},
	}, {
		ID: 150, Type: "99", BytesKey: 4, BytesValue: 4, MaxEntries: 1, Dev: &inspect.Device{Ifindex: 2, Ifname: "eth0"},
		Chain: &inspect.Chain{Instance: "edge", Map: "deny"},
	}} {
		printMap(&b, &m)
	}
	golden(t, "map_show_rest", b.String())

	b.Reset()
	for i, of := range []any{
		&inspect.InterfaceLink{Devname: "(detached)"},
		&inspect.InterfaceLink{Devname: "(unknown)", Ifindex: 3, AttachType: "netkit_peer"},
		&inspect.SockmapLink{MapID: 7, AttachType: "sk_skb_verdict"},
		&inspect.StructOpsLink{MapID: 7},
		&inspect.NetfilterLink{PF: 3, Hook: 1, Prio: 5},
		&inspect.NetfilterLink{PF: 99, Hook: 9, Prio: -5, Flags: 1},
		&inspect.TracingLink{ProgType: "tracing", AttachType: "trace_fentry", TargetObjID: 1, TargetBTFID: 1234, Cookie: 5},
		&inspect.IterLink{TargetName: "bpf_map_elem", MapID: &mapID},
		&inspect.IterLink{TargetName: "task", TID: 11}, &inspect.IterLink{TargetName: "task_file", PID: 12},
		&inspect.IterLink{TargetName: "cgroup", CgroupID: &cgroup, Order: "descendants_pre"},
		&inspect.KprobeLink{Retprobe: true, Addr: 0xffffffff81000000, Func: "do_exit", Offset: 4, Missed: 2, Cookie: 5},
		&inspect.KprobeMultiLink{FuncCnt: 2, Missed: 1, Funcs: []inspect.KprobeOfAll{
			{Addr: 0xffffffff81000000, Func: "do_exit", Cookie: 1}, {Addr: 0xffffffffc0000000, Func: "nft_do_chain", Module: &module, Cookie: 255},
		}},
		&inspect.UprobeMultiLink{Retprobe: true, Path: "/bin/true", FuncCnt: 1, PID: 12, Funcs: []inspect.UprobeOfAll{{Offset: 16, RefCtrOffset: 32, Cookie: 255}}},
		nil, // of a type that is not known
	} {
		l := inspect.Link{LinkHead: inspect.LinkHead{ID: uint32(80 + i), Type: "xdp", ProgID: 431}, Of: of}
		if i == 0 {
			l.Pinned, l.BPFCookie, l.Pids, l.Netns, l.Chain = []string{"/sys/fs/bpf/l"}, pointer(77), holders, "blue", chain
		}
		if of == nil {
			l.Type = "99"
		}
		printLink(&b, &l)
	}
	golden(t, "link_show_rest", b.String())

	b.Reset()
	for _, o := range []inspect.BTF{
		{ID: 1, Size: 5000000, Kernel: true, Name: "vmlinux"}, {ID: 9, Size: 100, Name: "types"},
		{ID: 10, Size: 100, ProgIDs: []uint32{1, 2}, MapIDs: []uint32{3}, Pids: holders},
	} {
		printBTF(&b, &o)
	}
	golden(t, "btf_show_rest", b.String())

	b.Reset()
	printToken(&b, &inspect.Token{Info: "/run/bpf", Cmds: []string{"map_create", "prog_load"}, Maps: []string{"any"}})
	golden(t, "token_show", b.String())
}
