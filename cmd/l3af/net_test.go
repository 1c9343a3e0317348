package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l3af/internal/inspect"
	"l3af/internal/testenv"
	"l3af/internal/testenv/zoo"
)

// tool runs a witness, or one that prepares something.
func tool(t testing.TB, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, args[0]), args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// netZoo attaches the zoo, and to the same interface a filter at each side of
// clsact and one of a classful qdisc.
func netZoo(t *testing.T) *zoo.Zoo {
	z := zoo.Open(t)
	z.Attach(t)
	pin := filepath.Join(testenv.Bpffs(t), "zoo_tc")
	if err := z.Programs["zoo_tc"].Pin(pin); err != nil {
		t.Fatal(err)
	}
	tool(t, "tc", "qdisc", "add", "dev", zoo.Interface, "clsact")
	tool(t, "tc", "filter", "add", "dev", zoo.Interface, "ingress", "prio", "7", "handle", "3", "protocol", "ip", "chain", "2", "bpf", "da", "object-pinned", pin)
	tool(t, "tc", "filter", "add", "dev", zoo.Interface, "egress", "bpf", "object-pinned", pin)
	return z
}

// What bpftool 7.1 shows of the network, we show, the same. It has no TCX and
// netfilter, and its JSON of the flow dissector is none.
func TestNetShowIsBpftools(t *testing.T) {
	testenv.Clean(t)
	z := netZoo(t)
	if err := z.Links["zoo_dissector"].Close(); err != nil {
		t.Fatal(err)
	}
	theirs := document(t, "bpftool", bpftoolSays(t, "-j", "net", "show")).([]any)
	ours := document(t, "l3af", l3afSays(t, "-j", "net", "show")).([]any)
	tc, _ := ours[0].(map[string]any)["tc"].([]any)
	if len(theirs[0].(map[string]any)["tc"].([]any)) != 2 || len(tc) != 3 {
		t.Fatalf("bpftool: %v\nl3af: %v", theirs, ours)
	}
	ours[0].(map[string]any)["tc"] = tc[1:] // the first is TCX
	extra := []string{"netfilter", "sk_lookup", "netns", "name", "link_id", "prio", "protocol", "handle", "direct_action", "tc_chain"}
	if d := added("", theirs, ours, extra); d != "" {
		t.Errorf("%s\nbpftool: %v\nl3af: %v", d, theirs, ours)
	}
	text := string(l3afSays(t, "net", "show", "--netns", "."))
	for line := range strings.Lines(string(bpftoolSays(t, "net", "show"))) {
		if !strings.Contains(text, line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

// What bpftool 7.1 does not know is what was attached, ip and tc say.
func TestNetShow(t *testing.T) {
	testenv.Clean(t)
	z := netZoo(t)
	id := func(program string) string { return fmt.Sprint(programID(t, z.Programs[program])) }
	linkID := func(name string) string {
		info, err := z.Links[name].Info()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(info.ID)
	}
	index := fmt.Sprint(testenv.Interface(t, "", zoo.Interface).Index)
	n := document(t, "l3af", l3afSays(t, "-j", "net", "show")).([]any)[0].(map[string]any)
	at := func(list, key, value string) string {
		found := only(n[list], key, value)
		if len(found) != 1 {
			t.Fatalf("%s with %s %s: %v of %v", list, key, value, found, n[list])
		}
		return fmt.Sprint(found[0])
	}
	for want, got := range map[string]string{
		fmt.Sprintf("map[devname:zoo0 id:%s ifindex:%s link_id:%s mode:driver name:%s]", id(zoo.LongName), index, linkID(zoo.LongName), zoo.LongName): at("xdp", "devname", "zoo0"),

		fmt.Sprintf("map[devname:zoo0 ifindex:%s kind:tcx/ingress link_flags:[] link_id:%s name:zoo_tc prog_flags:[] prog_id:%s]", index, linkID("zoo_tc"), id("zoo_tc")):         at("tc", "kind", "tcx/ingress"),
		fmt.Sprintf("map[devname:zoo0 direct_action:true handle:3 id:%s ifindex:%s kind:clsact/ingress name:zoo_tc:[*fsobj] prio:7 protocol:ip tc_chain:2]", id("zoo_tc"), index): at("tc", "kind", "clsact/ingress"),
		fmt.Sprintf("map[direct_action:false handle:1 id:%s kind:clsact/egress name:zoo_tc:[*fsobj] prio:49152 protocol:all tc_chain:0]", id("zoo_tc")):                           strings.NewReplacer("devname:zoo0 ", "", "ifindex:"+index+" ", "").Replace(at("tc", "kind", "clsact/egress")),
		fmt.Sprintf("[map[id:%s link_id:%s name:zoo_dissector]]", id("zoo_dissector"), linkID("zoo_dissector")):                                                                   fmt.Sprint(n["flow_dissector"]),
		fmt.Sprintf("[map[id:%s link_id:%s name:zoo_sk_lookup]]", id("zoo_sk_lookup"), linkID("zoo_sk_lookup")):                                                                   fmt.Sprint(n["sk_lookup"]),
		fmt.Sprintf("[map[flags:0 hook:1 id:%s link_id:%s name:zoo_netfilter pf:2 prio:-50]]", id("zoo_netfilter"), linkID("zoo_netfilter")):                                      fmt.Sprint(only(n["netfilter"], "name", "zoo_netfilter")),
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	ip := document(t, "ip", tool(t, "ip", "-j", "link", "show", zoo.Interface)).([]any)[0].(map[string]any)["xdp"].(map[string]any)
	if got := fmt.Sprintf("%v %v", ip["mode"], ip["prog"].(map[string]any)["id"]); got != "1 "+id(zoo.LongName) {
		t.Errorf("ip says %s", got)
	}
	for _, side := range []string{"ingress", "egress"} {
		found := false
		for _, f := range document(t, "tc", tool(t, "tc", "-j", "filter", "show", "dev", zoo.Interface, side)).([]any) {
			f := f.(map[string]any)
			o, ok := f["options"].(map[string]any)
			if !ok || o["prog"] == nil {
				continue
			}
			found = true
			ours := only(n["tc"], "kind", "clsact/"+side)[0].(map[string]any)
			theirs := fmt.Sprint(f["pref"], f["protocol"], f["chain"], o["direct-action"] == true, o["prog"].(map[string]any)["id"])
			if got := fmt.Sprint(ours["prio"], ours["protocol"], ours["tc_chain"], ours["direct_action"], ours["id"]); got != theirs {
				t.Errorf("%s: %s, tc says %s", side, got, theirs)
			}
		}
		if !found {
			t.Errorf("tc shows no filter at %s", side)
		}
	}
}

// Filters of a block that several qdiscs share are at each of them, as tc and
// bpftool say, with the number of the block.
func TestNetShowBlocks(t *testing.T) {
	testenv.Clean(t)
	z := zoo.Open(t)
	testenv.Veth(t, testenv.End{Name: "v0"}, testenv.End{Name: "v1"})
	pin := filepath.Join(testenv.Bpffs(t), "zoo_tc")
	if err := z.Programs["zoo_tc"].Pin(pin); err != nil {
		t.Fatal(err)
	}
	tool(t, "tc", "qdisc", "add", "dev", "v0", "ingress_block", "22", "egress_block", "23", "clsact")
	tool(t, "tc", "qdisc", "add", "dev", "v1", "ingress_block", "22", "clsact")
	tool(t, "tc", "filter", "add", "dev", "v1", "egress", "bpf", "da", "object-pinned", pin)
	tool(t, "tc", "filter", "add", "block", "22", "bpf", "da", "object-pinned", pin)
	tool(t, "tc", "filter", "add", "block", "23", "bpf", "da", "object-pinned", pin)
	ours := document(t, "l3af", l3afSays(t, "-j", "net", "show", "--netns", ".")).([]any)
	var got []string
	for _, f := range ours[0].(map[string]any)["tc"].([]any) {
		f := f.(map[string]any)
		got = append(got, fmt.Sprint(f["devname"], " ", f["kind"], " ", f["block"]))
	}
	slices.Sort(got)
	if want := []string{"v0 clsact/egress 23", "v0 clsact/ingress 22", "v1 clsact/egress <nil>", "v1 clsact/ingress 22"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	theirs := document(t, "bpftool", bpftoolSays(t, "-j", "net", "show")).([]any)
	if d := added("", theirs, ours, []string{"netfilter", "prio", "protocol", "handle", "direct_action", "tc_chain", "block"}); d != "" {
		t.Errorf("%s\nbpftool: %v\nl3af: %v", d, theirs, ours)
	}
	if text := string(l3afSays(t, "net", "show", "dev", "v0")); !strings.Contains(text, "direct-action  block 22\n") {
		t.Errorf("text: %s", text)
	}
}

// Programs at netfilter are with the namespace they are in; links say it, too. As
// of bpftool, those of all are together.
func TestNetShowNetfilter(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "blue")
	z := zoo.Open(t)
	ids := map[string]string{} // of links, by namespace
	for _, ns := range []string{"", "blue"} {
		for _, attach := range []func() (link.Link, error){
			func() (link.Link, error) {
				return link.AttachNetfilter(link.NetfilterOptions{
					Program: z.Programs["zoo_netfilter"], ProtocolFamily: unix.NFPROTO_IPV4, Hook: link.NetfilterInetLocalIn, Priority: -50,
				})
			},
			func() (link.Link, error) {
				f, err := os.Open("/proc/thread-self/ns/net")
				if err != nil {
					return nil, err
				}
				defer f.Close()
				return link.AttachNetNs(int(f.Fd()), z.Programs["zoo_sk_lookup"])
			},
		} {
			var l link.Link
			var err error
			testenv.In(t, ns, func() { l, err = attach() })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			shown := document(t, "l3af", l3afSays(t, "-j", "link", "show", "id", fmt.Sprint(info.ID))).([]any)[0].(map[string]any)
			if got, _ := shown["netns"].(string); got != ns {
				t.Errorf("link %v is in %q, want %q", shown, got, ns)
			}
			if info.Type == link.NetfilterType {
				ids[ns] = fmt.Sprint(info.ID)
			}
		}
	}
	// at are the namespaces that have a link at netfilter.
	at := func(id string, n map[string]any) (names []string) {
		here := map[string]any{"": n}
		others, _ := n["netns"].([]any)
		for _, o := range others {
			o := o.(map[string]any)
			here[fmt.Sprint(o["name"])] = o
		}
		for name, o := range here {
			if len(only(o.(map[string]any)["netfilter"], "link_id", json.Number(id))) == 1 {
				names = append(names, name)
			}
		}
		return names
	}
	show := func(args ...string) map[string]any {
		return document(t, "l3af", l3afSays(t, append([]string{"-j", "net", "show"}, args...)...)).([]any)[0].(map[string]any)
	}
	all, blue, own, compat := show(), show("--netns", "blue"), show("--netns", "."), show("--bpftool-compat")
	for _, c := range []struct {
		what string
		n    map[string]any
		ns   string
		want []string
	}{
		{"all", all, "", []string{""}}, {"all", all, "blue", []string{"blue"}},
		{"blue", blue, "", nil}, {"blue", blue, "blue", []string{""}},
		{"own", own, "", []string{""}}, {"own", own, "blue", nil},
		{"compat", compat, "", []string{""}}, {"compat", compat, "blue", []string{""}},
	} {
		if got := at(ids[c.ns], c.n); !slices.Equal(got, c.want) {
			t.Errorf("%s: the link in %q is at %q, want %q", c.what, c.ns, got, c.want)
		}
	}

	// A namespace that nothing leads into any more still runs them.
	if err := netns.DeleteNamed("blue"); err != nil {
		t.Fatal(err)
	}
	lost := only(show()["netfilter"], "link_id", json.Number(ids["blue"]))
	if len(lost) != 1 || fmt.Sprint(lost[0].(map[string]any)["netns_ino"]) == "<nil>" {
		t.Errorf("the link of the namespace without a name: %v", lost)
	}
	l3afSays(t, "link", "detach", "id", ids[""])
	if got := at(ids[""], show()); got != nil {
		t.Errorf("a link that was detached is at %q", got)
	}
}

// Every namespace is looked at: those with names, and those that only processes
// are in. What is attached without a link is seen as well, and as many programs at
// a hook as there can be.
func TestNetShowEverywhere(t *testing.T) {
	testenv.Clean(t)
	testenv.Netns(t, "blue")
	testenv.Veth(t, testenv.End{Netns: "blue", Name: "b0"}, testenv.End{Name: "b1"})
	z := zoo.Open(t)
	index := testenv.Interface(t, "blue", "b0").Index
	const many = 63 // the kernel takes no more
	var links []link.Link
	defer func() { closeAll(links) }()
	testenv.In(t, "blue", func() {
		for range many {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: "next", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: index, Attach: ebpf.AttachTCXEgress})
			if err != nil {
				t.Fatal(err)
			}
			links = append(links, l)
		}
	})
	pin := filepath.Join(testenv.Bpffs(t), "pass")
	if err := z.Programs["zoo_pass"].Pin(pin); err != nil {
		t.Fatal(err)
	}
	tool(t, "ip", "link", "set", "dev", "lo", "xdpgeneric", "pinned", pin)
	defer tool(t, "ip", "link", "set", "dev", "lo", "xdpgeneric", "off")

	// A namespace without a name.
	alone := exec.Command("unshare", "-n", "sh", "-c", "ip link set dev lo xdpgeneric pinned "+pin+" && exec sleep 60")
	if err := alone.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = alone.Process.Kill()
		_ = alone.Wait()
	}()
	pass := fmt.Sprint(programID(t, z.Programs["zoo_pass"]))
	var n map[string]any
	named, unnamed := 0, 0
	for range 100 {
		n = document(t, "l3af", l3afSays(t, "-j", "net", "show")).([]any)[0].(map[string]any)
		named, unnamed = 0, 0
		for _, o := range n["netns"].([]any) {
			o := o.(map[string]any)
			if o["name"] == "blue" {
				named = len(only(o["tc"], "kind", "tcx/egress"))
			}
			for _, x := range only(o["xdp"], "mode", "generic") {
				if o["name"] == nil && fmt.Sprint(x.(map[string]any)["id"]) == pass && fmt.Sprint(o["pid"]) == fmt.Sprint(alone.Process.Pid) {
					unnamed++
				}
			}
		}
		if unnamed > 0 {
			break
		}
	}
	if named != many || unnamed != 1 {
		t.Errorf("%d at tcx/egress in blue, %d in the namespace without a name: %v", named, unnamed, n)
	}
	if x := only(n["xdp"], "devname", "lo"); len(x) != 1 || fmt.Sprint(x[0]) != fmt.Sprintf("map[devname:lo id:%s ifindex:1 mode:generic name:zoo_pass]", pass) {
		t.Errorf("here: %v", n["xdp"])
	}
	if text := string(l3afSays(t, "net", "show")); !strings.Contains(text, "\nnetns blue:\n\nxdp:\n\ntc:\nb0(") {
		t.Errorf("text: %s", text)
	}
	for _, args := range [][]string{{"--netns", "."}, {"--bpftool-compat"}, {"dev", "lo", "--netns", "."}} {
		n := document(t, "l3af", l3afSays(t, append([]string{"-j", "net", "show"}, args...)...)).([]any)[0].(map[string]any)
		if n["netns"] != nil || len(only(n["xdp"], "devname", "lo")) != 1 {
			t.Errorf("%v: %v", args, n)
		}
	}
	blue := document(t, "l3af", l3afSays(t, "-j", "net", "show", "--netns", "blue")).([]any)[0].(map[string]any)
	if blue["netns"] != nil || len(only(blue["tc"], "devname", "b0")) != many {
		t.Errorf("--netns blue: %v", blue)
	}
	dev := document(t, "l3af", l3afSays(t, "-j", "net", "show", "dev", "b0")).([]any)[0].(map[string]any)
	if len(dev["xdp"].([]any)) != 0 || len(dev["netns"].([]any)) != 1 {
		t.Errorf("dev b0: %v", dev)
	}
}

// An interface may have one program of the device's and one of the host.
func TestPrintNet(t *testing.T) {
	n := &inspect.Net{
		XDP: []inspect.XDPAt{{Devname: "eth0", Ifindex: 2, Multi: []inspect.XDPMode{{Mode: "driver", ID: 4}, {Mode: "offload", ID: 5, Name: "hw"}}}},
		TC: []inspect.TCAt{
			{Devname: "eth0", Ifindex: 2, Kind: "tcx/ingress", Name: "acl", TCXProgram: &inspect.TCXProgram{ProgID: 6, ProgFlags: []uint32{8}, LinkFlags: []uint32{}},
				Chain: &inspect.Chain{ID: "3f2a9c41d0", At: []string{"tc-ingress/eth0"}, Programs: []inspect.Member{{Name: "acl"}}}},
			{Devname: "eth0", Ifindex: 2, Kind: "clsact/egress", Name: "cls", TCFilter: &inspect.TCFilter{
				ID: 7, Act: []inspect.TCAction{{Name: "act", ID: 8}}, Prio: 1, Handle: 0x10, Protocol: "all", DirectAction: true, TCChain: 3}},
		},
		Netfilter: []inspect.NetfilterAt{{NetfilterLink: inspect.NetfilterLink{PF: 10, Hook: 4, Prio: 5, Flags: 1}, ID: 9, LinkID: 1}},
	}
	const want = `xdp:
eth0(2) driver id 4 offload id 5
	name hw

tc:
eth0(2) tcx/ingress acl prog_id 6 prog_flags 0x8
	chain 3f2a9c41d0  at tc-ingress/eth0  programs acl
eth0(2) clsact/egress cls id 7 act [act id 8]
	prio 1  handle 0x10  protocol all  tc_chain 3  direct-action

flow_dissector:

netfilter:
	ip6 postrouting prio 5 flags 0x1 prog_id 9
	link_id 1

`
	var b strings.Builder
	printNet(&b, n)
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
	j, err := json.Marshal(n.XDP)
	if want := `[{"devname":"eth0","ifindex":2,"multi_attachments":[{"mode":"driver","id":4},{"mode":"offload","id":5,"name":"hw"}]}]`; err != nil || string(j) != want {
		t.Errorf("%s, %v", j, err)
	}
}
