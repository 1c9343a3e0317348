package artifact

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"l3af"
	"l3af/internal/doc"
	"l3af/internal/near"
)

// Manifest is a package.yaml: what is in a package. That of a bare object
// has a name and nothing else; the object says the rest.
type Manifest struct {
	Name        string
	Version     string
	License     string // SPDX expression, for people: the kernel reads the object's
	Description string
	Programs    []Program
	Globals     []Global
	Maps        []Map
	// Files are paths inside the package of what its agents need.
	Files []string
}

// Program is one program that a package offers at one place.
type Program struct {
	Entry   string        // ELF function
	Object  string        // path inside the package
	Hook    l3af.HookKind // "" for a probe
	Attach  string        // probes: as of l3af.NormalAttach; "" for a hook
	Proceed []l3af.Verdict
	// Chain is "l3af" for a program that calls the next one itself, by entry 0
	// of an array of programs of its own; "" for any other.
	Chain string
	// MapName is that array; "": the only array of one program that it uses.
	MapName     string
	Description string
}

// Global is a global variable that people may set.
type Global struct {
	Name        string
	Default     any // nil: what the object says
	Description string
	Network     bool // its integers are in network byte order
}

// Map is a map whose contents people may set.
type Map struct {
	Name string
	// Default is what the map holds where the document is silent; nil: what it
	// happens to hold, as of maps that the program itself fills.
	Default      []l3af.MapEntry
	Description  string
	Key, Value   string // for people
	KeyNetwork   bool   // its integers are in network byte order
	ValueNetwork bool
}

// chainL3AF marks programs that are written for L3AF.
const chainL3AF = "l3af"

// maxMistakes is how many mistakes of one manifest are worth reading.
const maxMistakes = 100

// ParseManifest reads a package.yaml, strictly. The error is a
// [*l3af.InvalidError] with every mistake, or one of syntax.
func ParseManifest(text []byte) (*Manifest, error) {
	if len(text) > maxManifest {
		return nil, fmt.Errorf("%d bytes are too many: at most %d", len(text), maxManifest)
	}
	tree, err := doc.Parse(text)
	if err != nil {
		return nil, err
	}
	var p parser
	m := p.manifest(tree)
	if len(p.mistakes) > 0 {
		return nil, &l3af.InvalidError{Mistakes: p.mistakes}
	}
	return m, nil
}

type parser struct{ mistakes []l3af.Mistake }

