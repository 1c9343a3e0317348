package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"l3af/internal/doc"
	"l3af/internal/near"
)

// object is one kind of thing the kernel has, with bpftool's verbs for it.
type object struct {
	name  string
	short string
	long  string
	verbs []verb // the first is meant when none is named
}

// verb is one command of an object, as in "prog show".
type verb struct {
	name    string
	aliases []string // list for show
	args    string   // of the usage line: "[PROG]"
	short   string
	long    string
	example string
	flags   func(*pflag.FlagSet)
	run     func(c *call) error
}

// call is one call of a verb.
type call struct {
	*app
	words
	ctx  context.Context
	opts *objectOptions
}

// objectOptions are those of bpftool, at any place of the line, and one of ours.
type objectOptions struct {
	json, pretty bool
	bpffs        bool // show where objects are pinned
	compat       bool // the root of JSON is an object or an array by count, as bpftool's
	debug        bool // verifier logs, whole
	// Taken for the sake of scripts; nothing here needs them.
	mapcompat, nomount, useLoader, legacy bool
}

func (o *objectOptions) register(f *pflag.FlagSet) {
	f.BoolVarP(&o.json, "json", "j", false, "print JSON")
	f.BoolVarP(&o.pretty, "pretty", "p", false, "print JSON, indented")
	f.BoolVarP(&o.bpffs, "bpffs", "f", false, "show where objects are pinned")
	f.BoolVar(&o.compat, "bpftool-compat", false, "with JSON: one match is an object, several are an array, as of bpftool")
	f.BoolVarP(&o.debug, "debug", "d", false, "print what the verifier says")
	f.BoolVarP(&o.mapcompat, "mapcompat", "m", false, "")
	f.BoolVarP(&o.nomount, "nomount", "n", false, "")
	f.BoolVarP(&o.useLoader, "use-loader", "L", false, "")
	f.BoolVarP(&o.legacy, "legacy", "l", false, "")
	for _, name := range []string{"mapcompat", "nomount", "use-loader", "legacy"} {
		_ = f.MarkHidden(name)
	}
}

// objects are those of bpftool, in the order in which abbreviations are tried.
func objects() []object {
	return []object{
		batchObject(),
		progObject(),
		mapObject(),
		linkObject(),
		cgroupObject(),
		perfObject(),
		netObject(),
		featureObject(),
		btfObject(),
		structOpsObject(),
		iterObject(),
		tokenObject(),
	}
}

// newObject makes the commands of an object.
func newObject(a *app, o object) *cobra.Command {
	opts := &objectOptions{}
	cmd := &cobra.Command{Use: o.name, Short: o.short, Long: o.long, Args: cobra.ArbitraryArgs}
	opts.register(cmd.PersistentFlags())
	names := make([]string, len(o.verbs))
	for i, v := range o.verbs {
		names[i] = v.name
		sub := &cobra.Command{
			Use: strings.TrimSpace(v.name + " " + v.args), Aliases: v.aliases, Short: v.short, Long: v.long, Example: v.example,
			Args:              cobra.ArbitraryArgs,
			RunE:              func(cmd *cobra.Command, args []string) error { return a.verb(cmd, v, opts, args) },
			ValidArgsFunction: complete(o, v),
		}
		if v.flags != nil {
			v.flags(sub.Flags())
		}
		cmd.AddCommand(sub)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return a.verb(cmd, o.verbs[0], opts, nil)
		case args[0] == "help" && opts.asJSON(a): // null, as of bpftool
			return printJSONAs(a.out, nil, false)
		case args[0] == "help":
			return cmd.Help()
		}
		return a.told(opts, &usageError{fmt.Sprintf("unknown command %q", o.name+" "+args[0]), near.Hint(args[0], names)})
	}
	return cmd
}

func (a *app) verb(cmd *cobra.Command, v verb, opts *objectOptions, args []string) error {
	c := &call{app: a, words: args, ctx: cmd.Context(), opts: opts}
	err := v.run(c)
	return a.told(opts, err)
}

