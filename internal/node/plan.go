package node

import (
	"path"
	"slices"
	"time"

	"l3af"
	"l3af/internal/host"
)

// The verbs of steps.
const (
	verbAttach  = "attach"
	verbReplace = "replace"
	verbWrite   = "write"
	verbDetach  = "detach"
)

// want is what the document wants at one target.
type want struct {
	made   *made
	target host.Target // of a chain that waits, Interface may be a glob
	// present: the interface is there. Probes always are.
	present bool
	// unread: why nothing is known of the interface's network namespace.
	unread error
}

// step is one change of what is attached.
type step struct {
	verb   string
	target host.Target
	from   string // chain ID
	want   *want  // attach and replace
	// remove: nothing of the target is wanted any more; its pins and counts
	// go with its link. Otherwise only its link goes: that of a chain that is
	// disabled, or one in the wrong place (from is ""), if there is one, of
	// which nobody is told.
	remove bool
}

// plan gives the steps from what the kernel has to what is wanted. What comes
// is attached before what goes is detached: an interface that was renamed
// hands its link on.
//
// forget tells which targets that only a glob wants and that are gone have
// been gone so long that nothing of them is kept.
func plan(wants []want, have []host.Attached, forget func(host.Target) bool) []step {
	var steps []step
	has := make(map[host.Target]host.Attached, len(have))
	for _, h := range have {
		has[h.Target] = h
	}
	wanted := make(map[host.Target]*want, len(wants))
	for i := range wants {
		w := &wants[i]
		wanted[w.target] = w
		if !w.present || w.made.err != nil || w.made.off() {
			continue
		}
		switch h := has[w.target]; {
		case h.Err != nil:
			// Left as it is.
		case h.ID == "":
			steps = append(steps, step{verb: verbAttach, target: w.target, want: w})
		case h.ID != w.made.id, otherMode(w.made.mode(), h.Mode):
			steps = append(steps, step{verb: verbReplace, target: w.target, from: h.ID, want: w})
		}
	}
	for _, h := range have {
		if w := wanted[h.Target]; w != nil && (w.present || w.unread != nil) {
			if w.made.off() && w.unread == nil && h.Err == nil {
				steps = append(steps, step{verb: verbDetach, target: h.Target, from: h.ID})
			}
			continue // attached above, or left as it is where nothing is known
		}
		switch how := claim(wants, h.Target); {
		case how == claimedUnread, how != "" && h.Err != nil:
			// Left as it is.
		case how == "", how == claimedByGlob && h.ID == "" && forget(h.Target):
			steps = append(steps, step{verb: verbDetach, target: h.Target, from: h.ID, remove: true})
		case h.ID == "":
			// Its interface is gone or has another name now: if there is a
			// link, it has no business where it is. Maps and counts wait.
			steps = append(steps, step{verb: verbDetach, target: h.Target})
		}
	}
	return steps
}

// otherMode reports whether XDP must change its mode, which lets packets pass
// unseen for a moment. Auto takes what it became.
func otherMode(want, have l3af.Mode) bool {
	if want == "" || want == l3af.Auto {
		return have == l3af.Offload
	}
	return want != have
}

// How a target that is not there is named by the document.
const (
	claimedByName = "name"
	claimedByGlob = "glob"
	claimedUnread = "unread"
)

// claim tells how the document names a target, "" if it does not. The
// interface of a hook need not be there.
func claim(wants []want, t host.Target) string {
	how := ""
	for _, w := range wants {
		if t.Probe != "" {
			if w.target == t {
				return claimedByName
			}
			continue
		}
		c := w.made.chain
		if c == nil || c.Hook != t.Hook.Kind || c.Netns != t.Hook.Netns || !matches(c.Interface, t.Hook.Interface) {
			continue
		}
		switch {
		case w.unread != nil:
			return claimedUnread
		case !l3af.IsGlob(c.Interface):
			return claimedByName
		}
		how = claimedByGlob
	}
	return how
}

// expand gives what the document wants at which targets, in its order. An
// exact name wins over globs, and of two globs the first.
func expand(all []*made, interfaces func(netns string) ([]host.Interface, error)) []want {
	type place struct {
		netns string
		kind  l3af.HookKind
		name  string
	}
	taken := map[place]bool{}
	for _, m := range all {
		if c := m.chain; c != nil && !l3af.IsGlob(c.Interface) {
			taken[place{c.Netns, c.Hook, c.Interface}] = true
		}
	}
	var wants []want
	for _, m := range all {
		c := m.chain
		if c == nil {
			wants = append(wants, want{made: m, target: host.Target{Probe: m.probe.Name}, present: true})
			continue
		}
		w := want{made: m, target: host.Target{Hook: l3af.Hook{Netns: c.Netns, Interface: c.Interface, Kind: c.Hook}}}
		there, err := interfaces(c.Netns)
		if err != nil {
			w.unread = err
			wants = append(wants, w)
			continue
		}
		if !l3af.IsGlob(c.Interface) {
			w.present = slices.ContainsFunc(there, func(i host.Interface) bool { return i.Name == c.Interface })
			wants = append(wants, w)
			continue
		}
		found := false
		for _, i := range there {
			p := place{c.Netns, c.Hook, i.Name}
			if taken[p] || !matches(c.Interface, i.Name) {
				continue
			}
			taken[p], found = true, true
			w.target.Hook.Interface, w.present = i.Name, true
			wants = append(wants, w)
		}
		if !found {
			wants = append(wants, w)
		}
	}
	return wants
}

func matches(pattern, name string) bool {
	if !l3af.IsGlob(pattern) {
		return pattern == name
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// keepGone is how long maps and counts of a hook that only a glob names
// outlive its interface. A hook named by itself keeps them until it leaves
// the document.
const keepGone = 10 * time.Minute
