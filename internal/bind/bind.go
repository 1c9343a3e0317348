// Package bind joins one program of the state document to its package: it
// picks the ELF function, sets its globals and encodes the contents of its maps,
// and says every mistake with its path in the document. It never touches the
// kernel but to ask how many CPUs there may be.
package bind

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"l3af"
	"l3af/internal/artifact"
	"l3af/internal/chain"
	"l3af/internal/host"
	"l3af/internal/near"
	"l3af/internal/value"
)

// Bound is a program of the document, ready to be composed.
type Bound struct {
	Member chain.Member
	// Contents are what the document wants in the program's maps, ordered by
	// the maps' names. Globals outside of read-only data that the document
	// sets, or that the manifest lists, are patches of their section, and only
	// that: another value of theirs is not another program.
	Contents []host.Contents
	Monitors []Monitor // in the document's order, ranges and lists of keys taken apart
	Attach   string    // probes: as of l3af.NormalAttach
	// Priority is where an XDP program written for libxdp wants to run: before
	// those of higher numbers, 50 is usual. It is told and otherwise ignored:
	// the order is the document's. nil: the program does not say.
	Priority *int
}

// Program is [Objects.Program] for one program alone.
func Program(pkg *artifact.Package, kind l3af.HookKind, p l3af.Program, path string) (*Bound, []l3af.Mistake) {
	return new(Objects).Program(pkg, kind, p, path)
}

// Probe is [Objects.Probe] for one probe alone.
func Probe(pkg *artifact.Package, p l3af.Probe, path string) (*Bound, []l3af.Mistake) {
	return new(Objects).Probe(pkg, p, path)
}

// Program binds a program of a chain. path is its place in the document, such
// as chains[1].programs[0]; the mistakes are in its package, entry, proceed,
// config, maps and monitor. Bound is nil when there are mistakes.
func (o *Objects) Program(pkg *artifact.Package, kind l3af.HookKind, p l3af.Program, path string) (*Bound, []l3af.Mistake) {
	b := binder{objects: o, pkg: pkg, path: path, kind: kind}
	if !slices.Contains(l3af.HookKinds(), kind) {
		b.fail("", "", "unknown hook %q", kind)
		return nil, b.mistakes
	}
	row := b.choose(p.Object, p.Entry, "")
	if row == nil {
		return nil, b.mistakes
	}
	if p.PinPath != "" {
		b.refer()
	}
	out := &Bound{Member: chain.Member{Name: p.Name, Spec: b.spec, Entry: row.Entry, Instance: p.Instance, Next: b.next(row, p.Next)}}
	listed := row.Proceed
	said, priority, ok := b.runConfig()
	if out.Priority = priority; ok && len(listed) == 0 {
		if listed = said; len(said) == 0 && len(p.Proceed) == 0 {
			b.fail(".proceed", "", "is required: %q says in its XDP_RUN_CONFIG that it proceeds on nothing", b.entry)
		}
	}
	out.Member.Proceed = b.proceed(p.Proceed, listed)
	return b.finish(out, row.Object, p.Settings)
}

// Probe binds a probe. path is its place in the document, such as probes[0].
// Bound is nil when there are mistakes.
func (o *Objects) Probe(pkg *artifact.Package, p l3af.Probe, path string) (*Bound, []l3af.Mistake) {
	b := binder{objects: o, pkg: pkg, path: path}
	attach, err := l3af.NormalAttach(p.Attach)
	if err != nil {
		b.fail(".attach", "", "%v", err)
		return nil, b.mistakes
	}
	row := b.choose(p.Object, p.Entry, attach)
	if row == nil {
		return nil, b.mistakes
	}
	out := &Bound{
		Member: chain.Member{Name: p.Name, Spec: b.spec, Entry: row.Entry, Instance: p.Instance},
		Attach: b.attach(attach, row.Attach),
	}
	return b.finish(out, row.Object, p.Settings)
}

type binder struct {
	objects  *Objects
	pkg      *artifact.Package
	path     string
	kind     l3af.HookKind // "" for a probe
	spec     *ebpf.CollectionSpec
	prog     *ebpf.ProgramSpec
	entry    string
	used     map[string]bool // maps and data sections; nil: not looked for yet
	mistakes []l3af.Mistake
}