// errTold is an error that was printed as JSON already.
type errTold struct{ error }

func (e *errTold) Unwrap() error { return e.error }

// told prints an error as JSON where that is asked for, as bpftool does on
// standard output.
func (a *app) told(opts *objectOptions, err error) error {
	if already := (*errTold)(nil); err == nil || !opts.asJSON(a) || errors.As(err, &already) {
		return err
	}
	if printJSONAs(a.out, map[string]string{"error": strings.TrimSpace(err.Error())}, opts.pretty) != nil {
		return err
	}
	return &errTold{err}
}

func (o *objectOptions) asJSON(a *app) bool { return o.json || o.pretty || a.output == formatJSON }

// answer prints v as JSON or YAML where that is asked for; else it calls people.
func (c *call) answer(v any, people func(w io.Writer) error) error {
	switch {
	case c.opts.asJSON(c.app):
		return printJSONAs(c.out, v, c.opts.pretty || c.output == formatJSON)
	case c.output == formatYAML:
		text, err := doc.YAML(v)
		if err != nil {
			return err
		}
		_, err = c.out.Write(text)
		return err
	}
	return people(printable{c.out})
}

// answerList is answer for what a selector found: always an array, but for
// --bpftool-compat, where the single match of a selector is an object.
func answerList[T any](c *call, list []T, selected bool, people func(w io.Writer) error) error {
	if c.opts.compat && selected && len(list) == 1 {
		return c.answer(list[0], people)
	}
	if list == nil {
		list = []T{}
	}
	if c.opts.asJSON(c.app) && !c.opts.pretty && c.output != formatJSON && len(list) > 100 {
		return printList(c.out, list)
	}
	return c.answer(list, people)
}

// done is the answer of a verb that only does something: null in JSON.
func (c *call) done() error {
	return c.answer(nil, func(io.Writer) error { return nil })
}

