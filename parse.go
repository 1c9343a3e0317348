package l3af

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// ParseState makes a State of a document's tree (nil, bool, string,
// [json.Number], []any, map[string]any). It is strict: unknown keys, wrong
// types, missing keys and bad values are mistakes, and an [*InvalidError]
// tells them all at once, with the state as far as it could be read.
//
// Names of network namespaces and probe attachments come out in their normal
// form: a path under /run/netns as the name, tp/… as tracepoint/….
func ParseState(tree any) (*State, error) {
	var m mistakes
	s := new(State)
	if o := m.object("", tree, "apiVersion", "chains", "probes"); o != nil {
		s.APIVersion = o.text("apiVersion")
		for i, e := range o.list("chains") {
			s.Chains = append(s.Chains, m.chain(index(o.at("chains"), i), e))
		}
		for i, e := range o.list("probes") {
			s.Probes = append(s.Probes, m.probe(index(o.at("probes"), i), e))
		}
		m.state(s)
	}
	return s, m.err()
}

// UnmarshalJSON keeps every digit of the numbers in settings. It is not
// strict; [ParseState] is.
func (s *State) UnmarshalJSON(data []byte) error {
	type plain State
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode((*plain)(s))
}

// Tree is the state as [ParseState] takes it.
func (s *State) Tree() (any, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	err = dec.Decode(&tree)
	return tree, err
}

func (m *mistakes) chain(at string, tree any) Chain {
	o := m.object(at, tree, "interface", "netns", "hook", "mode", "programs", "annotations")
	if o == nil {
		return Chain{}
	}
	c := Chain{
		Interface: o.text("interface"),
		Netns:     netnsName(o.text("netns")),
		Hook:      HookKind(o.text("hook")),
		Mode:      Mode(o.text("mode")),

		Annotations: o.texts("annotations"),
	}
	for i, e := range o.list("programs") {
		c.Programs = append(c.Programs, m.program(index(o.at("programs"), i), e))
	}
	return c
}

// netnsName shortens the path of a named network namespace to its name, so
// that one place has one spelling.
func netnsName(s string) string {
	if !strings.HasPrefix(s, "/") {
		return s
	}
	s = path.Clean(s)
	for _, dir := range []string{"/run/netns/", "/var/run/netns/"} {
		if name, ok := strings.CutPrefix(s, dir); ok && name != "" && !strings.Contains(name, "/") {
			return name
		}
	}
	return s
}

func (m *mistakes) program(at string, tree any) Program {
	o := m.object(at, tree, append([]string{"name", "package", "object", "entry", "proceed", "next"}, settingsKeys...)...)
	if o == nil {
		return Program{}
	}
	p := Program{
		Name:     o.text("name"),
		Package:  o.text("package"),
		Object:   o.text("object"),
		Entry:    o.text("entry"),
		Next:     o.text("next"),
		Settings: o.settings(),
	}
	verdicts := o.list("proceed")
	if verdicts != nil && len(verdicts) == 0 {
		m.add(o.at("proceed"), "must name a verdict", "leave it out for the default of the package")
	}
	for i, e := range verdicts {
		v, ok := e.(string)
		if !ok {
			m.add(index(o.at("proceed"), i), "must be the name of a verdict, not "+kindOf(e), "")
		}
		p.Proceed = append(p.Proceed, Verdict(v))
	}
	return p
}

func (m *mistakes) probe(at string, tree any) Probe {
	o := m.object(at, tree, append([]string{"name", "package", "object", "entry", "attach"}, settingsKeys...)...)
	if o == nil {
		return Probe{}
	}
	p := Probe{
		Name:     o.text("name"),
		Package:  o.text("package"),
		Object:   o.text("object"),
		Entry:    o.text("entry"),
		Attach:   o.text("attach"),
		Settings: o.settings(),
	}
	if normal, err := NormalAttach(p.Attach); err == nil {
		p.Attach = normal
	}
	return p
}

// NormalAttach gives the normal form of where a probe attaches:
// tracepoint/GROUP/NAME, raw_tracepoint/NAME, kprobe/SYMBOL, kretprobe/SYMBOL,
// uprobe/PATH:SYMBOL or uretprobe/PATH:SYMBOL, where PATH is absolute. tp/ and
// raw_tp/ are short for the first two. "" stays "".
func NormalAttach(attach string) (string, error) {
	kind, rest, _ := strings.Cut(attach, "/")
	parts := strings.Split(rest, "/")
	named := !slices.ContainsFunc(parts, func(p string) bool { return !isName(p, "_") })
	switch {
	case attach == "":
		return "", nil
	case (kind == "tracepoint" || kind == "tp") && len(parts) == 2 && named:
		return "tracepoint/" + rest, nil
	case (kind == "raw_tracepoint" || kind == "raw_tp") && len(parts) == 1 && named:
		return "raw_tracepoint/" + rest, nil
	case (kind == "kprobe" || kind == "kretprobe") && isName(rest, "_."):
		return attach, nil
	case kind == "uprobe" || kind == "uretprobe":
		at := strings.LastIndexByte(rest, ':')
		if at > 0 && rest[0] == '/' && path.Clean(rest[:at]) == rest[:at] && printable(rest) && !strings.Contains(rest, " ") && len(rest) <= 4000 && at < len(rest)-1 {
			return attach, nil
		}
	}
	return "", fmt.Errorf("cannot attach to %s: want %s", quote(attach), AttachForms)
}