// maxMistakes is how many mistakes of one program are worth reading.
const maxMistakes = 200

func (b *binder) fail(path, hint, format string, args ...any) {
	if len(b.mistakes) < maxMistakes {
		b.mistakes = append(b.mistakes, l3af.Mistake{Path: b.path + path, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// failValue reports what is wrong with a value of the document.
func (b *binder) failValue(path, prefix string, err error) {
	for _, e := range errorsOf(err) {
		b.fail(path+e.Path, e.Hint, "%s%s", prefix, e.Message)
	}
}

func errorsOf(err error) value.Errors {
	if es, ok := err.(value.Errors); ok {
		return es
	}
	return value.Errors{{Message: err.Error()}}
}

func (b *binder) finish(out *Bound, object string, s l3af.Settings) (*Bound, []l3af.Mistake) {
	if len(b.pkg.Objects()) > 1 {
		out.Member.Object = object
	}
	out.Contents = append(b.config(out.Member.Name, s.Config), b.maps(out.Member.Name, s.Maps)...)
	out.Monitors, out.Contents = b.monitors(out.Member.Name, s, out.Contents)
	b.agent(s.Agent)
	if len(b.mistakes) > 0 {
		return nil, b.mistakes
	}
	for i := range out.Contents {
		out.Contents[i].Instance = out.Member.SharedIn(out.Contents[i].Map)
	}
	slices.SortFunc(out.Contents, func(x, y host.Contents) int { return strings.Compare(x.Map, y.Map) })
	return out, nil
}

// place says what kind of program is wanted.
func (b *binder) place() string {
	if b.kind == "" {
		return "probe"
	}
	return string(b.kind)
}

// choose picks the program, loads its object and checks its type. It returns
// nil when there is a mistake.
func (b *binder) choose(object, entry, attach string) *artifact.Program {
	if objects := b.pkg.Objects(); object != "" && !slices.Contains(objects, object) {
		b.fail(".object", near.Hint(object, objects), "package %s has no object %q", b.pkg.Manifest.Name, object)
		return nil
	}
	var row *artifact.Program
	if len(b.pkg.Manifest.Programs) == 0 {
		row = b.chooseBare(object, entry, attach)
	} else if row = b.chooseListed(object, entry, attach); row != nil && !b.load(row.Object) {
		return nil
	}
	if row == nil {
		return nil
	}
	b.entry, b.prog = row.Entry, b.spec.Programs[row.Entry]
	if b.prog == nil {
		b.fail(".package", near.Hint(row.Entry, names(b.spec.Programs)), "package %s: object %s has no program %q, which its manifest names",
			b.pkg.Manifest.Name, row.Object, row.Entry)
		return nil
	}
	if wrong := b.wrongType(b.prog); wrong != "" {
		b.fail(".entry", "", "%q %s", row.Entry, wrong)
		return nil
	}
	return row
}

// chooseListed picks from the manifest.
func (b *binder) chooseListed(object, entry, attach string) *artifact.Program {
	all, in := slices.Clone(b.pkg.Manifest.Programs), "package "+b.pkg.Manifest.Name
	if object != "" {
		in = "object " + clip(object) + " of " + in
		all = slices.DeleteFunc(all, func(p artifact.Program) bool { return p.Object != object })
	}
	var fit, named []*artifact.Program
	var list, entries []string
	for i := range all {
		p := &all[i]
		at := string(p.Hook)
		if at == "" {
			at = "probe"
		}
		list = append(list, fmt.Sprintf("%s (%s)", p.Entry, at))
		if p.Entry == entry {
			named = append(named, p)
		}
		if p.Hook == b.kind && (entry == "" || p.Entry == entry) {
			fit = append(fit, p)
		}
		if p.Hook == b.kind && !slices.Contains(entries, p.Entry) {
			entries = append(entries, p.Entry)
		}
	}
	switch {
	case entry != "" && len(named) == 0:
		b.fail(".entry", near.Hint(entry, entries), "%s has no program %q", in, entry)
	case entry != "" && len(fit) == 0:
		at := string(named[0].Hook)
		if at == "" {
			at = "probe"
		}
		b.fail(".entry", near.Hint("", entries), "%q is %s program, not %s", entry, article(at), b.place())
	case len(fit) == 0:
		b.fail(".package", "it has "+brief(list), "%s has no %s program", in, b.place())
	case len(fit) == 1:
		return fit[0]
	default:
		// A probe may be listed for several events, and the document picks.
		for _, p := range fit {
			if attach != "" && p.Attach == attach {
				return p
			}
		}
		if entry == "" && len(entries) > 1 {
			b.fail(".entry", "write one of "+brief(entries), "is required: %s has %d %s programs", in, len(entries), b.place())
		} else if attach != "" {
			return fit[0]
		} else {
			b.fail(".attach", "", "is required: %q of %s is for several events", fit[0].Entry, in)
		}
	}
	return nil
}

// chooseBare picks from the objects themselves.
func (b *binder) chooseBare(object, entry, attach string) *artifact.Program {
	if object == "" {
		if object = b.holder(entry); object == "" {
			return nil
		}
	}
	if !b.load(object) {
		return nil
	}
	row := &artifact.Program{Object: object, Hook: b.kind, Entry: entry}
	if entry != "" {
		if b.spec.Programs[entry] == nil {
			b.fail(".entry", near.Hint(entry, b.programs(b.fits)), "the object has no program %q", entry)
			return nil
		}
		return row
	}
	fit := b.programs(b.fits)
	if len(fit) > 1 {
		// The ELF section may say more: the direction of tc, the event.
		better := b.programs(func(p *ebpf.ProgramSpec) bool {
			at, err := l3af.NormalAttach(section(p))
			return b.fits(p) && (b.kind == "" && err == nil && at == attach && attach != "" || b.kind != "" && direction(p) == b.kind)
		})
		if len(better) > 0 {
			fit = better
		}
	}
	switch len(fit) {
	case 0:
		var list []string
		for _, n := range names(b.spec.Programs) {
			list = append(list, fmt.Sprintf("%s (%s)", n, typeName(b.spec.Programs[n])))
		}
		hint := "it has no program at all"
		if len(list) > 0 {
			hint = "it has " + brief(list)
		}
		b.fail(".package", hint, "the object has no %s program", b.place())
		return nil
	case 1:
		row.Entry = fit[0]
		if d := direction(b.spec.Programs[fit[0]]); d != "" && d != b.kind {
			b.fail(".entry", fmt.Sprintf("write entry: %s to run it here all the same", fit[0]), "%q is %s program, not %s", fit[0], article(string(d)), b.kind)
			return nil
		}
		return row
	}
	b.fail(".entry", "write one of "+brief(fit), "is required: the object has %d %s programs", len(fit), b.place())
	return nil
}

// holder finds the object of a package without a manifest that has the program:
// the entry, or where there is none any that fits. "" when there is a mistake.
func (b *binder) holder(entry string) string {
	objects := b.pkg.Objects()
	if len(objects) == 1 {
		return objects[0]
	}
	var holders, better, all []string
	var damage error
	for _, name := range objects {
		spec, err := b.objects.open(b.pkg, name)
		if err != nil {
			damage = cmp.Or(damage, fmt.Errorf("object %s: %w", clip(name), err))
			continue
		}
		has, turned := false, false
		for program, p := range spec.Programs {
			if program == entry || entry == "" && b.fits(p) {
				has, turned = true, turned || b.kind != "" && direction(p) == b.kind
			}
			if b.fits(p) {
				all = append(all, program)
			}
		}
		if has {
			holders = append(holders, name)
		}
		if turned {
			better = append(better, name)
		}
	}
	if len(better) > 0 {
		holders = better
	}
	switch {
	case len(holders) == 1:
		return holders[0]
	case len(holders) > 1:
		b.fail(".object", "write one of "+brief(holders), "is required: %d objects of the package have such a program", len(holders))
	case damage != nil:
		b.fail(".package", "", "%v", damage)
	case entry != "":
		slices.Sort(all)
		b.fail(".entry", near.Hint(entry, slices.Compact(all)), "no object of the package has a program %q", entry)
	default:
		b.fail(".package", "its objects are "+brief(objects), "no object of the package has %s program", article(b.place()))
	}
	return ""
}

// programs lists the entries whose program is as wanted.
func (b *binder) programs(ok func(*ebpf.ProgramSpec) bool) []string {
	return slices.DeleteFunc(names(b.spec.Programs), func(n string) bool { return !ok(b.spec.Programs[n]) })
}

func (b *binder) fits(p *ebpf.ProgramSpec) bool { return b.wrongType(p) == "" }

// wrongType says why a program cannot run at the place; "" if it can.
func (b *binder) wrongType(p *ebpf.ProgramSpec) string {
	ok := false
	switch b.kind {
	case "":
		ok = p.Type == ebpf.TracePoint || p.Type == ebpf.RawTracepoint || p.Type == ebpf.Kprobe
	case l3af.XDP:
		ok = p.Type == ebpf.XDP
		if p.AttachType == ebpf.AttachXDPDevMap || p.AttachType == ebpf.AttachXDPCPUMap {
			return fmt.Sprintf("runs from an entry of a map (section %s), not at a hook", section(p))
		}
	default:
		ok = p.Type == ebpf.SchedCLS
	}
	if ok {
		return ""
	}
	if b.kind == "" {
		return fmt.Sprintf("is %s program: probes are tracepoint, raw_tracepoint and kprobe programs", article(typeName(p)))
	}
	return fmt.Sprintf("is %s program, not %s", article(typeName(p)), b.kind)
}

// direction is the hook that the section of a tc program names; "" if none.
func direction(p *ebpf.ProgramSpec) l3af.HookKind {
	if p.Type != ebpf.SchedCLS {
		return ""
	}
	switch p.AttachType {
	case ebpf.AttachTCXIngress:
		return l3af.TCIngress
	case ebpf.AttachTCXEgress:
		return l3af.TCEgress
	}
	return ""
}

// section is the ELF section of a program, without the mark of programs that
// libbpf does not load by itself.
func section(p *ebpf.ProgramSpec) string { return strings.TrimPrefix(p.SectionName, "?") }

// typeName names a program's type as the document would.
func typeName(p *ebpf.ProgramSpec) string {
	switch p.Type {
	case ebpf.UnspecifiedProgram:
		return fmt.Sprintf("typeless (section %s)", clip(section(p)))
	case ebpf.SchedCLS:
		return "tc"
	case ebpf.RawTracepoint:
		return "raw_tracepoint"
	}
	return strings.ToLower(p.Type.String())
}

// article puts a or an before a word.
func article(word string) string {
	if word != "" && strings.ContainsRune("aeiox", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

// proceed is the document's set, else the manifest's or the object's own, else
// the hook's.
func (b *binder) proceed(want, listed []l3af.Verdict) []l3af.Verdict {
	if len(want) == 0 {
		want = listed
	}
	if len(want) == 0 {
		return b.kind.DefaultProceed()
	}
	var all []string
	for _, v := range b.kind.Verdicts() {
		all = append(all, string(v))
	}
	for i, v := range want {
		at := fmt.Sprintf(".proceed[%d]", i)
		if !slices.Contains(all, string(v)) {
			b.fail(at, near.Hint(string(v), all), "%q is no verdict of %s", v, b.kind)
		} else if slices.Contains(want[:i], v) {
			b.fail(at, "", "%q is there already", v)
		}
	}
	return slices.Clone(want)
}

// attach is the event the document names, else the manifest, else the section.
func (b *binder) attach(want, listed string) string {
	if want == "" {
		want = listed
	}
	if want == "" {
		at, err := l3af.NormalAttach(section(b.prog))
		if err != nil || at == "" {
			b.fail(".attach", "write "+l3af.AttachForms, "is required: the section %s of %q does not name an event",
				clip(section(b.prog)), b.entry)
			return ""
		}
		return at
	}
	kind, _, _ := strings.Cut(want, "/")
	if kind == "kretprobe" || kind == "uprobe" || kind == "uretprobe" {
		kind = "kprobe" // the type of all of them
	}
	if kind != typeName(b.prog) {
		b.fail(".attach", "", "%q is %s program: it cannot attach to %s", b.entry, article(typeName(b.prog)), want)
	}
	return want
}

func brief(list []string) string {
	if len(list) > 12 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:12], ", "), len(list)-12)
	}
	return strings.Join(list, ", ")
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}
