package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"l3af/internal/inspect"
)

// selection is how the objects of a kind are named on the command line.
type selection struct {
	object string // the word of the command line
	noun   string
	by     []inspect.By
}

var (
	progSelection = selection{"prog", "program", []inspect.By{inspect.ID, inspect.Tag, inspect.Pin, inspect.Name}}
	mapSelection  = selection{"map", "map", []inspect.By{inspect.ID, inspect.Name, inspect.Pin}}
	linkSelection = selection{"link", "link", []inspect.By{inspect.ID, inspect.Pin}}
)

// usage is the selection in a usage line.
func (s selection) usage() string {
	words := map[inspect.By]string{
		inspect.ID: "id ID", inspect.Tag: "tag TAG", inspect.Pin: "pinned FILE", inspect.Name: "name NAME",
	}
	ways := make([]string, len(s.by))
	for i, b := range s.by {
		ways[i] = words[b]
	}
	return "{" + strings.Join(ways, " | ") + "}"
}

// selectPrograms takes the words of a selector and opens every program it
// means; the caller closes them. None is an error.
func (c *call) selectPrograms() ([]*ebpf.Program, error) {
	return selected(c, progSelection, inspect.OpenPrograms)
}

// selectMaps is selectPrograms for maps.
func (c *call) selectMaps() ([]*ebpf.Map, error) {
	return selected(c, mapSelection, inspect.OpenMaps)
}

// selectLinks is selectPrograms for links.
func (c *call) selectLinks() ([]link.Link, error) {
	return selected(c, linkSelection, inspect.OpenLinks)
}

// selectProgram takes a selector that means one program; the caller closes it.
func (c *call) selectProgram() (*ebpf.Program, error) {
	list, err := c.selectPrograms()
	return single(progSelection, list, err)
}

// selectMap is selectProgram for a map.
func (c *call) selectMap() (*ebpf.Map, error) {
	list, err := c.selectMaps()
	return single(mapSelection, list, err)
}

// single is the one object of a list, which is closed where there are more.
func single[T interface{ Close() error }](of selection, list []T, err error) (one T, _ error) {
	if err != nil {
		return one, err
	}
	if len(list) > 1 {
		closeAll(list)
		return one, fmt.Errorf("%d %ss are meant: say which by its id", len(list), of.noun)
	}
	return list[0], nil
}

func selected[T any](c *call, of selection, open func(inspect.Selector) ([]T, error)) ([]T, error) {
	s, err := c.selector(of)
	if err != nil {
		return nil, err
	}
	list, err := open(s)
	if err == nil && len(list) == 0 {
		err = fs.ErrNotExist
	}
	return list, of.explain(s, err)
}

// explain says of an error, where it is that there is no such object, what to do.
func (s selection) explain(wanted inspect.Selector, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &hinted{fmt.Errorf("%s %s: there is none", s.noun, wanted), fmt.Sprintf("l3af %s show lists what there is", s.object)}
	}
	if errors.Is(err, unix.EPERM) && os.Geteuid() == 0 {
		return &hinted{err, "root lacks CAP_SYS_ADMIN here, as in a container"}
	}
	return err
}

// found is what show answers a name or a tag of nothing with. In text there is
// nothing to print, and scripts ask by the exit code; in JSON [] is the answer.
func (c *call) found(of selection, wanted inspect.Selector, n int) error {
	if n > 0 || wanted.By == inspect.All || c.opts.asJSON(c.app) || c.output == formatYAML {
		return nil
	}
	return of.explain(wanted, fs.ErrNotExist)
}

// closeAll closes what a selector opened.
func closeAll[T interface{ Close() error }](list []T) {
	for _, o := range list {
		o.Close()
	}
}

// selector takes a selector.
func (c *call) selector(of selection) (inspect.Selector, error) {
	for _, b := range of.by {
		if !c.take(string(b)) {
			continue
		}
		if c.peek() == "" {
			return inspect.Selector{}, &usageError{"nothing follows " + string(b), "a " + of.noun + " is named by " + of.usage()}
		}
		if b == inspect.ID {
			id, err := c.number("id", 32)
			return inspect.Selector{By: b, ID: uint32(id)}, err
		}
		text, err := c.next(string(b))
		return inspect.Selector{By: b, Text: text}, err
	}
	what := fmt.Sprintf("no %s is named", of.noun)
	if word := c.peek(); word != "" {
		what = fmt.Sprintf("unknown word %q", word)
	}
	return inspect.Selector{}, &usageError{what, "a " + of.noun + " is named by " + of.usage()}
}

// lastSelector takes a selector that may be missing, which means all, and fails
// when words are left.
func (c *call) lastSelector(of selection) (s inspect.Selector, err error) {
	if c.peek() != "" {
		if s, err = c.selector(of); err != nil {
			return s, err
		}
	}
	return s, c.end()
}

// inspect is what to find out besides: who holds what, what of it is ours, and
// what the options ask for.
func (c *call) inspect() (inspect.Options, error) {
	debug.SetGCPercent(400) // a listing is done before collecting garbage pays
	ours, err := inspect.ReadOurs()
	return inspect.Options{Pins: c.opts.bpffs, Holders: new(inspect.Holders), Ours: ours, Locate: true}, err
}

// show is the verb show of a kind of object: it reads what a selector means,
// and prints each as print does.
func show[T any](c *call, of selection, read func(inspect.Selector, inspect.Options) ([]T, error),
	chain func(*T) *inspect.Chain, print func(io.Writer, *T)) error {
	s, err := c.lastSelector(of)
	if err != nil {
		return err
	}
	o, err := c.inspect()
	if err != nil {
		return err
	}
	list, err := read(s, o)
	if err != nil {
		return of.explain(s, err)
	}
	if err := c.found(of, s, len(list)); err != nil {
		return err
	}
	c.noteHolders(o.Holders)
	chains := make([]*inspect.Chain, len(list))
	for i := range list {
		chains[i] = chain(&list[i])
	}
	c.packages(chains)
	return answerList(c, list, s.By != inspect.All, func(w io.Writer) error {
		var b strings.Builder
		for i := range list {
			print(&b, &list[i])
		}
		_, err := io.WriteString(w, b.String())
		return err
	})
}

// noteHolders says how it was found out who holds what, where that is not all.
func (c *call) noteHolders(h *inspect.Holders) {
	if !h.Iterator {
		fmt.Fprintf(c.err, "note: only processes that /proc shows are told: %v\n", h.Why)
	}
}
