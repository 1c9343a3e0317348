package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af/internal/feature"
	"l3af/internal/inspect"
	"l3af/internal/near"
)

func featureObject() object {
	return object{
		name:  "feature",
		short: "Show what this kernel, or a device, can do with BPF",
		verbs: []verb{
			{
				name: "probe", args: "[kernel | dev NAME] [full] [unprivileged] [macros [prefix PREFIX]]", run: featureProbe,
				short: "Ask the kernel, or a device, what it can do",
				long: `Probe tries every type of programs and maps, and every helper of every type. What
the kernel refuses to tell is inconclusive (null in JSON). Helpers that write to
the kernel's log when they are tried are left out, unless full is given.
Unprivileged tries it all without capabilities: what users may use who have none.`,
				example: "  l3af feature probe\n  l3af feature probe dev eth0 -j\n  l3af feature probe kernel macros prefix MY_",
			}, {
				name: "list_builtins", args: "prog_types|map_types|attach_types|link_types|helpers", run: featureBuiltins,
				short: "List the words l3af knows",
			},
		},
	}
}

func featureBuiltins(c *call) error {
	groups := map[string]func() []string{
		"prog_types": inspect.ProgramTypes, "map_types": inspect.MapTypes, "attach_types": inspect.AttachTypes,
		"link_types": inspect.LinkTypes, "helpers": feature.Helpers,
	}
	known := []string{"prog_types", "map_types", "attach_types", "link_types", "helpers"}
	word, err := c.next("group of words: " + strings.Join(known, ", "))
	if err != nil {
		return err
	}
	for _, k := range known {
		if !abbreviates(word, k) {
			continue
		}
		if err := c.end(); err != nil {
			return err
		}
		return c.answer(groups[k](), func(w io.Writer) error {
			_, err := fmt.Fprintln(w, strings.Join(groups[k](), "\n"))
			return err
		})
	}
	return &usageError{fmt.Sprintf("unknown group %q", word), near.Hint(word, known)}
}

// loud are helpers that write to the kernel's log when a program that calls
// them is loaded.
var loud = []string{"bpf_trace_printk", "bpf_trace_vprintk", "bpf_probe_write_user"}

// probed is what was found, section by section.
type probed struct {
	sections []probedSection
}

type probedSection struct {
	key, title, macros string // in JSON, text, and C
	facts              []fact
}

// fact is one line of a section.
type fact struct {
	key   string
	value any    // in JSON
	text  string // for people; "" with macro is for C alone
	macro string // what is defined in C; "" says nothing there
}

// MarshalJSON keeps the order.
func (p *probed) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	for i, s := range p.sections {
		fmt.Fprintf(&b, "%s%q:{", comma(i), s.key)
		for j, f := range s.facts {
			v, err := json.Marshal(f.value)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "%s%q:%s", comma(j), f.key, v)
		}
		b.WriteByte('}')
	}
	return []byte("{" + b.String() + "}"), nil
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

func featureProbe(c *call) error {
	var dev *net.Interface
	full, unprivileged, macros, prefix := false, false, false, ""
	for first := true; c.peek() != ""; first = false {
		switch {
		case first && c.take("kernel"):
		case first && c.take("dev"):
			var err error
			if dev, err = c.device(); err != nil {
				return err
			}
		case c.take("full"):
			full = true
		case c.take("unprivileged"):
			unprivileged = true
		case c.take("macros"):
			macros = true
		case macros && c.take("prefix"):
			var err error
			if prefix, err = c.next("prefix"); err != nil {
				return err
			}
		default:
			return &usageError{what: fmt.Sprintf("unexpected argument %q", c.peek())}
		}
	}
	if os.Geteuid() != 0 && !unprivileged {
		return &hinted{errors.New("probe features: needs root"), "unprivileged says what others may use"}
	}
	if unprivileged && c.inBatch {
		return &usageError{"unprivileged cannot be asked in a batch", "what is asked without rights is remembered: run it by itself"}
	}
	var p *probed
	if unprivileged {
		if err := feature.Unprivileged(func() { p = probe(dev, full) }); err != nil {
			return fmt.Errorf("probe features: %w", err)
		}
	} else {
		p = probe(dev, full)
	}
	if macros {
		return p.macros(c.out, prefix)
	}
	return c.answer(p, p.people)
}

