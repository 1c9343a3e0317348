package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/inspect"
	"l3af/internal/kernel"
)

// pins looks for what is left of chains and probes that nobody wants, and for
// links that hold nothing any more.
func (e *examination) pins(context.Context) {
	links, err := inspect.Links(inspect.Selector{}, inspect.Options{Pins: true, Holders: new(inspect.Holders)})
	if err != nil {
		e.say(Warning, "run l3af doctor as root", "links and pins were not looked at: %v", err)
		return
	}
	for _, l := range links {
		at, ok := l.Of.(*inspect.InterfaceLink)
		if !ok || at.Ifindex != 0 {
			continue
		}
		if target, ours := e.pinned(l.Pinned); ours {
			e.say(Note, "l3afd attaches the chain anew when the interface is there", "the link of %s (%d) holds nothing any more: its interface went, or somebody detached it", target, l.ID)
			continue
		}
		where, fix := "held by "+holders(l.Pids), "it goes when they close it"
		if len(l.Pinned) > 0 {
			where, fix = "pinned at "+strings.Join(l.Pinned, ", "), "rm "+strings.Join(l.Pinned, " ")
		}
		e.say(Note, fix, "link %d (%s) holds nothing any more, since its interface went or somebody detached it, and is %s", l.ID, l.Type, where)
	}
	if e.status == nil {
		return // nobody says what is wanted
	}
	wanted := map[string]bool{}
	for _, c := range e.status.Chains {
		wanted[l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}.String()] = true
	}
	for _, p := range e.status.Probes {
		wanted["probe/"+p.Name] = true
	}
	for _, target := range e.targets() {
		// What a glob wanted outlives its interface for a while.
		if !wanted[target] && !slices.ContainsFunc(e.status.Chains, func(c l3af.ChainStatus) bool { return l3af.IsGlob(c.Interface) }) {
			e.say(Warning, "l3afd removes them within 30 s; its log says if it cannot", "pins of %s are left below %s, and the state does not have it", target, e.Bpffs)
		}
	}
}

// holders names processes.
func holders(list []inspect.Holder) string {
	names := make([]string, len(list))
	for i, h := range list {
		names[i] = fmt.Sprintf("%s (%d)", strings.ReplaceAll(h.Comm, "\n", " "), h.PID)
	}
	if len(names) == 0 {
		return "a process that is not seen from here"
	}
	return strings.Join(names, ", ")
}

// pinned tells whose link it is that is pinned at these places.
func (e *examination) pinned(paths []string) (target string, ours bool) {
	for _, p := range paths {
		rel, err := filepath.Rel(e.Bpffs, p)
		if place, ok := kernel.PlaceOf(rel); err == nil && ok && place.Instance == "" {
			return place.Target.String(), true
		}
	}
	return "", false
}

// targets lists what has links or maps of ours pinned.
func (e *examination) targets() []string {
	var list []string
	_ = filepath.WalkDir(e.Bpffs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if target, ours := e.pinned([]string{path}); ours && !slices.Contains(list, target) {
			list = append(list, target)
		}
		return nil
	})
	return list
}
