package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"l3af/internal/inspect"
	"l3af/internal/loader"
)

// keyword matches the words of a usage line that are written as they stand.
var keyword = regexp.MustCompile(`\b[a-z][a-z0-9_]*\b`)

// complete offers to a shell what may follow the words of a verb's line: behind
// id, name and tag what there is, behind dev interfaces, else the verb's words.
func complete(o object, v verb) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		last, before := "", ""
		if n := len(args); n > 0 {
			last = args[n-1]
			if n > 1 {
				before = args[n-2]
			}
		}
		switch last {
		case "id", "name", "tag":
			return objectsBy(inspect.By(last), kindOf(o, v, args, before)), cobra.ShellCompDirectiveNoFileComp
		case "dev", "xdpmeta_dev", "offload_dev":
			return interfaces(), cobra.ShellCompDirectiveNoFileComp
		case "type":
			switch o.name {
			case "map":
				return inspect.MapTypes(), cobra.ShellCompDirectiveNoFileComp
			case "prog":
				return loader.Types(), cobra.ShellCompDirectiveNoFileComp
			}
		case "pinned", "file", "pinmaps", "kernel_btf", "data_in", "data_out", "ctx_in", "ctx_out":
			return nil, cobra.ShellCompDirectiveDefault
		case "":
			if strings.HasPrefix(v.args, "TYPE") {
				return inspect.NetTypes(), cobra.ShellCompDirectiveNoFileComp
			}
		}
		words := keyword.FindAllString(v.args, -1)
		for of, s := range map[string]selection{"PROG": progSelection, " MAP": mapSelection, "LINK": linkSelection, "OPS_MAP": structOpsSelection} {
			if !strings.Contains(" "+strings.NewReplacer("[", " ", "{", " ").Replace(v.args), of) {
				continue
			}
			for _, b := range s.by {
				words = append(words, string(b))
			}
		}
		slices.Sort(words)
		words = slices.DeleteFunc(slices.Compact(words), func(w string) bool { return slices.Contains(args, w) })
		return words, cobra.ShellCompDirectiveDefault // files where there are none
	}
}

// kindOf is the kind of object that a selector of a line means.
func kindOf(o object, v verb, args []string, before string) string {
	switch {
	case before == "prog", before == "map", before == "link":
		return before // btf dump prog id, prog load … map id, cgroup attach … prog
	case strings.HasSuffix(v.args, "[MAP]") && slices.ContainsFunc(args[:len(args)-1], func(w string) bool { return w == "id" || w == "pinned" || w == "name" || w == "tag" }):
		return "map" // prog attach PROG ATTACH_TYPE MAP
	case o.name == "net", o.name == "cgroup":
		return "prog"
	case o.name == "struct_ops":
		return "map"
	}
	return o.name
}

// objectsBy lists what a selector of a kind of object can say, with what helps to
// tell one from another. What cannot be read is left out.
func objectsBy(by inspect.By, kind string) (list []cobra.Completion) {
	seen := map[string]bool{"": true}
	add := func(id uint32, name, tag, what string) {
		word := map[inspect.By]string{inspect.ID: fmt.Sprint(id), inspect.Name: name, inspect.Tag: tag}[by]
		if !seen[word] {
			seen[word] = true
			list = append(list, cobra.CompletionWithDesc(word, strings.TrimSpace(what)))
		}
	}
	switch kind {
	case "prog":
		all, _ := inspect.Programs(inspect.Selector{}, inspect.Options{})
		for _, p := range all {
			add(p.ID, p.Name, p.Tag, fmt.Sprint(p.Type, " ", p.Name))
		}
	case "map":
		all, _ := inspect.Maps(inspect.Selector{}, inspect.Options{})
		for _, m := range all {
			add(m.ID, m.Name, "", fmt.Sprint(m.Type, " ", m.Name))
		}
	case "link":
		all, _ := inspect.Links(inspect.Selector{}, inspect.Options{})
		for _, l := range all {
			add(l.ID, "", "", fmt.Sprint(l.Type, " prog ", l.ProgID))
		}
	case "btf":
		all, _ := inspect.BTFs(inspect.Selector{}, inspect.Options{})
		for _, b := range all {
			add(b.ID, "", "", b.Name)
		}
	}
	return list
}

func interfaces() []cobra.Completion {
	all, _ := net.Interfaces()
	names := make([]cobra.Completion, len(all))
	for i, n := range all {
		names[i] = n.Name
	}
	return names
}

// completeHook offers the hooks that have chains, as the daemon says.
func (a *app) completeHook(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), daemonPatience)
	defer cancel()
	st, err := a.client().Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []cobra.Completion
	for _, c := range st.Chains {
		place := c.Interface
		if c.Netns != "" {
			place = c.Netns + ":" + place
		}
		list = append(list, cobra.CompletionWithDesc(place+"/"+string(c.Hook), c.State))
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