func (p *parser) fail(path, hint, format string, args ...any) {
	if len(p.mistakes) < maxMistakes {
		p.mistakes = append(p.mistakes, l3af.Mistake{Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// object checks the keys of a map.
func (p *parser) object(path string, v any, keys ...string) (map[string]any, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		p.fail(path, "", "want a map with %s, have %s", strings.Join(keys, ", "), kind(v))
		return nil, false
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(keys, k) {
			p.fail(strings.TrimPrefix(path+"."+clip(k), "."), near.Hint(k, keys), "unknown key %q", clip(k))
		}
	}
	return m, true
}

func (p *parser) list(path string, v any) []any {
	l, ok := v.([]any)
	if !ok && v != nil {
		p.fail(path, "", "want a list, have %s", kind(v))
	}
	return l
}

// text reads a string; numbers and booleans are taken as they are written, so
// that version: 1.0 needs no quotes.
func (p *parser) text(path string, m map[string]any, key string, required bool) string {
	at := key
	if path != "" {
		at = path + "." + key
	}
	v, ok := m[key]
	switch v := v.(type) {
	case nil:
		if !ok && required {
			p.fail(at, "", "is required")
		} else if ok {
			p.fail(at, "", "want text, have null")
		}
		return ""
	case string:
		if required && v == "" {
			p.fail(at, "", "is empty")
		}
		return v
	case json.Number, bool:
		return fmt.Sprint(v)
	}
	p.fail(at, "", "want text, have %s", kind(v))
	return ""
}

func (p *parser) order(path string, m map[string]any, key string) bool {
	switch s := p.text(path, m, key, false); s {
	case "network":
		return true
	case "host", "":
	default:
		p.fail(path+"."+key, near.Hint(s, []string{"host", "network"}), "unknown byte order %q", clip(s))
	}
	return false
}

func (p *parser) manifest(v any) *Manifest {
	m, ok := p.object("", v, "apiVersion", "name", "version", "license", "description", "programs", "globals", "maps", "files")
	if !ok {
		return nil
	}
	if s := p.text("", m, "apiVersion", true); s != "" && s != l3af.APIVersion {
		p.fail("apiVersion", "write "+l3af.APIVersion, "unknown version %q", clip(s))
	}
	out := &Manifest{
		Name:        p.text("", m, "name", true),
		Version:     p.text("", m, "version", false),
		License:     p.text("", m, "license", false),
		Description: p.text("", m, "description", false),
	}
	if strings.ContainsFunc(out.Name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) || len(out.Name) > 128 {
		p.fail("name", "", "%q is no name: at most 128 letters, no spaces, no slashes", clip(out.Name))
	}
	type place struct {
		entry, attach string
		hook          l3af.HookKind
	}
	places := map[place]int{}
	list := p.list("programs", m["programs"])
	if _, isList := m["programs"].([]any); len(list) == 0 && (isList || m["programs"] == nil) {
		p.fail("programs", "", "a package has at least one program")
	}
	for i, v := range list {
		path := fmt.Sprintf("programs[%d]", i)
		prog, ok := p.program(path, v)
		if !ok {
			continue
		}
		at := place{prog.Entry, prog.Attach, prog.Hook}
		if first, twice := places[at]; twice {
			p.fail(path, "", "is programs[%d] again", first)
		}
		places[at] = i
		out.Programs = append(out.Programs, prog)
	}
	p.names("globals", m, func(path string, v any) string {
		o, ok := p.object(path, v, "name", "default", "description", "order")
		if !ok {
			return ""
		}
		g := Global{
			Name:        p.text(path, o, "name", true),
			Default:     o["default"],
			Description: p.text(path, o, "description", false),
			Network:     p.order(path, o, "order"),
		}
		out.Globals = append(out.Globals, g)
		return g.Name
	})
	p.names("maps", m, func(path string, v any) string {
		o, ok := p.object(path, v, "name", "default", "description", "key", "value", "key_order", "value_order")
		if !ok {
			return ""
		}
		m := Map{
			Name:         p.text(path, o, "name", true),
			Default:      p.entries(path+".default", o),
			Description:  p.text(path, o, "description", false),
			Key:          p.text(path, o, "key", false),
			Value:        p.text(path, o, "value", false),
			KeyNetwork:   p.order(path, o, "key_order"),
			ValueNetwork: p.order(path, o, "value_order"),
		}
		out.Maps = append(out.Maps, m)
		return m.Name
	})
	for i, v := range p.list("files", m["files"]) {
		at := fmt.Sprintf("files[%d]", i)
		name, ok := v.(string)
		if !ok {
			p.fail(at, "", "want a path inside the package, have %s", kind(v))
		} else if err := fileName(name); err != nil {
			p.fail(at, "", "%v", err)
		} else if slices.Contains(out.Files, name) {
			p.fail(at, "", "%q is there already", clip(name))
		}
		out.Files = append(out.Files, name)
	}
	return out
}

// entries reads the default contents of a map.
func (p *parser) entries(path string, m map[string]any) []l3af.MapEntry {
	v, ok := m["default"]
	if !ok {
		return nil
	}
	entries := []l3af.MapEntry{}
	for i, v := range p.list(path, v) {
		at := fmt.Sprintf("%s[%d]", path, i)
		o, ok := p.object(at, v, "key", "value")
		if !ok {
			continue
		}
		for _, name := range []string{"key", "value"} {
			if _, ok := o[name]; !ok {
				p.fail(at+"."+name, "", "is required")
			}
		}
		entries = append(entries, l3af.MapEntry{Key: o["key"], Value: o["value"]})
	}
	return entries
}

// names reads a list of things whose names differ.
func (p *parser) names(key string, m map[string]any, read func(path string, v any) string) {
	seen := map[string]int{}
	for i, v := range p.list(key, m[key]) {
		path := fmt.Sprintf("%s[%d]", key, i)
		name := read(path, v)
		if first, twice := seen[name]; twice && name != "" {
			p.fail(path+".name", "", "%q is the name of %s[%d] already", clip(name), key, first)
		}
		seen[name] = i
	}
}

func (p *parser) program(path string, v any) (Program, bool) {
	m, ok := p.object(path, v, "entry", "object", "hook", "attach", "proceed", "chain", "map_name", "description")
	if !ok {
		return Program{}, false
	}
	prog := Program{
		Entry:       p.text(path, m, "entry", true),
		Object:      p.text(path, m, "object", true),
		Description: p.text(path, m, "description", false),
	}
	if prog.Object != "" {
		if err := fileName(prog.Object); err != nil {
			p.fail(path+".object", "", "%v", err)
		}
	}
	_, hook := m["hook"]
	_, attach := m["attach"]
	switch {
	case hook && attach:
		p.fail(path, "", "hook and attach exclude each other")
	case !hook && !attach:
		p.fail(path, "hook: xdp, or attach: tracepoint/GROUP/NAME", "says neither its hook nor what to attach to")
	}
	if hook {
		kinds := l3af.HookKinds()
		if s := p.text(path, m, "hook", true); slices.Contains(kinds, l3af.HookKind(s)) {
			prog.Hook = l3af.HookKind(s)
		} else if s != "" {
			p.fail(path+".hook", near.Hint(s, words(kinds)), "unknown hook %q", clip(s))
		}
	}
	if attach {
		if s := p.text(path, m, "attach", true); s != "" {
			normal, err := l3af.NormalAttach(s)
			if err != nil {
				p.fail(path+".attach", "", "%v", err)
			}
			prog.Attach = normal
		}
		if m["proceed"] != nil {
			p.fail(path+".proceed", "", "a probe has no verdict to proceed on")
		}
		for _, key := range []string{"chain", "map_name"} {
			if _, ok := m[key]; ok {
				p.fail(path+"."+key, "", "a probe is not chained")
			}
		}
		return prog, true
	}
	prog.Chain, prog.MapName = p.text(path, m, "chain", false), p.text(path, m, "map_name", false)
	switch {
	case prog.Chain != "" && prog.Chain != chainL3AF:
		p.fail(path+".chain", near.Hint(prog.Chain, []string{chainL3AF}), "nobody knows programs written for %q", clip(prog.Chain))
	case prog.MapName != "":
		prog.Chain = chainL3AF
	}
	for i, v := range p.list(path+".proceed", m["proceed"]) {
		at := fmt.Sprintf("%s.proceed[%d]", path, i)
		s, ok := v.(string)
		if !ok {
			p.fail(at, "", "want a verdict, have %s", kind(v))
			continue
		}
		if prog.Hook == "" {
			continue // which verdicts there are is not known
		}
		verdict := l3af.Verdict(s)
		if _, ok := prog.Hook.Code(verdict); !ok {
			p.fail(at, near.Hint(s, words(prog.Hook.Verdicts())), "unknown verdict %q of %s", clip(s), prog.Hook)
		} else if slices.Contains(prog.Proceed, verdict) {
			p.fail(at, "", "%q is there already", s)
		}
		prog.Proceed = append(prog.Proceed, verdict)
	}
	return prog, true
}

// fileName checks the path of a file that a manifest names.
func fileName(name string) error {
	if err := plainPath(name); err != nil {
		return err
	}
	if name == manifestName || strings.HasPrefix(name, manifestName+"/") {
		return fmt.Errorf("%q is the manifest", clip(name))
	}
	return nil
}

// plainPath checks that a path stays inside the package, and names one file in
// one way.
func plainPath(name string) error {
	switch {
	case strings.HasPrefix(name, "/"):
		return fmt.Errorf("%q is not inside the package: want a path relative to it", clip(name))
	case !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00\n") || len(name) > 255:
		return fmt.Errorf("%q is no plain path inside the package", clip(name))
	}
	return nil
}

func words[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = string(w)
	}
	return out
}

func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("%q", clip(v))
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	}
	return clip(fmt.Sprint(v))
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}
