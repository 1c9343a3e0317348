package main

import (
	"fmt"
	"io"

	"l3af/internal/inspect"
)

var linkShowVerbs = []verb{{
	name: "show", aliases: []string{"list"}, args: "[LINK]",
	short: "Show links",
	long: `Show says of each link which program it holds, and where. LINK is ` + linkSelection.usage() + `.
A link whose interface is gone is "(detached)"; of one in another network namespace
that is told.`,
	example: `  l3af link show
  l3af link show pinned /sys/fs/bpf/xdp -j | jq '.[].prog_id'`,
	run: (*call).linkShow,
}}

func (c *call) linkShow() error {
	return show(c, linkSelection, inspect.Links, func(o *inspect.Link) *inspect.Chain { return o.Chain }, printLink)
}

// printLink prints a link as bpftool does, for scripts that read that.
func printLink(w io.Writer, l *inspect.Link) {
	fmt.Fprintf(w, "%d: %s  ", l.ID, typeText(l.Type))
	if s, ok := l.Of.(*inspect.StructOpsLink); ok {
		fmt.Fprintf(w, "map %d  ", s.MapID)
	} else {
		fmt.Fprintf(w, "prog %d  ", l.ProgID)
	}
	printLinkOf(w, l.Of)
	if l.Netns != "" {
		fmt.Fprint(w, "\n\tnetns "+word(l.Netns))
	}
	printPins(w, l.Pinned)
	if l.BPFCookie != nil {
		fmt.Fprintf(w, "\n\tbpf_cookie %d", *l.BPFCookie)
	}
	printPids(w, l.Pids)
	printChainOf(w, l.Chain)
	fmt.Fprintln(w)
}

func printLinkOf(w io.Writer, of any) {
	attach := func(t inspect.TypeName) {
		fmt.Fprintf(w, "attach_type %s  ", t)
	}
	switch l := of.(type) {
	case *inspect.InterfaceLink:
		name := l.Devname
		if l.Ifindex > 0 && name != "(unknown)" {
			name = fmt.Sprintf("%s(%d)", name, l.Ifindex)
		}
		fmt.Fprintf(w, "\n\tifindex %s  ", name)
		if l.AttachType != "" {
			attach(l.AttachType)
		}
	case *inspect.CgroupLink:
		fmt.Fprintf(w, "\n\tcgroup_id %d  ", l.CgroupID)
		attach(l.AttachType)
	case *inspect.NetnsLink:
		fmt.Fprintf(w, "\n\tnetns_ino %d  ", l.NetnsIno)
		attach(l.AttachType)
	case *inspect.SockmapLink:
		fmt.Fprintf(w, "\n\tmap_id %d  ", l.MapID)
		attach(l.AttachType)
	case *inspect.NetfilterLink:
		fmt.Fprint(w, "\n\t"+netfilterText(l))
	case *inspect.TracingLink:
		fmt.Fprintf(w, "\n\tprog_type %s  ", l.ProgType)
		attach(l.AttachType)
		if l.TargetObjID > 0 || l.TargetBTFID > 0 {
			fmt.Fprintf(w, "\n\ttarget_obj_id %d  target_btf_id %d  ", l.TargetObjID, l.TargetBTFID)
		}
		if l.Cookie > 0 {
			fmt.Fprintf(w, "\n\tcookie %d  ", l.Cookie)
		}
	case *inspect.RawTracepointLink:
		fmt.Fprintf(w, "\n\ttp '%s'  ", l.TPName)
		printCookie(w, l.Cookie)
	case *inspect.IterLink:
		printIter(w, l)
	default:
		printPerfLink(w, of)
	}
}

func printCookie(w io.Writer, cookie uint64) {
	if cookie > 0 {
		fmt.Fprintf(w, "cookie %d  ", cookie)
	}
}

func printIter(w io.Writer, l *inspect.IterLink) {
	fmt.Fprintf(w, "target_name %s  ", l.TargetName)
	switch {
	case l.MapID != nil:
		fmt.Fprintf(w, "map_id %d  ", *l.MapID)
	case l.TID > 0:
		fmt.Fprintf(w, "tid %d ", l.TID)
	case l.PID > 0:
		fmt.Fprintf(w, "pid %d ", l.PID)
	case l.CgroupID != nil:
		fmt.Fprintf(w, "cgroup_id %d  order %s  ", *l.CgroupID, l.Order)
	}
}

