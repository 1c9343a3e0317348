package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"l3af"
)

func newChain(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chain",
		Short: "Look into the chains: what they do with packets, cost, and are made of",
		Long: `Chain looks into the chains of the node. A HOOK is written IFACE/HOOK, as in
eth0/xdp or eth0/tc-ingress, and NETNS:IFACE/HOOK in a network namespace.`,
		Example: `  l3af chain show
  l3af chain run eth0/xdp --pcap in.pcap
  l3af chain explain eth0/xdp`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return &usageError{fmt.Sprintf("unknown command %q", "chain "+args[0]), "there is chain show, run, explain and dump"}
		},
	}
	cmd.AddCommand(newChainShow(a), newChainRun(a), newChainExplain(a), newChainDump(a))
	for _, c := range cmd.Commands() {
		c.ValidArgsFunction = a.completeHook
	}
	return cmd
}

// hookArg reads a hook as people write it: eth0/xdp, blue:eth0/xdp; and as
// tables print it: xdp/blue:eth0.
func hookArg(s string) (l3af.Hook, error) {
	place, kind, err := placeArg(s)
	if err != nil {
		return l3af.Hook{}, err
	}
	if kind == "" {
		return l3af.Hook{}, &usageError{fmt.Sprintf("%s names no hook", s), fmt.Sprintf("write %s/xdp, %[1]s/tc-ingress or %[1]s/tc-egress", s)}
	}
	h := l3af.Hook{Interface: place, Kind: kind}
	if i := strings.LastIndexByte(place, ':'); i >= 0 {
		h.Netns, h.Interface = place[:i], place[i+1:]
	}
	if h.Interface == "" {
		return h, &usageError{fmt.Sprintf("%s names no interface", s), "write a hook like eth0/xdp"}
	}
	return h, nil
}

// placeArg reads an interface, with its namespace, and the hook if there is one.
func placeArg(s string) (place string, kind l3af.HookKind, err error) {
	if k, rest, ok := strings.Cut(s, "/"); ok && slices.Contains(l3af.HookKinds(), l3af.HookKind(k)) {
		return rest, l3af.HookKind(k), nil
	}
	i := strings.LastIndexByte(s, '/')
	if i < 0 || strings.HasPrefix(s, "/") && strings.Contains(s[i:], ":") {
		return s, "", nil // of a namespace like /run/netns/blue
	}
	kind = l3af.HookKind(s[i+1:])
	if !slices.Contains(l3af.HookKinds(), kind) {
		return "", "", &usageError{fmt.Sprintf("unknown hook %q", s[i+1:]), "the hooks are xdp, tc-ingress and tc-egress"}
	}
	return s[:i], kind, nil
}

// oneHook is for commands that take a hook and flags.
func oneHook(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return &usageError{"no hook", "name one like eth0/xdp"}
	case len(args) > 1:
		return &usageError{what: fmt.Sprintf("unexpected argument %q", args[1])}
	}
	return nil
}

// notRunning says that a hook runs another chain than the one shown.
func notRunning(id, running string) string {
	switch running {
	case id:
		return ""
	case "":
		return "the hook does not run it now"
	}
	return "the hook runs " + running + " now"
}