func printJSONAs(w io.Writer, v any, indent bool) error {
	if indent {
		return printJSON(w, v)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printList is printJSONAs of a long list, not indented, by two processors. Each
// element goes by itself: a buffer that grows with all is copied time and again.
func printList[T any](w io.Writer, list []T) error {
	encode := func(list []T) (text bytes.Buffer, err error) {
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		for i := range list {
			if err := e.Encode(&list[i]); err != nil {
				return text, err
			}
			text.Bytes()[text.Len()-1] = ',' // it was a newline
			if i == 0 {
				text.Grow(text.Len() * len(list)) // about what there will be
			}
		}
		return text, nil
	}
	var second bytes.Buffer
	var failed error
	done := make(chan struct{})
	go func() {
		second, failed = encode(list[len(list)/2:])
		close(done)
	}()
	first, err := encode(list[:len(list)/2])
	if <-done; errors.Join(err, failed) != nil {
		return errors.Join(err, failed)
	}
	second.Truncate(second.Len() - 1)
	_, err = io.Copy(w, io.MultiReader(strings.NewReader("["), &first, &second, strings.NewReader("]\n")))
	return err
}

// words are the arguments of a verb that are not read yet.
type words []string

// peek is the next word, "" at the end.
func (w words) peek() string {
	if len(w) == 0 {
		return ""
	}
	return w[0]
}

// next takes a word; what says what it must be.
func (w *words) next(what string) (string, error) {
	if len(*w) == 0 {
		return "", &usageError{what: "no " + what}
	}
	word := (*w)[0]
	*w = (*w)[1:]
	return word, nil
}

// take takes the next word if it is the keyword or an abbreviation of it.
func (w *words) take(keyword string) bool {
	if len(*w) == 0 || !abbreviates((*w)[0], keyword) {
		return false
	}
	*w = (*w)[1:]
	return true
}

// number takes a word that is a number, decimal or with 0x, of at most so many bits.
func (w *words) number(what string, bits int) (uint64, error) {
	word, err := w.next(what)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(word, 0, bits)
	if err != nil {
		return 0, &usageError{what: fmt.Sprintf("%s %q: must be a number below 2^%d", what, word, bits)}
	}
	return n, nil
}

// end fails when words are left.
func (w words) end() error {
	if len(w) > 0 {
		return &usageError{what: fmt.Sprintf("unexpected argument %q", w[0])}
	}
	return nil
}

func abbreviates(word, keyword string) bool { return word != "" && strings.HasPrefix(keyword, word) }

// bpftoolLine turns a line in bpftool's style into one in ours: options that
// stand before an object go behind it, objects and verbs may be abbreviated,
// the first in bpftool's order wins; a negative number is a value, no option;
// -V asks for the version, whatever else there is. Other lines are left as they are.
func bpftoolLine(root *cobra.Command, objects []object, args []string) []string {
	at := 0
	for at < len(args) && bpftoolOption(args[at]) {
		at++
	}
	if slices.ContainsFunc(args[:at], asksVersion) {
		return versionLine(args[:at])
	}
	if at == len(args) || strings.HasPrefix(args[at], "-") {
		return args
	}
	ours := slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == args[at] || c.HasAlias(args[at]) })
	i := slices.IndexFunc(objects, func(o object) bool { return o.name == args[at] })
	if i < 0 && !ours {
		i = slices.IndexFunc(objects, func(o object) bool { return abbreviates(args[at], o.name) })
	}
	if i < 0 {
		return args
	}
	o, before, rest := objects[i], args[:at], slices.Clone(args[at+1:])
	if slices.ContainsFunc(rest, asksVersion) {
		return versionLine(args)
	}
	if v := slices.IndexFunc(rest, func(s string) bool { return !bpftoolOption(s) }); v >= 0 && !o.has(rest[v]) {
		if j := slices.IndexFunc(o.verbs, func(c verb) bool {
			return slices.ContainsFunc(append(c.aliases, c.name), func(name string) bool { return abbreviates(rest[v], name) })
		}); j >= 0 {
			rest[v] = o.verbs[j].name
		}
	}
	line := slices.Concat(rest, before)
	if n := slices.IndexFunc(line, negative); n >= 0 {
		options := slices.DeleteFunc(slices.Clone(line[n:]), func(s string) bool { return !bpftoolOption(s) })
		words := slices.DeleteFunc(line[n:], bpftoolOption)
		line = slices.Concat(line[:n:n], options, []string{"--"}, words)
	}
	return slices.Concat([]string{o.name}, line)
}

func negative(s string) bool {
	return len(s) > 1 && s[0] == '-' && (s[1] == '.' || '0' <= s[1] && s[1] <= '9')
}

func (o *object) has(word string) bool {
	return word == "help" || slices.ContainsFunc(o.verbs, func(v verb) bool { return v.name == word || slices.Contains(v.aliases, word) })
}

// bpftoolOption says whether a word is one of bpftool's options that take no value.
func bpftoolOption(s string) bool {
	switch s {
	case "--json", "--pretty", "--bpffs", "--mapcompat", "--nomount", "--debug", "--use-loader", "--legacy", "--bpftool-compat", "--version":
		return true
	}
	return len(s) > 1 && s[0] == '-' && s[1] != '-' && strings.Trim(s[1:], "jpfmndlLV") == ""
}

func asksVersion(s string) bool {
	return s == "--version" || bpftoolOption(s) && s[1] != '-' && strings.Contains(s, "V")
}

const versionName = "version"

// versionLine asks for the version, in the format that the options ask for.
func versionLine(options []string) []string {
	line := []string{versionName}
	if asksJSON(options) {
		line = append(line, "-j")
	}
	for i, o := range options {
		switch {
		case strings.HasPrefix(o, "--output="), len(o) > 2 && strings.HasPrefix(o, "-o"):
			line = append(line, o)
		case (o == "-o" || o == "--output") && i+1 < len(options):
			line = append(line, o, options[i+1])
		}
	}
	return line
}

func asksJSON(line []string) bool {
	return slices.ContainsFunc(line, func(s string) bool {
		return s == "--json" || s == "--pretty" || bpftoolOption(s) && s[1] != '-' && strings.ContainsAny(s, "jp")
	})
}