// netfilterText names families and hooks as nft does.
func netfilterText(l *inspect.NetfilterLink) string {
	families := map[uint32]string{1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
	hooks := []string{"prerouting", "input", "forward", "output", "postrouting"}
	switch l.PF {
	case 3:
		hooks = []string{"input", "output"}
	case 1, 2, 7, 10:
	default:
		hooks = nil
	}
	text, ok := families[l.PF]
	if !ok {
		text = fmt.Sprintf("pf: %d", l.PF)
	}
	if int64(l.Hook) < int64(len(hooks)) {
		text += " " + hooks[l.Hook]
	} else {
		text += fmt.Sprintf(", hook %d,", l.Hook)
	}
	text += fmt.Sprintf(" prio %d", l.Prio)
	if l.Flags > 0 {
		text += fmt.Sprintf(" flags %#x", l.Flags)
	}
	return text
}

// printPerfLink prints what is at events that perf knows.
func printPerfLink(w io.Writer, of any) {
	ret := func(is bool) string {
		if is {
			return "ret"
		}
		return ""
	}
	switch l := of.(type) {
	case *inspect.TracepointLink:
		fmt.Fprintf(w, "\n\ttracepoint %s  ", l.Tracepoint)
		printCookie(w, l.Cookie)
	case *inspect.UprobeLink:
		fmt.Fprintf(w, "\n\tu%sprobe %s+%#x  ", ret(l.Retprobe), word(l.File), l.Offset)
		printCookie(w, l.Cookie)
		if l.RefCtrOffset > 0 {
			fmt.Fprintf(w, "ref_ctr_offset %#x  ", l.RefCtrOffset)
		}
	case *inspect.KprobeLink:
		fmt.Fprintf(w, "\n\tk%sprobe ", ret(l.Retprobe))
		if l.Addr > 0 {
			fmt.Fprintf(w, "%x ", l.Addr)
		}
		fmt.Fprint(w, l.Func)
		if l.Offset > 0 {
			fmt.Fprintf(w, "+%#x", l.Offset)
		}
		if l.Missed > 0 {
			fmt.Fprintf(w, "  missed %d", l.Missed)
		}
		fmt.Fprint(w, "  ")
		printCookie(w, l.Cookie)
	case *inspect.EventLink:
		fmt.Fprintf(w, "\n\tevent %s:%s  ", l.EventType, l.EventConfig)
		printCookie(w, l.Cookie)
	case *inspect.KprobeMultiLink:
		fmt.Fprintf(w, "\n\tk%sprobe.multi  func_cnt %d  ", ret(l.Retprobe), l.FuncCnt)
		if l.Missed > 0 {
			fmt.Fprintf(w, "missed %d  ", l.Missed)
		}
		fmt.Fprintf(w, "\n\t%-16s %-16s %s", "addr", "cookie", "func [module]")
		for _, f := range l.Funcs {
			fmt.Fprintf(w, "\n\t%016x %-16x %s", f.Addr, f.Cookie, f.Func)
			if f.Module != nil {
				fmt.Fprintf(w, " [%s]", *f.Module)
			}
			fmt.Fprint(w, "  ")
		}
	case *inspect.UprobeMultiLink:
		fmt.Fprintf(w, "\n\tu%sprobe.multi  path %s  func_cnt %d  ", ret(l.Retprobe), word(l.Path), l.FuncCnt)
		if l.PID > 0 {
			fmt.Fprintf(w, "pid %d  ", l.PID)
		}
		fmt.Fprintf(w, "\n\t%-16s   %-16s   %-16s", "offset", "ref_ctr_offset", "cookies")
		for _, f := range l.Funcs {
			fmt.Fprintf(w, "\n\t0x%-16x 0x%-16x 0x%-16x", f.Offset, f.RefCtrOffset, f.Cookie)
		}
	}
}
