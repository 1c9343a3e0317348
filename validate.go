package l3af

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Validate tells every mistake in a state, as [ParseState] does, for states
// that are built in Go. The error is an [*InvalidError].
func (s *State) Validate() error {
	var m mistakes
	m.state(s)
	return m.err()
}

// IsGlob reports whether an interface of the document is a pattern for
// [path.Match] and not a name.
func IsGlob(iface string) bool { return strings.ContainsAny(iface, `*?[\`) }

// check adds a mistake unless the path has one already.
func (m *mistakes) check(bad bool, path, message, hint string) {
	if bad && !m.seen[path] {
		m.add(path, message, hint)
	}
}

// unknown reports a word that is none of those possible.
func (m *mistakes) unknown(path, what, got string, possible []string) {
	msg := fmt.Sprintf("unknown %s %s", what, quote(got))
	if n := near(got, possible); n != "" {
		m.check(true, path, fmt.Sprintf("%s, did you mean %q?", msg, n), "")
	} else {
		m.check(true, path, msg, "possible: "+strings.Join(possible, ", "))
	}
}

func (m *mistakes) state(s *State) {
	if s.APIVersion == "" {
		m.check(true, "apiVersion", "is required", "write apiVersion: "+APIVersion)
	} else if s.APIVersion != APIVersion {
		m.unknown("apiVersion", "apiVersion", s.APIVersion, []string{APIVersion})
	}
	instances := make(map[string]instanceUse)
	first := make(map[Hook]int)
	for i := range s.Chains {
		at, c := index("chains", i), &s.Chains[i]
		if m.seen[at] {
			continue
		}
		m.checkChain(at, c, instances)
		h := Hook{Netns: netnsName(c.Netns), Interface: c.Interface, Kind: c.Hook}
		if j, ok := first[h]; ok && c.Interface != "" && c.Hook != "" {
			m.check(true, at, fmt.Sprintf("the hook %s has a chain already: chains[%d]", clip(h.String()), j), "put all programs of a hook in one chain")
		} else if !ok {
			first[h] = i
		}
	}
	names := make(map[string]int)
	for i := range s.Probes {
		at, p := index("probes", i), &s.Probes[i]
		if m.seen[at] {
			continue
		}
		m.name(at, p.Name, "probe", names, i, "probes")
		m.source(at, p.Package, p.Object, p.Entry)
		if _, err := NormalAttach(p.Attach); err != nil {
			m.check(true, at+".attach", err.Error(), "")
		}
		m.settings(at, p.Settings)
		m.instance(at, p.Settings, instances)
	}
}

func (m *mistakes) checkChain(at string, c *Chain, instances map[string]instanceUse) {
	m.iface(at+".interface", c.Interface)
	if c.Netns != "" {
		m.netns(at+".netns", c.Netns)
	}
	known := false
	switch c.Hook {
	case XDP, TCIngress, TCEgress:
		known = true
	case "":
		m.check(true, at+".hook", "is required", "possible: "+strings.Join(words(HookKinds()), ", "))
	default:
		m.unknown(at+".hook", "hook", string(c.Hook), words(HookKinds()))
	}
	modes := []Mode{Auto, Native, Generic, Offload}
	if c.Mode != "" {
		if !slices.Contains(words(modes), string(c.Mode)) {
			m.unknown(at+".mode", "mode", string(c.Mode), words(modes))
		}
		m.check(known && c.Hook != XDP, at+".mode", fmt.Sprintf("only xdp has modes, not %s", c.Hook), "leave it out")
	}
	m.check(len(c.Programs) == 0, at+".programs", "must name at least one program", "")
	names := make(map[string]int)
	for i := range c.Programs {
		pat, p := index(at+".programs", i), &c.Programs[i]
		if m.seen[pat] {
			continue
		}
		m.name(pat, p.Name, "program", names, i, at+".programs")
		m.source(pat, p.Package, p.Object, p.Entry)
		m.check(p.Next != "" && !isName(p.Next, "._"), pat+".next", quote(p.Next)+" is not the name of a map", "")
		m.proceed(pat+".proceed", c.Hook, known, p.Proceed)
		m.settings(pat, p.Settings)
		m.instance(pat, p.Settings, instances)
	}
}

// instanceUse is the first program that names an instance.
type instanceUse struct {
	at     string
	change MapChange
}

// instance checks what the users of a package instance must agree on.
func (m *mistakes) instance(at string, s Settings, seen map[string]instanceUse) {
	if s.Instance == "" {
		return
	}
	change := s.OnMapChange
	if change == "" {
		change = RefuseMapChange
	}
	if first, ok := seen[s.Instance]; !ok {
		seen[s.Instance] = instanceUse{at, change}
	} else if first.change != change {
		m.check(true, at+".onMapChange", fmt.Sprintf("is %s here and %s at %s, which shares its maps (instance %s)", change, first.change, first.at, quote(s.Instance)),
			"write the same for all programs of an instance")
	}
}

// iface checks a name as the kernel does (dev_valid_name in net/core/dev.c).
func (m *mistakes) iface(at, s string) {
	const hint = "1 to 15 bytes without '/', ':' and space, or a glob such as eth*"
	if s == "" {
		m.check(true, at, "is required", "")
		return
	}
	bad := strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r) }) || !utf8.ValidString(s)
	if IsGlob(s) {
		_, err := path.Match(s, "")
		m.check(bad || err != nil || len(s) > 128, at, quote(s)+" is not a valid glob", hint)
		return
	}
	m.check(bad || len(s) > 15 || s == "." || s == "..", at, quote(s)+" is not a valid interface name", hint)
}

func (m *mistakes) netns(at, s string) {
	bad := len(s) > 4095 || !printable(s)
	if strings.HasPrefix(s, "/") {
		bad = bad || path.Clean(s) != s || s == "/"
	} else {
		bad = bad || len(s) > 255 || strings.Contains(s, "/") || s == "." || s == ".."
	}
	m.check(bad, at, quote(s)+" is not a network namespace", "a name under /run/netns, or an absolute path")
}

const nameHint = "1 to 63 letters, digits, '.', '_' and '-', the first a letter or digit"

// validName checks names that become parts of paths and of symbols.
func validName(s string) bool {
	return isName(s, "._-") && isName(s[:1], "") && len(s) <= 63
}

// name checks the name of a program or probe and that no sibling has it.
func (m *mistakes) name(at, s, what string, seen map[string]int, i int, list string) {
	if s == "" {
		m.check(true, at+".name", "is required", "")
		return
	}
	m.check(!validName(s), at+".name", quote(s)+" is not a valid name", nameHint)
	if j, ok := seen[s]; ok {
		m.check(true, at+".name", fmt.Sprintf("another %s is named %s: %s", what, quote(s), index(list, j)), "")
	} else {
		seen[s] = i
	}
}

func (m *mistakes) source(at, pkg, object, entry string) {
	m.check(pkg == "", at+".package", "is required", "builtin:NAME, a directory, an archive, or an object file")
	m.check(!printable(pkg) || len(pkg) > 4095, at+".package", quote(pkg)+" is not a package", "builtin:NAME, a directory, an archive, or an object file")
	m.check(object != "" && !inside(object), at+".object", quote(object)+" is not a path inside the package", "")
	m.check(entry != "" && !isName(entry, "._"), at+".entry", quote(entry)+" is not the name of a program", "the name of a function in the object file")
}

func (m *mistakes) proceed(at string, hook HookKind, known bool, list []Verdict) {
	seen := make(map[Verdict]bool)
	for i, v := range list {
		at := index(at, i)
		if m.seen[at] {
			continue
		}
		if seen[v] {
			m.check(true, at, fmt.Sprintf("%s is there already", quote(string(v))), "")
		}
		seen[v] = true
		if !known { // its hook is the mistake
			continue
		}
		if _, ok := hook.Code(v); ok {
			continue
		}
		possible := words(hook.Verdicts())
		if _, ok := XDP.Code(v); ok {
			m.check(true, at, fmt.Sprintf("%q is a verdict of xdp, not of %s", v, hook), "possible: "+strings.Join(possible, ", "))
		} else if _, ok := TCIngress.Code(v); ok {
			m.check(true, at, fmt.Sprintf("%q is a verdict of TC, not of %s", v, hook), "possible: "+strings.Join(possible, ", "))
		} else {
			m.unknown(at, "verdict", string(v), possible)
		}
	}
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func words[S ~string](list []S) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}

// near finds the word that got was probably meant to be; "" when none is near.
func near(got string, possible []string) string {
	best, least := "", 1<<30
	for _, p := range possible {
		d := distance(strings.ToLower(got), strings.ToLower(p))
		// One slip in three letters, or a word cut short.
		ok := d <= max(1, (len(p)+1)/3) && d < len(p)
		if !ok && len(got) >= 3 && (strings.Contains(p, strings.ToLower(got)) || strings.Contains(strings.ToLower(got), p) && len(p) >= 3) {
			ok = true
		}
		if ok && d < least {
			best, least = p, d
		}
	}
	return best
}

// distance is how many letters must be added, removed, replaced or swapped
// with their neighbour to make b of a. Long strings are far from everything.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 1 << 20
	}
	var older, old []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		older, old, row = old, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := old[j-1]
			if a[i-1] != b[j-1] {
				d++
			}
			d = min(d, old[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, older[j-2]+1)
			}
			row[j] = d
		}
	}
	return row[len(b)]
}