// probe looks at the kernel, or at a device.
func probe(dev *net.Interface, full bool) *probed {
	p := &probed{}
	programs, maps := numbered[ebpf.ProgramType](inspect.ProgramTypes()), numbered[ebpf.MapType](inspect.MapTypes())
	program, mapType, helper, abilities := feature.ProgramType, feature.MapType, feature.Helper, feature.Misc
	if dev != nil {
		programs, maps = feature.DevicePrograms, feature.DeviceMaps
		program = func(t ebpf.ProgramType) feature.Answer { return feature.DeviceProgram(dev.Index, t) }
		mapType = func(t ebpf.MapType) feature.Answer { return feature.DeviceMap(dev.Index, t) }
		helper = func(t ebpf.ProgramType, h asm.BuiltinFunc) feature.Answer {
			return feature.DeviceHelper(dev.Index, t, h)
		}
		abilities = func() []feature.Ability { return feature.DeviceMisc(dev.Index) }
	} else {
		p.sections = append(p.sections, systemConfig())
	}
	p.sections = append(p.sections, probedSection{"syscall_config", "Scanning system call availability...", "System call availability",
		[]fact{about("have_bpf_syscall", "bpf() syscall", feature.Syscall())}})

	kinds := probedSection{key: "program_types", title: "Scanning eBPF program types...", macros: "eBPF program types"}
	calls := probedSection{key: "helpers", title: "Scanning eBPF helper functions...", macros: "eBPF helper functions"}
	for _, t := range programs {
		name, has := string(inspect.ProgramType(t)), program(t)
		kinds.facts = append(kinds.facts, about("have_"+name+"_prog_type", "eBPF program_type "+name, has))
		calls.facts = append(calls.facts, helpers(name, t, has, helper, full))
	}
	shapes := probedSection{key: "map_types", title: "Scanning eBPF map types...", macros: "eBPF map types"}
	for _, t := range maps {
		name := string(inspect.MapType(t))
		shapes.facts = append(shapes.facts, about("have_"+name+"_map_type", "eBPF map_type "+name, mapType(t)))
	}
	misc := probedSection{key: "misc", title: "Scanning miscellaneous eBPF features...", macros: "eBPF misc features"}
	for _, m := range abilities() {
		misc.facts = append(misc.facts, about(m.Name, m.Text, m.Answer))
	}
	p.sections = append(p.sections, kinds, shapes, calls, misc)
	return p
}

// numbered gives the values of an enumeration whose names are known, but for 0.
func numbered[T ~uint32](names []string) []T {
	var all []T
	for i := 1; i < len(names); i++ {
		all = append(all, T(i))
	}
	return all
}

// about is a fact that may be so or not.
func about(key, what string, a feature.Answer) fact {
	f := fact{key: key, value: a, macro: "NO_" + strings.ToUpper(key)}
	switch {
	case !a.Known:
		f.text, f.macro = fmt.Sprintf("%s is inconclusive: %v", what, a.Why), ""
	case a.Yes:
		f.text, f.macro = what+" is available", strings.ToUpper(key)
	default:
		f.text = what + " is NOT available"
	}
	return f
}

func helpers(name string, t ebpf.ProgramType, has feature.Answer, can func(ebpf.ProgramType, asm.BuiltinFunc) feature.Answer, full bool) fact {
	f := fact{key: name + "_available_helpers", text: "eBPF helpers supported for program type " + name + ":"}
	list, unsure := []string{}, []string(nil)
	if !has.Known || !has.Yes {
		f.value, f.text = list, f.text+"\n\tProgram type not supported"
		return f
	}
	for i, h := range feature.Helpers() {
		if i == 0 || !full && slices.Contains(loud, h) {
			continue
		}
		switch a := can(t, asm.BuiltinFunc(i)); {
		case !a.Known:
			unsure = append(unsure, h)
		case a.Yes:
			list = append(list, h)
		}
	}
	f.value = list
	for _, h := range list {
		f.text += "\n\t- " + h
	}
	for _, h := range unsure {
		f.text += "\n\t? " + h + " is inconclusive"
	}
	return f
}