// AttachForms are the forms of where a probe attaches, for messages.
const AttachForms = "tracepoint/GROUP/NAME, raw_tracepoint/NAME, kprobe/SYMBOL, kretprobe/SYMBOL, uprobe/PATH:SYMBOL or uretprobe/PATH:SYMBOL"

// mistakes collects what is wrong with a document.
type mistakes struct {
	list []Mistake
	seen map[string]bool // paths with a mistake
}

func (m *mistakes) add(path, message, hint string) {
	if m.seen == nil {
		m.seen = make(map[string]bool)
	}
	m.seen[path] = true
	m.list = append(m.list, Mistake{Path: path, Message: message, Hint: hint})
}

// maxMistakes is how many an [InvalidError] tells: who made more made one many times.
const maxMistakes = 100

func (m *mistakes) err() error {
	if len(m.list) == 0 {
		return nil
	}
	return invalid(m.list)
}

// With adds what else is wrong with the document, at places that have no
// mistake yet.
func (e *InvalidError) With(more []Mistake) *InvalidError {
	list := slices.Clone(e.Mistakes)
	for _, m := range more {
		told := slices.ContainsFunc(e.Mistakes, func(o Mistake) bool {
			rest, within := strings.CutPrefix(m.Path, o.Path)
			return o.Path != "" && within && (rest == "" || rest[0] == '.' || rest[0] == '[')
		})
		if !told {
			list = append(list, m)
		}
	}
	return invalid(list)
}

func invalid(list []Mistake) *InvalidError {
	sort.SliceStable(list, func(i, j int) bool { return pathLess(list[i].Path, list[j].Path) })
	if n := len(list) - maxMistakes; n > 0 {
		list = append(list[:maxMistakes:maxMistakes], Mistake{Message: fmt.Sprintf("and %d more mistakes", n)})
	}
	return &InvalidError{Mistakes: list}
}

// pathLess orders paths with their numbers as numbers.
func pathLess(a, b string) bool {
	for a != "" && b != "" {
		if digit(a[0]) && digit(b[0]) {
			na, nb := 0, 0
			for na < len(a) && digit(a[na]) {
				na++
			}
			for nb < len(b) && digit(b[nb]) {
				nb++
			}
			if na != nb {
				return na < nb
			}
			if a[:na] != b[:nb] {
				return a[:na] < b[:nb]
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return a[0] < b[0]
		}
		a, b = a[1:], b[1:]
	}
	return a == "" && b != ""
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// object is a mapping of the document whose keys are read one by one.
type object struct {
	m    *mistakes
	path string
	keys map[string]any
}

// object reports keys other than those known. It returns nil when tree is no
// mapping at all.
func (m *mistakes) object(path string, tree any, known ...string) *object {
	keys, ok := tree.(map[string]any)
	if !ok {
		msg := "must be a mapping, not " + kindOf(tree)
		if path == "" {
			msg = "the document " + msg
		}
		m.add(path, msg, "")
		return nil
	}
	o := &object{m, path, keys}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(known, k) {
			m.unknown(o.at(k), "key", k, known)
		}
	}
	return o
}

func (o *object) at(key string) string { return member(o.path, key) }

// text reads a string; "" when the key is missing.
func (o *object) text(key string) string {
	v, ok := o.keys[key]
	if !ok || v == nil {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		hint := ""
		if n, ok := v.(json.Number); ok {
			hint = fmt.Sprintf("write %q, in quotes", clip(n.String()))
		}
		o.m.add(o.at(key), "must be a string, not "+kindOf(v), hint)
	} else if s == "" {
		o.m.add(o.at(key), "must not be empty", "")
	}
	return s
}

// list reads a list; nil when the key is missing.
func (o *object) list(key string) []any {
	v, ok := o.keys[key]
	if !ok || v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		o.m.add(o.at(key), "must be a list, not "+kindOf(v), "")
	}
	return list
}

func (o *object) mapping(key string) map[string]any {
	v, ok := o.keys[key]
	if !ok || v == nil {
		return nil
	}
	keys, ok := v.(map[string]any)
	if !ok {
		o.m.add(o.at(key), "must be a mapping, not "+kindOf(v), "")
	}
	return keys
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case bool:
		return "a boolean"
	case string:
		return "the string " + quote(v)
	case json.Number:
		return "the number " + clip(v.String())
	case []any:
		return "a list"
	case map[string]any:
		return "a mapping"
	}
	return fmt.Sprintf("a Go %T", v)
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// member is path.key, or path["key"] where the key is no plain word.
func member(path, key string) string {
	if !isName(key, "_-") {
		return path + "[" + quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// isName reports whether s is 1 to 128 ASCII letters, digits and bytes of more.
func isName(s, more string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !digit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 128
}

func quote(s string) string { return strconv.Quote(clip(s)) }

// clip bounds what a message repeats of a document.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:77], "") + "..."
}