// systemConfig is how the kernel was built and set.
func systemConfig() probedSection {
	s := probedSection{key: "system_config", title: "Scanning system configuration...", macros: "Misc kernel config items"}
	says := map[string]map[int64]string{
		"unprivileged_bpf_disabled": {0: "bpf() syscall for unprivileged users is enabled",
			1: "bpf() syscall restricted to privileged users (without recovery)", 2: "bpf() syscall restricted to privileged users (admin can change)"},
		"bpf_jit_enable": {0: "JIT compiler is disabled", 1: "JIT compiler is enabled", 2: "JIT compiler is enabled with debugging traces in kernel logs"},
		"bpf_jit_harden": {0: "JIT compiler hardening is disabled", 1: "JIT compiler hardening is enabled for unprivileged users",
			2: "JIT compiler hardening is enabled for all users"},
		"bpf_jit_kallsyms": {0: "JIT compiler kallsyms exports are disabled", 1: "JIT compiler kallsyms exports are enabled for root"},
	}
	for _, c := range feature.Sysctls {
		n, err := feature.Sysctl(c.Path)
		f := fact{key: c.Name, value: n, text: says[c.Name][n]}
		switch {
		case err != nil:
			f.value, f.text = -1, fmt.Sprintf("%s is inconclusive: %v", c.Name, err)
		case c.Name == "bpf_jit_limit":
			f.text = fmt.Sprintf("Global memory limit for JIT compiler for unprivileged users is %d bytes", n)
		case f.text == "":
			f.text = fmt.Sprintf("%s is %d", c.Name, n)
		}
		s.facts = append(s.facts, f)
	}
	options, err := feature.Configuration()
	if err != nil {
		s.facts = append(s.facts, fact{key: "config_error", value: err.Error(), text: "The kernel's configuration is inconclusive: " + err.Error()})
		return s
	}
	for _, name := range feature.Options {
		f := fact{key: name, text: name + " is not set"}
		if v, ok := options[name]; ok {
			f.value, f.text = v, name+" is set to "+v
			if name == "CONFIG_HZ" {
				f.macro = name + " " + v
			}
		}
		s.facts = append(s.facts, f)
	}
	return s
}

// people prints what was found in bpftool's words.
func (p *probed) people(w io.Writer) error {
	var b strings.Builder
	for i, s := range p.sections {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(s.title + "\n")
		for _, f := range s.facts {
			b.WriteString(f.text + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// macros prints a header for C.
func (p *probed) macros(w io.Writer, prefix string) error {
	var b strings.Builder
	for i, s := range p.sections {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "/*** %s ***/\n", s.macros)
		if s.key == "helpers" {
			fmt.Fprintf(&b, "/* 1: programs of the type may call the helper; 0: they may not */\n"+
				"#define %[1]sHAVE_PROG_TYPE_HELPER(prog_type, helper) \\\n\t%[1]sBPF__PROG_TYPE_ ## prog_type ## __HELPER_ ## helper\n", prefix)
		}
		for _, f := range s.facts {
			if list, ok := f.value.([]string); ok {
				kind := strings.TrimSuffix(f.key, "_available_helpers")
				for _, h := range feature.Helpers()[1:] {
					can := 0
					if slices.Contains(list, h) {
						can = 1
					}
					fmt.Fprintf(&b, "#define %sBPF__PROG_TYPE_%s__HELPER_%s %d\n", prefix, kind, h, can)
				}
			} else if no, ok := strings.CutPrefix(f.macro, "NO_"); ok {
				fmt.Fprintf(&b, "#define %sNO_%s\n", prefix, no)
			} else if f.macro != "" {
				fmt.Fprintf(&b, "#define %s%s\n", prefix, f.macro)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
